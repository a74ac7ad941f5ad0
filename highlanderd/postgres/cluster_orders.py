"""Write orders that concern the whole cluster into the ledger: programs stopped everywhere, and nodes drained.

Each is committed before it is reported as given, and holds until it is lifted, whichever daemon lives. The notification
only wakes: a daemon that misses it reads the order a fifth of a lease later.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from highlanderd.core.states import Author
from highlanderd.errors import HighlanderError, Unanswered, enumerated
from highlanderd.postgres.ledger import Ledger, LedgerFacts
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.overview import refuse_older
from highlanderd.postgres.replies import Reply, Value, WireLost
from highlanderd.postgres.sql import leading, sharing

SESSION_WITHIN: Final = 2.0
"""Seconds for another session to be opened in place of one that was lost."""
TAKEN_BACK_WITHIN: Final = 5.0
"""Seconds for an order to be taken back that was refused once it was written."""
AGAIN: Final = 0.2
"""Seconds between two attempts."""


class ClusterOrders:
    """Orders to all daemons of a ledger. Each raises HighlanderError when it was not given for certain."""

    def __init__(self, ledger: Ledger, listener: Listener) -> None:
        self._ledger, self._listener = ledger, listener

    async def reach(self) -> None:
        """Return once there is a session. Raises HighlanderError when none comes for a moment."""
        await self._facts()

    async def stop_everywhere(self, name: str, lock_ids: Sequence[int], by: Author) -> None:
        """Stop a program, under all of its lock ids, on every node until it is started everywhere."""
        await self._refuse_unaware(None)
        names = json.dumps([name] * len(lock_ids))
        await self._give("stop_everywhere", sharing.STOP_EVERYWHERE, lock_ids, names, by.name, by.remark)
        await self.note_everywhere("stopped_everywhere", None, name, lock_ids[0], by)

    async def start_everywhere(self, name: str, lock_ids: Sequence[int], by: Author) -> bool:
        """Lift such an order. Return whether there was one."""
        reply = await self._give("start_everywhere", sharing.START_EVERYWHERE, lock_ids)
        await self.note_everywhere("started_everywhere", None, name, lock_ids[0], by)
        return bool(reply.affected)

    async def drain(self, node: str, by: Author, confirm: Callable[[], Awaitable[None]]) -> None:
        """Keep a node from leading anything until it is resumed.

        ``confirm`` is awaited once the order is written, and before any daemon is woken for it: it raises when another
        order, given at the same moment, speaks against this one. That takes it back, and no other drain of that node.
        """
        await self._refuse_unaware(node)
        written = await self._write("drain", sharing.DRAIN, node, by.name, by.remark)
        try:
            await confirm()
        except HighlanderError as refusal:
            await self._take_back(node, written.rows[0], refusal)
            raise
        finally:
            await self._wake()
        await self.note_everywhere("drained", node, None, None, by)

    async def _take_back(self, node: str, written: Sequence[str | None], why: HighlanderError) -> None:
        """Take a drain back that was refused. Raises HighlanderError where that fails for a while."""
        end = asyncio.get_running_loop().time() + TAKEN_BACK_WITHIN
        while True:
            try:
                await self._write("take_drain_back", sharing.TAKE_DRAIN_BACK, node, *written)
                return
            except HighlanderError as error:
                if asyncio.get_running_loop().time() >= end:
                    lift = f"'highlanderctl resume {node}' lifts that"
                    raise HighlanderError(f"{why}; {node} is drained all the same, because {error}; {lift}") from error
            await asyncio.sleep(AGAIN)

    async def resume(self, node: str, by: Author) -> bool:
        """Lift such an order. Return whether there was one."""
        reply = await self._give("resume", sharing.RESUME, node)
        lifted = reply.rows[0][0] != "0"
        if lifted:
            await self.note_everywhere("resumed", node, None, None, by)
        return lifted

    async def _refuse_unaware(self, node: str | None) -> None:
        """Refuse an order that a daemon of an earlier schema on ``node``, or on any node, would not follow."""
        await self._facts()
        reply = await self._listener.answer("unaware", sharing.UNAWARE)
        unaware = sorted(name or "" for (name,) in reply.rows if node in (None, name))
        if unaware:
            raise HighlanderError(
                f"the daemon on {enumerated(unaware)} is too old to follow that order; upgrade highlanderd there, or "
                "give the order to that node alone: highlanderctl stop"
            )

    async def _give(self, name: str, sql: str, *values: Value) -> Reply:
        reply = await self._write(name, sql, *values)
        await self._wake()
        return reply

    async def _write(self, name: str, sql: str, *values: Value) -> Reply:
        refuse_older((await self._facts()).version)
        reply = await self._listener.answer(name, sql, *values)
        if not reply.acknowledged:
            raise HighlanderError(f"PostgreSQL did not confirm it ({reply.warnings[0].text}); look, and try again")
        return reply

    async def _facts(self) -> LedgerFacts:
        """Return the ledger's facts, once there is a session. Raises HighlanderError when none comes for a moment."""
        end = asyncio.get_running_loop().time() + SESSION_WITHIN
        while True:
            try:
                return await self._listener.fresh_facts()
            except Unanswered:
                if asyncio.get_running_loop().time() >= end:
                    raise
            await asyncio.sleep(AGAIN)

    async def _wake(self) -> None:
        """Have all daemons read what stands in the ledger. One that is not woken reads it a fifth of a lease later."""
        with suppress(WireLost):
            await self._listener.inquire("notify", leading.NOTIFY, self._ledger.channel, sharing.ORDERED)

    async def note(self, event: str, node: str | None, program: str | None, lock_id: int | None, by: Author) -> None:
        """Add an order to the events, for people. It stands whether or not that works."""
        await self._note("event", sharing.NOTE_EVENT, event, node, program, lock_id, by.name, by.remark)

    async def note_everywhere(
        self, event: str, node: str | None, program: str | None, lock_id: int | None, by: Author
    ) -> None:
        """Add an order that the ledger holds for all daemons, with the role that has written it."""
        await self._note("order", sharing.NOTE_ORDER, event, node, program, lock_id, by.name, by.remark)

    async def _note(self, name: str, sql: str, *values: Value) -> None:
        if not self._listener.shares:
            return
        with suppress(WireLost):
            await self._listener.inquire(name, sql, *values)
