"""Read the history of leads from the ledger, for people.

A long history takes PostgreSQL up to a second to read. No other session waits for that: the history is read on a
connection of its own, one question at a time, and the pool opens that connection after all others that are wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from math import inf

from highlanderd import choice
from highlanderd.core.occurrences import Occurrence
from highlanderd.core.terms import Former, PastTerm, SkippedTimes
from highlanderd.errors import HighlanderError, NoSuchProgram, listed
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.events import occurrences
from highlanderd.postgres.ledger import Ledger, identifier
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.replies import Reply, Value, WireLost, duration, unanswered
from highlanderd.postgres.sql import dialect
from highlanderd.postgres.sql.remembering import EVENTS, HISTORY
from highlanderd.postgres.sql.scheduling import SKIPPED


class _Reader:
    """A client of the pool that wants one connection, once."""

    urgency = inf

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._connection: Connection | None = None

    def deliver(self, connection: Connection) -> None:
        """Take the connection over."""
        self._connection = connection
        self._arrived.set()

    def keep_alive(self) -> None:
        """Do nothing: the question follows at once."""

    async def ask(self, ledger: Ledger, name: str, sql: str, values: Sequence[Value]) -> Reply:
        """Return the reply to a statement, once there is a connection. Raises WireLost."""
        await self._arrived.wait()
        connection = self._connection
        if connection is None:
            raise WireLost("no connection")
        question = ledger.statement(name, sql, connection.version)
        [reply] = await connection.wire.ask([(question, values)], connection.lease.answer_within)
        return reply

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connection is not None:
            self._connection.wire.drop("the history was read")


class History:
    """The terms of a ledger."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._turn = asyncio.Lock()

    async def read(self, lock_ids: Sequence[int], limit: int) -> tuple[PastTerm, ...]:
        """Return the newest ``limit`` terms of all these lock ids, the newest last. Raises HighlanderError."""
        async with self._turn:
            reply = await self._answer("history", HISTORY, lock_ids, limit)
        if reply.error is not None:
            raise HighlanderError(self._refusal(reply))
        return terms(reply)

    async def skipped(self, lock_ids: Sequence[int], limit: int) -> tuple[SkippedTimes, ...]:
        """Return the newest ``limit`` lines of scheduled times that were skipped, the newest last.

        Raises HighlanderError.
        """
        async with self._turn:
            reply = await self._answer("skipped", SKIPPED, lock_ids, limit)
        if reply.error is not None:
            raise HighlanderError(self._refusal(reply))
        return skips(reply)

    async def events(self, most: int) -> list[Occurrence]:
        """Return the newest events of the cluster, the newest last. Raises HighlanderError."""
        async with self._turn:
            return occurrences(await self._answer("events", EVENTS, most, most))

    async def _answer(self, name: str, sql: str, *values: Value) -> Reply:
        pool, reader = self._pool, _Reader()
        pool.request(reader)
        try:
            async with asyncio.timeout(2 * pool.server.lease.answer_within):
                return await reader.ask(pool.ledger, name, sql, values)
        except WireLost as lost:
            raise unanswered(lost) from lost
        except TimeoutError as late:
            raise unanswered(pool.absence("no connection came about in time")) from late
        finally:
            pool.forget(reader)
            reader.close()

    def _refusal(self, reply: Reply) -> str:
        facts, schema = self._pool.server.facts, self._pool.ledger.schema
        role = "" if facts is None else facts.role
        if reply.sqlstate == dialect.INSUFFICIENT_PRIVILEGE:
            return (
                f"role {role} may not read the history; let an administrator run: GRANT SELECT ON "
                f"{identifier(schema)}.term TO {identifier(role)}"
            )
        if reply.sqlstate in dialect.BLOCKED:
            return "PostgreSQL took too long to read the history; ask for fewer terms, or name programs"
        return reply.error.text if reply.error is not None else ""


def chosen(names: Sequence[str], known: Iterable[tuple[str, int]]) -> set[int]:
    """Return the lock ids of the programs that names, globs and ``all`` choose; of all programs without a name.

    >>> chosen(["web-*", "a"], [("web-1", 1), ("web-1", 2), ("a", 3), ("b", 4)])
    {1, 2, 3}

    Raises NoSuchProgram for a name or glob that chooses none.
    """
    pairs = list(known)
    found = choice.chosen(names, sorted({program for program, _ in pairs}), _not_in_ledger)
    return {lock_id for program, lock_id in pairs if program in found}


def _not_in_ledger(name: str, known: Iterable[str]) -> NoSuchProgram:
    return NoSuchProgram(f"no program {name!r} is in the ledger; it has {listed(known)}")


def terms(reply: Reply) -> tuple[PastTerm, ...]:
    """Return the terms that a reply to ``HISTORY`` holds."""
    return tuple(map(_term, reply.rows))


def _term(row: tuple[str | None, ...]) -> PastTerm:
    program, epoch, node, began, ended, lasted, cause, former_epoch, former_node, former_cause, gap, *told = row
    exit_status, exit_signal, author, remark, scheduled, late, former_scheduled, unpruned = told
    former = None
    if former_epoch is not None:
        former = Former(int(former_epoch), former_node or "", former_cause, former_scheduled)
    return PastTerm(
        program=program or "",
        epoch=int(epoch or 0),
        node=node or "",
        began=began or "",
        ended=ended,
        lasted=duration(lasted),
        cause=cause,
        former=former,
        gap=None if gap is None else duration(gap),
        exit_status=None if exit_status is None else int(exit_status),
        exit_signal=exit_signal,
        author=author,
        remark=remark,
        scheduled=scheduled,
        late=None if late is None else duration(late),
        unpruned=unpruned == "t",
    )


def skips(reply: Reply) -> tuple[SkippedTimes, ...]:
    """Return the times that a reply to ``SKIPPED`` holds."""
    return tuple(
        SkippedTimes(program or "", first or "", last or "", int(times or 0), reason or "", node or "", recorded or "")
        for program, first, last, times, reason, node, recorded in reply.rows
    )
