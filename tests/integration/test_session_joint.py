"""Claims about many sessions that are lost at once: one connection holds the locks of all, as if it were each one's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf

import psycopg
import pytest

from highlanderd.core.effects import Release
from highlanderd.core.events import Attached, Contended, Detached, Overruled, Renewed, Unlocked
from highlanderd.core.key import LockKey
from highlanderd.core.lease import Lengths
from highlanderd.core.states import Cause
from highlanderd.postgres.joint import JointConnection
from highlanderd.system.linux import boottime
from tests.support.postgres import Database
from tests.support.session import Desk, Line, desk, row_of, settle
from tests.support.wait import until, wait_for

KEYS: dict[str, LockKey] = {"beat": "", "relay": (7, -52318), "clock": 4711, "mail": ""}
LEASE = 30.0
HELD = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = %s
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
UNHELD = """
SELECT count(*) = 0 FROM pg_locks
 WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
BLOCKED = "SELECT count(*) FROM pg_locks WHERE locktype <> 'advisory' AND NOT granted"
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s"


async def lead(here: Desk, database: Database, keys: dict[str, LockKey]) -> list[Line]:
    """Return lines that lead, each on a connection of its own."""
    lines = [await here.line(program, key=key) for program, key in keys.items()]
    settle(database)
    for line in lines:
        await line.lead()
        line.session.note_stake(boottime() + LEASE)
    await until(lambda: all("begin_terms" in line.session.asked and idle(line) for line in lines))
    return lines


def idle(line: Line) -> bool:
    return line.session.connection is not None and line.session.connection.wire.idle


async def lose(lines: Sequence[Line]) -> None:
    """Cut the connections of all in one turn, and hear that each has another one."""
    for wire in {line.session.connection.wire for line in lines if line.session.connection is not None}:
        wire.drop("cut")
    for line in lines:
        await line.told(Detached)
    for line in lines:
        await line.told(Attached)


async def take_back(lines: Sequence[Line], lease: float = LEASE) -> list[Renewed]:
    """Ask until each has its lock: the server may have to end the former sessions first."""
    found: list[Renewed] = []
    for line in lines:
        line.session.asked.clear()
        line.renew(1, lease)
    for line in lines:
        while not isinstance(event := await line.next(), Renewed):
            assert isinstance(event, Contended), event
            line.renew(1, lease)
        found.append(event)
    return found


@asynccontextmanager
async def joined(database: Database, keys: dict[str, LockKey] = KEYS) -> AsyncIterator[list[Line]]:
    """Yield lines whose locks one connection holds."""
    async with desk(database.dsn, lease=LEASE) as here:
        lines = await lead(here, database, keys)
        await lose(lines)
        await take_back(lines)
        assert len({joint_of(line) for line in lines}) == 1
        yield lines


def joint_of(line: Line) -> JointConnection:
    assert line.session.joint is not None
    return line.session.joint


def pid_of(line: Line) -> int:
    assert line.session.connection is not None
    return line.session.connection.pid


def held_by(database: Database, pid: int) -> int:
    """Return how many advisory locks a backend has."""
    return int(database.sql(HELD, [pid])[0][0])


def rows(database: Database, lines: Sequence[Line], columns: str) -> list[tuple[object, ...]]:
    return [row_of(database, line, columns) for line in lines]


def test_one_connection_takes_the_locks_of_many_back_and_their_rows_name_it(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            lines = await lead(here, database, KEYS)
            before = rows(database, lines, "renewal::int")
            await lose(lines)
            told = await take_back(lines)
            pid = pid_of(lines[0])
            assert {pid_of(line) for line in lines} == {pid}
            assert held_by(database, pid) == 2 * len(lines)
            assert {one.lengths for one in told} == {Lengths.alike(LEASE)}
            named = (pid, joint_of(lines[0]).connection.identified)
            assert rows(database, lines, "backend_pid, backend_start") == [named] * len(lines)
            assert [
                int(str(now)) - int(str(then))
                for (now,), (then,) in zip(rows(database, lines, "renewal::int"), before, strict=True)
            ] == [1] * len(lines)
            assert all(line.session.granted and not line.session.undivided for line in lines)

    asyncio.run(scenario())


def test_it_renews_all_in_one_statement_and_trust_counts_from_the_sending(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as lines:
            before = rows(database, lines, "renewal::int")
            sent_after = boottime()
            told = await take_back(lines)
            assert len({one.sent for one in told}) == 1
            assert told[0].sent >= sent_after
            assert all(not line.session.asked for line in lines)
            assert held_by(database, pid_of(lines[0])) == 2 * len(lines)
            after = rows(database, lines, "renewal::int")
            assert [int(str(now)) for (now,) in after] == [int(str(then)) + 1 for (then,) in before]

    asyncio.run(scenario())


def test_a_few_have_a_connection_each(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            lines = await lead(here, database, {key: KEYS[key] for key in ("beat", "relay", "clock")})
            await lose(lines)
            assert all(line.session.undivided for line in lines)
            assert len({pid_of(line) for line in lines}) == 3

    asyncio.run(scenario())


def test_a_program_whose_row_is_locked_goes_its_own_way_and_holds_up_no_other(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as [locked, *others]:
            joint = joint_of(locked)
            with psycopg.connect(database.dsn) as other:
                other.execute("SELECT FROM highlander.lease WHERE lock_id = %s FOR UPDATE", [locked.lock_id])
                locked.renew(1, LEASE)
                await take_back(others)
                await locked.told(Detached)
                await locked.told(Attached)
                assert locked.session.undivided
                await until(lambda: joint.connection.wire.idle)
                assert held_by(database, joint.connection.pid) == 2 * len(others)
                other.rollback()
            await take_back([locked])
            assert held_by(database, pid_of(locked)) == 2
            assert all(joint_of(line) is joint for line in others)

    asyncio.run(scenario())


def test_a_row_that_is_locked_when_the_lock_is_taken_back_is_tried_once_more(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            [locked, *others] = lines = await lead(here, database, KEYS)
            await lose(lines)
            wait_for(lambda: _unheld(database), 60, "the former sessions have ended")
            with psycopg.connect(database.dsn) as other:
                other.execute("SELECT FROM highlander.lease WHERE lock_id = %s FOR UPDATE", [locked.lock_id])
                locked.renew(1, LEASE)
                await take_back(others)
                await locked.told(Contended)
                assert locked.session.joint is joint_of(others[0])
                assert held_by(database, pid_of(locked)) == 2 * len(others)
                locked.renew(1, LEASE)
                await locked.told(Detached)
                other.rollback()
            await locked.told(Attached)
            await take_back([locked])
            assert locked.session.undivided

    asyncio.run(scenario())


def test_a_term_that_is_another_ones_is_overruled_and_its_lock_is_not_kept(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            [overruled, *others] = await lead(here, database, KEYS)
            await lose([overruled, *others])
            database.sql("UPDATE highlander.lease SET epoch = epoch + 1 WHERE lock_id = %s", [overruled.lock_id])
            overruled.renew(1, LEASE)
            await take_back(others)
            while not isinstance(event := await overruled.next(), Overruled):
                assert isinstance(event, Contended)
                overruled.renew(1, LEASE)
            assert not overruled.session.granted
            assert held_by(database, pid_of(others[0])) == 2 * len(others)

    asyncio.run(scenario())


def test_a_lock_that_another_session_has_taken_is_contended_until_it_is_free(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            [taken, *others] = await lead(here, database, KEYS)
            pid = pid_of(taken)
            with psycopg.connect(database.dsn, autocommit=True) as other:
                for wire in [line.session.connection.wire for line in (taken, *others) if line.session.connection]:
                    wire.drop("cut")
                wait_for(lambda: not held_by(database, pid), 60, "the former session has ended")
                other.execute("SELECT pg_advisory_lock(%s)", [taken.session.lock.name_lock])
                for line in (taken, *others):
                    await line.told(Detached)
                for line in (taken, *others):
                    await line.told(Attached)
                taken.renew(1, LEASE)
                await take_back(others)
                await taken.told(Contended)
                assert held_by(database, pid_of(taken)) == 2 * len(others)
                other.execute("SELECT pg_advisory_unlock_all()")
            await take_back([taken])
            assert held_by(database, pid_of(taken)) == 2 * len((taken, *others))

    asyncio.run(scenario())


def test_former_sessions_that_still_hold_the_locks_are_ended(database: Database) -> None:
    """Their network died, and the server has not noticed."""

    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            lines = await lead(here, database, KEYS)
            silent = [line.session.connection for line in lines]
            for one in silent:
                assert one is not None
                one.wire._owner.lost("silence")
            for line in lines:
                await line.told(Detached)
            for line in lines:
                await line.told(Attached)
            lines[0].renew(1, LEASE)
            await lines[0].told(Contended)
            await take_back(lines)
            assert held_by(database, pid_of(lines[0])) == 2 * len(lines)

    asyncio.run(scenario())


def test_a_release_frees_one_lock_for_who_waits_and_leaves_the_others(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as [released, *others]:
            pid = pid_of(released)
            with psycopg.connect(database.dsn, autocommit=True) as other:
                waiting = asyncio.to_thread(
                    other.execute, "SELECT pg_advisory_lock(%s)", [released.session.lock.name_lock]
                )
                task = asyncio.create_task(waiting)
                await until(lambda: database.sql(WAITS, [other.info.backend_pid]) == [(1,)])
                await take_back([released, *others])
                assert not task.done()
                await released.release(1)
                await task
            assert row_of(database, released, "released_at IS NOT NULL, reason") == (True, "released")
            assert held_by(database, pid) == 2 * len(others)
            released.session.note_stake(inf)
            await released.told(Detached)
            await released.told(Attached)
            assert released.session.undivided
            await take_back(others)
            assert {pid_of(line) for line in others} == {pid}

    asyncio.run(scenario())


def test_a_release_that_overtakes_a_renewals_answer_costs_the_others_nothing(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as [released, *others]:
            joint = joint_of(released)
            released.renew(1, LEASE)
            await asyncio.sleep(0)
            assert not idle(released), "the renewal is on its way"
            released.session.release(Release(1, Cause.STOPPED, None))
            await released.told(Renewed)
            await released.told(Unlocked)
            released.session.note_stake(inf)
            await released.told(Detached)
            await take_back(others)
            assert all(joint_of(line) is joint for line in others)
            assert held_by(database, joint.connection.pid) == 2 * len(others)

    asyncio.run(scenario())


def test_a_lock_that_is_taken_back_after_its_release_was_asked_for_is_freed_at_once(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            [released, *others] = lines = await lead(here, database, KEYS)
            await lose(lines)
            wait_for(lambda: _unheld(database), 60, "the former sessions have ended")
            await take_back(others)
            released.renew(1, LEASE)
            await asyncio.sleep(0)
            assert not idle(released), "its lock is being taken back"
            released.session.release(Release(1, Cause.STOPPED, None))
            await released.told(Renewed)
            await released.told(Unlocked)
            assert held_by(database, pid_of(others[0])) == 2 * len(others)
            released.session.note_stake(inf)
            await released.told(Detached)
            await take_back(others)

    asyncio.run(scenario())


def test_the_last_one_ends_the_connection(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as lines:
            wire = joint_of(lines[0]).connection.wire
            for line in lines:
                await line.release(1)
                line.session.note_stake(inf)
            for line in lines:
                await line.told(Detached)
                await line.told(Attached)
            assert not wire.open
            assert not lines[0].session.pool.joints.pids

    asyncio.run(scenario())


def test_a_program_that_leaves_the_daemon_has_its_lock_freed(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as [gone, *others]:
            pid = pid_of(gone)
            gone.session.close()
            await take_back(others)
            assert held_by(database, pid) == 2 * len(others)

    asyncio.run(scenario())


def test_one_that_leaves_while_its_lock_is_being_taken_keeps_none(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            [gone, *others] = await lead(here, database, KEYS)
            before = rows(database, [gone], "renewal::int")
            await lose([gone, *others])
            wait_for(lambda: _unheld(database), 60, "the former sessions have ended")
            gone.renew(1, LEASE)
            await asyncio.sleep(0)
            wait_for(lambda: rows(database, [gone], "renewal::int") != before, 60, "it is committed, and not read")
            gone.session.close()
            await take_back(others)
            await take_back(others)
            assert held_by(database, pid_of(others[0])) == 2 * len(others)

    asyncio.run(scenario())


def _unheld(database: Database) -> bool:
    return database.sql(UNHELD) == [(True,)]


def test_its_loss_is_told_to_each_and_another_one_takes_all_back(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as lines:
            pid = pid_of(lines[0])
            database.sql("SELECT pg_terminate_backend(%s, 10000)", [pid], admin=True)
            for line in lines:
                line.renew(1, LEASE)  # before the loop hears of it
            for line in lines:
                await line.told(Detached)
            for line in lines:
                await line.told(Attached)
            await take_back(lines)
            assert len({joint_of(line) for line in lines}) == 1
            assert held_by(database, pid_of(lines[0])) == 2 * len(lines)

    asyncio.run(scenario())


def test_who_has_left_ends_no_connection_that_holds_the_locks_of_others(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as [left, *others]:
            joint = joint_of(left)
            left.session.disconnect("its own trouble", 0.0)
            await left.told(Detached)
            await left.told(Attached)
            assert left.session.undivided
            left.session.ask(lambda _replies, _sent: left.session.post(Contended()), left.session.terminate_old(1))
            await left.told(Contended)  # the row names the joint connection
            await take_back(others)
            assert all(joint_of(line) is joint for line in others)
            await take_back([left])
            assert held_by(database, pid_of(left)) == 2

    asyncio.run(scenario())


def test_a_longer_lease_is_written_there_too(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as lines:
            database.sql("UPDATE highlander.meta SET ceiling = interval '60 s'")
            database.sql("UPDATE highlander.meta SET lease = interval '60 s'")
            told = await take_back(lines)
            assert {one.lengths.wanted.length for one in told} == {60.0}
            told = await take_back(lines, 60.0)
            assert {one.lengths for one in told} == {Lengths.alike(60.0)}
            assert set(rows(database, lines, "extract(epoch FROM trusted_for)::int")) == {(60,)}
            assert len({joint_of(line) for line in lines}) == 1

    asyncio.run(scenario())


def test_a_release_that_follows_a_loss_waits_for_no_lock(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=LEASE) as here:
            lines = await lead(here, database, KEYS)
            await lose(lines)
            for line in lines:
                line.session.release(Release(1, Cause.STOPPED, None))
            for line in lines:
                await line.told(Unlocked)
            assert set(rows(database, lines, "released_at IS NOT NULL")) == {(True,)}
            assert held_by(database, pid_of(lines[0])) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("table", ["lease", "meta"])
def test_what_blocks_all_costs_the_connection_and_no_lock_stays_there(database: Database, table: str) -> None:
    async def scenario() -> None:
        async with joined(database) as lines:
            joint = joint_of(lines[0])
            joint.ask(lambda _replies, _sent: None, ("set", "SELECT set_config('lock_timeout', '1ms', false)", ()))
            with psycopg.connect(database.dsn) as other:
                other.execute(f"LOCK TABLE highlander.{table} IN ACCESS EXCLUSIVE MODE".encode())
                for line in lines:
                    line.renew(1, LEASE)
                for line in lines:
                    await line.told(Detached)
                other.rollback()
            for line in lines:
                await line.told(Attached)
            await take_back(lines)
            assert joint_of(lines[0]) is not joint
            assert held_by(database, pid_of(lines[0])) == 2 * len(lines)

    asyncio.run(scenario())


TROUBLES_ONE = """
CREATE FUNCTION highlander.trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {}; RETURN NEW; END $$;
CREATE TRIGGER trouble BEFORE UPDATE ON highlander.lease FOR EACH ROW WHEN (OLD.program = 'beat')
EXECUTE FUNCTION highlander.trouble();
"""


async def trouble_one(database: Database, lines: Sequence[Line], trouble: str) -> None:
    """Have the row of the first one make trouble, and all of them have another connection because of that."""
    for statement in TROUBLES_ONE.format(trouble).split("\n\n"):
        database.sql(statement)
    soon = "set", "SELECT set_config('statement_timeout', '50ms', false)", ()
    joint_of(lines[0]).ask(lambda _replies, _sent: None, soon)
    for line in lines:
        line.renew(1, LEASE)
    for line in lines:
        await line.told(Detached)
    for line in lines:
        await line.told(Attached)


def test_a_row_that_cannot_be_written_costs_no_other_program_its_term(database: Database) -> None:
    async def scenario() -> None:
        async with joined(database) as [refused, *others]:
            await trouble_one(database, [refused, *others], "RAISE 'not this row'")
            refused.renew(1, LEASE)
            await take_back(others)
            assert all(line.session.undivided for line in others)
            await refused.told(Detached)

    asyncio.run(scenario())


def test_a_row_on_which_a_trigger_sleeps_costs_few_others_their_terms(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("highlanderd.postgres.joint.FEW", 2)

    async def scenario() -> None:
        async with joined(database) as lines:
            await trouble_one(database, lines, "PERFORM pg_sleep(3600)")
            shared = Counter(line.session.joint for line in lines if line.session.joint is not None)
            assert list(shared.values()) == [2]
            await take_back([line for line in lines[1:] if line.session.joint is not lines[0].session.joint])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lock", ["SELECT FROM highlander.lease WHERE program = 'beat' FOR UPDATE", "LOCK TABLE highlander.term"]
)
def test_a_release_keeps_no_other_program_waiting(database: Database, lock: str) -> None:
    """It waits for a locked row on a connection of its own, and for a locked history not at all."""

    async def scenario() -> None:
        async with joined(database) as [released, *others]:
            joint = joint_of(released)
            with psycopg.connect(database.dsn) as other:
                other.execute(lock.encode())
                released.session.release(Release(1, Cause.RESTARTED, None))
                await until(lambda: joint.connection.wire.idle or database.sql(BLOCKED) != [(0,)])
                assert database.sql(BLOCKED) == [(0,)]
                await take_back(others)
                other.rollback()
            if "lease" in lock:
                await released.told(Detached)
                await released.told(Attached)
                await released.release(1)
            else:
                await released.told(Unlocked)
            assert row_of(database, released, "released_at IS NOT NULL") == (True,)
            assert held_by(database, joint.connection.pid) == 2 * len(others)

    asyncio.run(scenario())
