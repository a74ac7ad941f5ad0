"""A program's lock connection that is lost, outlived or overruled: what it tells, and what becomes of the old one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from highlanderd.core.events import Attached, Contended, Detached, Overruled, Renewed
from tests.support.postgres import Database
from tests.support.proxy import OpensDoors
from tests.support.session import SHORT_LEASE, Line, desk, locks_of_beat, row_of, settle
from tests.support.wait import until


def _hold_as_former_session(old: psycopg.Connection[Any], line: Line, identified: str = "0 s") -> None:
    """Be the backend that missed its client's death: it is the one in the row, and it holds the lock.

    ``identified`` is how long after its start it said who it is.
    """
    old.execute("SELECT pg_advisory_lock(%s)", [line.lock_id])
    old.execute(
        "UPDATE highlander.lease SET backend_pid = pg_backend_pid(), backend_start = (SELECT (extract(epoch FROM "
        "backend_start + %s::interval) * 1000000)::bigint FROM pg_stat_get_activity(pg_backend_pid()))",
        [identified],
    )


@asynccontextmanager
async def _outlived(database: Database, line: Line, identified: str = "0 s") -> AsyncIterator[psycopg.Connection[Any]]:
    """Return the line a new session beside its old one, which the network has lost and the server has not."""
    with psycopg.connect(database.dsn, autocommit=True) as old:
        line.session.disconnect("its network is gone")
        await line.told(Detached)
        _hold_as_former_session(old, line, identified)
        await line.told(Attached)
        yield old


def test_a_terminated_backend_is_told_and_the_next_session_reattaches(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            [pid] = row_of(database, line, "backend_pid")
            database.sql("SELECT pg_terminate_backend(%s)", [pid])
            await line.told(Detached)
            await line.told(Attached)
            line.renew(granted.epoch)
            await line.told(Renewed)
            assert row_of(database, line, "epoch, renewal") == (granted.epoch, 2)
            assert row_of(database, line, "backend_pid") != (pid,)
            assert locks_of_beat(database) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("identified", ["0 s", "50 s"])
def test_an_old_session_that_outlives_its_network_is_terminated(database: Database, identified: str) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            async with _outlived(database, line, identified) as old:
                line.renew(granted.epoch)
                await line.told(Contended)
                await until(lambda: locks_of_beat(database) == 0)
                line.renew(granted.epoch)
                await line.told(Renewed)
                with pytest.raises(psycopg.OperationalError):
                    old.execute("SELECT 1")

    asyncio.run(scenario())


@pytest.mark.parametrize("identified", ["-1 us", "2 min"])
def test_a_session_that_has_inherited_the_number_of_an_old_one_is_left_alone(
    database: Database, identified: str
) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            async with _outlived(database, line, identified) as other:
                line.renew(granted.epoch)
                await line.told(Contended)
                other.execute("SELECT pg_advisory_unlock_all()")
                line.renew(granted.epoch)
                await line.told(Renewed)

    asyncio.run(scenario())


def test_a_strangers_session_that_holds_the_lock_is_left_alone(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            with psycopg.connect(database.dsn, autocommit=True) as stranger:
                line.session.disconnect("its network is gone")
                await line.told(Detached)
                stranger.execute("SELECT pg_advisory_lock(%s)", [line.lock_id])
                await line.told(Attached)
                line.renew(granted.epoch)
                await line.told(Contended)
                assert stranger.execute("SELECT pg_advisory_unlock(%s)", [line.lock_id]).fetchall() == [(True,)]
                line.renew(granted.epoch)
                await line.told(Renewed)

    asyncio.run(scenario())


def test_a_renewal_that_meets_no_row_is_overruled(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            database.sql("UPDATE highlander.lease SET epoch = epoch + 1")
            line.renew(granted.epoch)
            await line.told(Overruled)

    asyncio.run(scenario())


def test_a_ledger_that_vanished_overrules_and_is_never_created_again(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            database.sql("DROP SCHEMA highlander CASCADE")
            line.renew(granted.epoch)
            await line.told(Overruled)
            line.session.disconnect("to seek another session")
            await line.told(Detached)
            await until(lambda: "is gone" in here.pool.last_error)
            assert database.sql("SELECT to_regclass('highlander.meta')") == [(None,)]

    asyncio.run(scenario())


def test_a_session_that_nobody_asks_stays(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            [before] = database.sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%/beat'")
            await asyncio.sleep(2 * SHORT_LEASE)  # the server ends a silent session after one lease
            [after] = database.sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%/beat'")
            assert before == after
            await line.look()

    asyncio.run(scenario())


def test_a_session_that_was_closed_while_it_connected_is_never_opened(database: Database, door: OpensDoors) -> None:
    way = door(database.dsn)

    async def scenario() -> None:
        async with desk(way.dsn(database.dsn)) as here:
            await here.line()
            await until(lambda: way.connections == 2)  # the line's, and the listener's
            ghost = Line(here.pool, "ghost", "n1", here.instance)
            way.stall()
            ghost.session.open()
            await until(lambda: way.connections == 3)
            ghost.session.close()
            way.heal()
            await until(lambda: way.connections == 2)
            assert not ghost.session.connected
            with pytest.raises(TimeoutError):
                await ghost.told(Attached, within=0.1)

    asyncio.run(scenario())


def test_a_release_on_a_new_session_ends_the_old_one_that_holds_the_lock(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            async with _outlived(database, line):
                await line.release(granted.epoch)
                await until(lambda: locks_of_beat(database) == 0)
            assert (await line.lead()).epoch == granted.epoch + 1

    asyncio.run(scenario())
