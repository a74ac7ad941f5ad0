"""Carry orders through PostgreSQL to the node that they concern, and its answers back.

The row of an order is the order: a daemon takes it once, before its deadline, carries it out, and writes the answer
into the row. Notifications only wake; a daemon that misses one looks a fifth of a lease later. An order that no daemon
has taken by its deadline stands no longer. The server's clock measures the deadline, and no other one does.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from highlanderd.core.cluster import ASK
from highlanderd.core.states import Author
from highlanderd.errors import HighlanderError, Interrupted, TimedOut, Unanswered, one_line
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.overview import refuse_older
from highlanderd.postgres.replies import Reply, WireLost, document, unanswered
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import leading, sharing

log = logging.getLogger(__name__)

TAKEN_WITHIN: Final = 4.0
"""Seconds for an order to reach its node; afterwards it stands no longer."""
ANSWER_WITHIN: Final = 4.0
"""Seconds for the answer to come back, beyond what the order waits for. A client of the control socket waits longer."""
MOST_AT_ONCE: Final = 512
"""Orders under way on one node; the rest waits in the ledger until its deadline. The control socket takes as many."""

Answer = dict[str, Any]

_INTERRUPTED: Final[Answer] = {
    "error": {
        "code": Interrupted.code,
        "message": "its worker was replaced before the order had ended; 'highlanderctl cluster' shows what came of it",
    }
}


class Command(Struct, frozen=True):
    """One order for this node, as another one has passed it on."""

    verb: str
    program: str
    arguments: object
    """As its row has them: not checked yet."""
    by: Author


def _command(row: Sequence[str | None]) -> Command:
    arguments = document(row[2])
    verb, program, _, author, role, reason = (one_line(text or "") for text in row)
    command = Command(verb, program, arguments, Author(f"{author}, role {role}", reason))
    if verb != ASK:  # a question is no order
        log.info("ordered by %s: %s %s", command.by.name, command.verb, command.program)
    return command


class Commands:
    """The orders of one ledger. ``run`` takes those for this node; ``send`` gives one to another node."""

    def __init__(
        self,
        server: Server,
        ledger: Ledger,
        listener: Listener,
        *,
        node: str,
        instance: str,
        carry_out: Callable[[Command], Awaitable[Answer]],
    ) -> None:
        """``carry_out`` returns the answer to an order for this node, whether or not that was refused."""
        self._server, self._ledger, self._listener = server, ledger, listener
        self._node, self._instance, self._carry_out = node, instance, carry_out
        self._under_way = 0
        self._inherited = True
        """Whether orders may be left that an earlier worker of this daemon has taken, and has not answered."""

    async def run(self) -> None:
        """Take orders until cancelled."""
        async with asyncio.TaskGroup() as group:
            await self._listener.follow(sharing.ORDERED, lambda: self._take_all(group))

    async def _take_all(self, group: asyncio.TaskGroup) -> None:
        if self._listener.shares and self._inherited:
            values = (self._node, self._instance, json.dumps(_INTERRUPTED))
            reply = await self._listener.inquire("answer_inherited", sharing.ANSWER_INHERITED, *values)
            if not reply.acknowledged:
                return  # once this worker has taken orders, the statement would answer those, too
            self._inherited = False
        while self._listener.shares and self._under_way < MOST_AT_ONCE:
            reply = await self._listener.inquire("take_command", sharing.TAKE_COMMAND, self._node, self._instance)
            if not reply.acknowledged or not reply.rows:
                return
            number, *row = reply.rows[0]
            self._under_way += 1
            group.create_task(self._obey(int(number or 0), row))

    async def _obey(self, number: int, row: Sequence[str | None]) -> None:
        """Carry an order out, and answer it. What goes wrong ends at this order."""
        try:
            await self._answer_to(number, row)
        finally:
            self._under_way -= 1

    async def _answer_to(self, number: int, row: Sequence[str | None]) -> None:
        try:
            answer = await self._carry_out(_command(row))
        except Exception as error:  # noqa: BLE001 - each role that may write to the ledger may write anything
            self._server.notes.unforeseen("an order from another node cannot be carried out", error)
            answer = {"error": {"code": HighlanderError.code, "message": f"it cannot be carried out: {error!r}"}}
        end = asyncio.get_running_loop().time() + ANSWER_WITHIN
        while asyncio.get_running_loop().time() < end:
            with suppress(WireLost):
                reply = await self._store(number, answer)
                if reply.error is not None:  # PostgreSQL stores no NUL, and a child may have written one
                    await self._store(number, {"error": {"code": HighlanderError.code, "message": reply.error.text}})
                return
            await asyncio.sleep(self._server.lease.renew_every)

    async def _store(self, number: int, answer: Answer) -> Reply:
        """Write an answer, and wake who waits for it. Raises WireLost."""
        written = "answer_command", sharing.ANSWER_COMMAND, (number, json.dumps(answer))
        woken = "notify", leading.NOTIFY, (self._ledger.channel, f"{sharing.ANSWERED}{number}")
        return (await self._listener.inquire_both(written, woken))[0]

    # ------------------------------------------------------------------------------------------------------- sending

    async def send(self, node: str, command: Command, patience: float) -> Answer:
        """Return a node's answer to an order. Raises TimedOut when none comes in time, HighlanderError."""
        number, what = await self._write(node, command), f"the order to {command.verb} {command.program}"
        answered = asyncio.Event()
        answered.set()  # the answer may have come before it was listened for: the first look is at once
        end = self._listener.hint(f"{sharing.ANSWERED}{number}", answered.set)
        try:
            answer = await self._answer(number, answered, TAKEN_WITHIN)
            if answer is None and await self._withdrawn(number):
                raise TimedOut(f"{node} has not taken {what} within {TAKEN_WITHIN:g} s, and it stands no longer")
            if answer is None:
                answer = await self._answer(number, answered, patience + ANSWER_WITHIN)
        finally:
            end()
        if answer is None:
            raise TimedOut(f"{node} has taken {what}, and has not answered in time; see 'highlanderctl cluster'")
        return answer

    async def _write(self, node: str, command: Command) -> int:
        """Return the number of an order that stands in the ledger now. Raises HighlanderError."""
        known = self._listener.facts if self._listener.connected else None  # without a session nothing can be sent
        refuse_older((known or await self._listener.fresh_facts()).version)
        arguments, by = json.dumps(command.arguments), command.by
        values = (node, command.verb, command.program, arguments, by.name, by.remark, TAKEN_WITHIN)
        written, woken = ("command", sharing.COMMAND, values), (self._ledger.channel, sharing.ORDERED)
        try:
            reply, _ = await self._listener.inquire_both(written, ("notify", leading.NOTIFY, woken))
        except WireLost as lost:
            unknown = "it is not known whether the order stands; see 'highlanderctl cluster'"
            raise Unanswered(f"{unanswered(lost)}; {unknown}") from lost
        if reply.error is not None:
            raise HighlanderError(reply.error.text)
        if not reply.acknowledged:
            raise HighlanderError(
                f"PostgreSQL did not confirm the order ({reply.warnings[0].text}); look, and try again"
            )
        return int(reply.rows[0][0] or 0)

    async def _answer(self, number: int, answered: asyncio.Event, patience: float) -> Answer | None:
        """Return the answer to an order, None if there is none after so many seconds. PostgreSQL may be away."""
        loop = asyncio.get_running_loop()
        over = loop.time() + patience
        while loop.time() < over:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._server.lease.renew_every, over - loop.time())):
                    await answered.wait()
            answered.clear()
            with suppress(HighlanderError):
                reply = await self._listener.answer("answer_of", sharing.ANSWER_OF, number)
                if reply.rows:
                    answer = document(reply.rows[0][0])
                    return answer if isinstance(answer, dict) else {}
        return None

    async def _withdrawn(self, number: int) -> bool:
        """Take an order back that no daemon has taken; return whether that is certain."""
        with suppress(HighlanderError):
            return bool((await self._listener.answer("withdraw", sharing.WITHDRAW, number)).affected)
        return False
