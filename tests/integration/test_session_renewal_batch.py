"""Claims about renewals that are due together: one statement renews what stays as it is, and decides nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest

from highlanderd.core.events import Attached, Detached, Renewed
from highlanderd.core.key import LockKey
from highlanderd.core.lease import Lengths
from highlanderd.postgres import turn_batch
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.sql.leading import RENEW_MANY
from tests.support.postgres import Cluster, Clusters, Database
from tests.support.session import SHORT_LEASE, Desk, Line, desk, row_of, settle
from tests.support.wait import until, wait_for

KEYS: dict[str, LockKey] = {"beat": "", "relay": (7, -52318), "clock": 4711}
VERSION = "renewal::int"
LEASE = 60.0
"""Seconds. When no answer has come within 6/100 of it, each asks alone: on a busy machine that shall not be."""


async def lead(here: Desk, database: Database, keys: dict[str, LockKey]) -> list[Line]:
    """Return lines that lead, and the names of what they ask from now on."""
    lines = [await here.line(program, key=key) for program, key in keys.items()]
    settle(database)
    for line in lines:
        await line.lead()
    await until(lambda: all("begin_terms" in line.session.asked and _idle(line) for line in lines))
    asked(lines)
    return lines


def _idle(line: Line) -> bool:
    return line.session.connection is not None and line.session.connection.wire.idle


@asynccontextmanager
async def led(database: Database, lease: float = LEASE) -> AsyncIterator[list[Line]]:
    """Yield sessions that lead; their lock keys are of each kind."""
    async with desk(database.dsn, lease=lease) as here:
        yield await lead(here, database, KEYS)


def asked(lines: Sequence[Line]) -> list[str]:
    """Return what they have asked since this was asked last."""
    names = [name for line in lines for name in line.session.asked]
    for line in lines:
        line.session.asked.clear()
    return names


def renew(lines: Sequence[Line], lease: float = LEASE) -> None:
    """Ask for renewals that are due together; the first epoch of a new ledger is 1."""
    for line in lines:
        line.renew(1, lease)


def pid_of(line: Line) -> int:
    assert line.session.connection is not None
    return line.session.connection.pid


def versions(database: Database, lines: Sequence[Line]) -> list[tuple[object, ...]]:
    return [row_of(database, line, VERSION) for line in lines]


def test_one_session_asks_for_all_whatever_their_keys_are_and_trust_counts_from_the_sending(database: Database) -> None:
    async def scenario() -> None:
        async with led(database) as lines:
            before = versions(database, lines)
            renew(lines)
            told = [await line.told(Renewed) for line in lines]
            assert asked(lines) == ["renew_many"]
            assert {one.sent for one in told} == {told[0].sent}
            assert {one.lengths for one in told} == {Lengths.alike(LEASE)}
            after = versions(database, lines)
            assert [number for (number,) in after] == [int(str(number)) + 1 for (number,) in before]
            assert row_of(database, lines[0], "expires_at > now() + interval '50 s'") == (True,)

    asyncio.run(scenario())


def test_more_than_one_statement_takes_are_split(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_batch, "AT_ONCE", 2)

    async def scenario() -> None:
        async with led(database) as lines:
            renew(lines)
            for line in lines:
                await line.told(Renewed)
            assert asked(lines) == ["renew_many", "renew"]

    asyncio.run(scenario())


def test_a_row_that_another_transaction_has_locked_holds_up_no_other_program(database: Database) -> None:
    async def scenario() -> None:
        async with led(database) as [first, locked, last]:
            with psycopg.connect(database.dsn) as other:
                other.execute("SELECT FROM highlander.lease WHERE lock_id = %s FOR UPDATE", [locked.lock_id])
                renew([first, locked, last])
                await first.told(Renewed)
                await last.told(Renewed)
                assert asked([first, locked, last]) == ["renew_many", "renew"]
                other.rollback()
            await locked.told(Renewed)

    asyncio.run(scenario())


def test_a_program_that_nobody_holds_the_lock_of_is_left_to_its_own_session(database: Database) -> None:
    async def scenario() -> None:
        async with led(database) as lines:
            for line in lines[1:]:
                assert line.session.connection is not None
                statement = Ledger("", "", 0.0).statement("unlock", "SELECT pg_advisory_unlock_all()")
                await line.session.connection.wire.ask([(statement, ())], LEASE)
            renew(lines)
            for line in lines:
                await line.told(Renewed)
            assert sorted(asked(lines)) == ["renew", "renew", "renew_many"]

    asyncio.run(scenario())


def test_a_session_that_was_terminated_is_replaced_while_the_others_are_renewed(database: Database) -> None:
    async def scenario() -> None:
        async with led(database) as [first, lost, last]:
            database.sql("SELECT pg_terminate_backend(%s, 10000)", [pid_of(lost)], admin=True)
            renew([first, lost, last])  # before the loop hears of it
            await first.told(Renewed)
            await last.told(Renewed)
            await lost.told(Detached)
            await lost.told(Attached)
            lost.renew(1, LEASE)
            await lost.told(Renewed)
            assert asked([lost])[-1] == "reattach"

    asyncio.run(scenario())


def test_a_session_that_is_lost_meanwhile_is_told_no_answer(database: Database) -> None:
    async def scenario() -> None:
        async with led(database) as [first, lost, last]:
            before = versions(database, [lost])
            renew([first, lost, last])
            await asyncio.sleep(0)
            assert asked([first, lost, last]) == ["renew_many"]
            wait_for(
                lambda: versions(database, [lost]) != before, 60, "it is committed, and the loop has read no answer"
            )
            assert lost.session.connection is not None
            lost.session.connection.wire.drop("cut")
            await first.told(Renewed)
            await last.told(Renewed)
            await lost.told(Detached)
            await lost.told(Attached)
            lost.renew(1, LEASE)
            assert (await lost.told(Renewed)).lengths == Lengths.alike(LEASE)  # one answer to one question
            assert asked([lost])[0] == "reattach"

    asyncio.run(scenario())


def test_the_end_of_the_session_that_asks_leaves_no_other_without_an_answer(database: Database) -> None:
    async def scenario() -> None:
        async with led(database) as [first, *others]:
            renew([first, *others])
            await asyncio.sleep(0)
            assert asked([first, *others]) == ["renew_many"]
            assert first.session.connection is not None
            first.session.connection.wire.drop("cut")
            for line in others:
                await line.told(Renewed)
            assert asked(others) == ["renew", "renew"]
            await first.told(Detached)
            await first.told(Attached)

    asyncio.run(scenario())


def test_a_wait_for_a_standby_that_was_cancelled_renews_no_program(clusters: Clusters) -> None:
    """The statement reports success then, with a warning: a standby may be promoted that never heard of it."""
    primary = clusters.create()
    database = primary.database()

    async def scenario() -> None:
        async with led(database) as lines:
            primary.configure(synchronous_standby_names="nobody_there")
            while not await _renew_and_wait(primary, lines):  # a reload reaches the server's processes one by one
                for line in lines:
                    await line.told(Renewed)
                asked(lines)
            primary.sql("SELECT pg_cancel_backend(%s)", [pid_of(lines[0])])
            await until(lambda: all(line.session.asked[-1:] == ["renew"] for line in lines))
            assert asked(lines) == ["renew_many", "renew", "renew", "renew"]
            primary.configure(synchronous_standby_names="")
            for line in lines:
                await line.told(Renewed)  # as its own session's question was answered

    asyncio.run(scenario())


async def _renew_and_wait(primary: Cluster, lines: Sequence[Line]) -> bool:
    """Renew; return whether the statement for all waits for a standby, once it does or was answered."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
    renew(lines)
    await until(lambda: lines[0].session.asked)
    connection = lines[0].session.connection
    assert connection is not None
    waits = False
    while not connection.wire.idle and not waits:
        waits = bool(primary.sql(waiting, [connection.pid]))
        await asyncio.sleep(0)
    return waits


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.long
def test_a_statement_that_is_not_answered_leaves_each_program_to_its_own_session(database: Database) -> None:
    async def scenario() -> None:
        async with led(database, lease=30.0) as [first, *others]:
            with stopped(pid_of(first)):
                renew([first, *others], 30.0)
                for line in others:
                    await line.told(Renewed)
                assert asked([first, *others]) == ["renew_many", "renew", "renew", "renew"]
            await first.told(Renewed)  # as its own question was answered, behind the one for all
            before = versions(database, others)
            renew([first, *others], 30.0)
            for line in (first, *others):
                await line.told(Renewed)
            after = versions(database, others)
            assert [number for (number,) in after] == [int(str(number)) + 1 for (number,) in before]

    asyncio.run(scenario())


def test_once_the_ledger_wants_another_lease_each_session_asks_and_then_all_together_again(database: Database) -> None:
    async def scenario() -> None:
        async with led(database, LEASE / 2) as lines:
            database.sql(f"UPDATE highlander.meta SET ceiling = interval '{LEASE} s'")
            database.sql(f"UPDATE highlander.meta SET lease = interval '{LEASE} s'")
            renew(lines, LEASE / 2)
            for line in lines:
                assert (await line.told(Renewed)).lengths.wanted.length == LEASE
            assert asked(lines) == ["renew_many", "renew", "renew", "renew"]
            renew(lines)  # the rows still carry the shorter one
            for line in lines:
                assert (await line.told(Renewed)).lengths == Lengths.alike(LEASE)
            assert asked(lines) == ["renew_many", "renew", "renew", "renew"]
            renew(lines)
            for line in lines:
                await line.told(Renewed)
            assert asked(lines) == ["renew_many"]

    asyncio.run(scenario())


@pytest.mark.long
def test_a_session_whose_program_is_renewed_on_another_one_stays(database: Database) -> None:
    async def scenario() -> None:
        async with led(database, SHORT_LEASE) as lines:
            before = [pid_of(line) for line in lines]
            for _ in range(8):  # the server ends a silent session after one lease
                await asyncio.sleep(SHORT_LEASE / 5)
                renew(lines, SHORT_LEASE)
                for line in lines:
                    await line.told(Renewed)
            assert [pid_of(line) for line in lines] == before
            assert set(asked(lines[1:])) <= {"renew"}

    asyncio.run(scenario())


CHANGES = {
    "released": "UPDATE highlander.lease SET released_at = now()",
    "led under another epoch": "UPDATE highlander.lease SET epoch = epoch + 1",
    "led by another daemon": "UPDATE highlander.lease SET instance = gen_random_uuid()",
    "written under a longer lease": "UPDATE highlander.lease SET trusted_for = trusted_for * 2",
    "written under a shorter lease": "UPDATE highlander.lease SET trusted_for = trusted_for / 2",
    "written for another session": "UPDATE highlander.lease SET backend_start = backend_start + 1",
    "written for another backend": "UPDATE highlander.lease SET backend_pid = backend_pid + 1",
    "written on another timeline": "UPDATE highlander.lease SET timeline = timeline + 1",
    "written on another system": "UPDATE highlander.lease SET system = system + 1",
    "promised a shorter lease": "UPDATE highlander.meta SET lease = interval '2 s'; "
    "UPDATE highlander.meta SET ceiling = interval '2 s'",
}


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_a_statement_that_comes_late_undoes_nothing(database: Database, change: str | None) -> None:
    """It is executed as it was meant, after something else has been."""

    async def scenario() -> None:
        async with led(database) as lines:
            values = _meant(database, lines)
            if change is not None:
                for statement in CHANGES[change].split("; "):
                    database.sql(statement)
            before = versions(database, lines)
            with psycopg.connect(database.dsn, autocommit=True) as other:
                text = Ledger("highlander", "", 0.0).statement("late", RENEW_MANY).sql
                other.execute(f"PREPARE late AS {text}".encode())
                other.execute(f"EXECUTE late ({values})".encode())
            renewed = [int(str(number)) + (change is None) for (number,) in before]
            assert [number for (number,) in versions(database, lines)] == renewed

    asyncio.run(scenario())


def _meant(database: Database, lines: Sequence[Line]) -> str:
    """Return the values of a statement for all of them."""

    def array(value: Callable[[Line], object], kind: str) -> str:
        values = ["NULL" if value(line) is None else str(value(line)) for line in lines]
        return f"ARRAY[{', '.join(values)}]::{kind}[]"

    return ", ".join(
        [
            array(lambda line: line.lock_id, "bigint"),
            array(lambda _line: 1, "bigint"),
            f"'{lines[0].instance}'",
            str(LEASE),
            array(pid_of, "integer"),
            array(lambda line: row_of(database, line, "backend_start")[0], "bigint"),
            array(lambda line: line.session.lock.advisory.pair[0], "integer"),
            array(lambda line: line.session.lock.advisory.pair[1], "integer"),
        ]
    )
