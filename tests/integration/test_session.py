"""One program's lock connection against a real server: what it tells is what was acknowledged, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from highlanderd.core.events import Attached, Contended, Detached, Granted, Notified, Overruled, Refused, Renewed
from highlanderd.core.key import lock_id
from highlanderd.core.lease import Lengths
from highlanderd.core.verdict import Settle
from highlanderd.errors import HighlanderError
from highlanderd.postgres import lease_change
from highlanderd.postgres.sql import dialect
from tests.integration.contest.audit import OF_LOCK
from tests.support.postgres import Database
from tests.support.proxy import OpensDoors
from tests.support.session import LEASE, SHORT_LEASE, Line, desk, settle, until


def _row(database: Database, line: Line, columns: str) -> tuple[object, ...]:
    rows = database.sql(f"SELECT {columns} FROM highlander.lease WHERE lock_id = %s", [line.lock_id])
    return tuple(rows[0])


def _locks(database: Database) -> int:
    """Return how many sessions hold the lock of beat."""
    [[count]] = database.sql(f"SELECT count(*) FROM pg_locks WHERE {OF_LOCK}", [lock_id("highlander", "beat")])
    return int(count)


def _hold_as_former_session(old: psycopg.Connection[Any], line: Line) -> None:
    """Be the backend that missed its client's death: it is the one in the row, and it holds the lock."""
    old.execute("SELECT pg_advisory_lock(%s)", [line.lock_id])
    old.execute(
        "UPDATE highlander.lease SET backend_pid = pg_backend_pid(), backend_start = (SELECT "
        "(extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_get_activity(pg_backend_pid()))"
    )


@asynccontextmanager
async def _outlived(database: Database, line: Line) -> AsyncIterator[psycopg.Connection[Any]]:
    """Return the line a new session beside its old one, which the network has lost and the server has not."""
    with psycopg.connect(database.dsn, autocommit=True) as old:
        line.session.disconnect("its network is gone")
        await line.told(Detached)
        _hold_as_former_session(old, line)
        await line.told(Attached)
        yield old


def test_a_new_ledger_is_waited_out_for_one_lease_then_one_of_two_leads(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here, desk(database.dsn, lease=SHORT_LEASE) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            claims = await asyncio.gather(ours.claim(), theirs.claim())
            ours.session.take_over(claims[0])
            granted = await ours.told(Granted)
            theirs.session.take_over(claims[1])
            refused = await theirs.told(Refused)
            assert granted.epoch == 1
            assert granted.lengths == Lengths.alike(SHORT_LEASE)
            assert refused.why == "another session holds the advisory lock on the program's name"
            assert _row(database, ours, "epoch, node, released_at") == (1, "n1", None)
            assert _locks(database) == 1

    asyncio.run(scenario())


def test_a_claim_on_an_older_version_takes_nothing_and_leaves_no_lock(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            stale = await theirs.claim()
            await ours.release((await ours.lead()).epoch)
            theirs.session.take_over(stale)
            assert (await theirs.told(Refused)).why == "another session was faster"
            assert _locks(database) == 0

    asyncio.run(scenario())


def test_a_ledger_that_cannot_be_settled_says_why_and_is_not_asked_again_at_once(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            database.sql("ALTER TABLE highlander.meta ADD CONSTRAINT no_writing CHECK (settled_system IS NULL)")
            server = (await line.look()).server
            line.session.write_settled(Settle(server.system, server.timeline, server.place))
            refused = await line.told(Refused)
            assert refused.again_in == LEASE / 5
            assert "cannot write that the ledger is settled" in refused.why

    asyncio.run(scenario())


def test_a_release_wakes_the_other_node_and_the_epoch_grows(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            first = await ours.lead()
            await theirs.look()
            await ours.release(first.epoch)
            await theirs.told(Notified)
            assert (await theirs.lead()).epoch == first.epoch + 1
            terms = [(1, "n1", "released"), (2, "n2", None)]
            history = "SELECT epoch, node, reason FROM highlander.term ORDER BY epoch"
            await until(lambda: database.sql(history) == terms)

    asyncio.run(scenario())


def test_a_renewal_is_counted_in_the_row_and_passes_beside_the_childs_own_transaction(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            with psycopg.connect(database.dsn) as child:
                child.execute("SELECT highlander.assert_leader(%s, %s)", [line.lock_id, granted.epoch])
                line.renew(granted.epoch)
                renewed = await line.told(Renewed)
                assert renewed.sent >= granted.sent
            assert _row(database, line, "renewal") == (2,)

    asyncio.run(scenario())


def test_a_takeover_waits_for_the_old_leaders_transaction_and_the_alarm_names_its_pid(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            with psycopg.connect(database.dsn) as child:
                child.execute("SELECT highlander.assert_leader(%s, %s)", [line.lock_id, granted.epoch])
                child.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                [[pid]] = child.execute("SELECT pg_backend_pid()").fetchall()
                end = asyncio.get_running_loop().time() + 60
                while not line.alarms and asyncio.get_running_loop().time() < end:
                    line.session.take_over(await line.claim())
                    refused = await line.told(Refused)
                    assert refused.why == "another transaction holds a lock on the ledger's row"
                assert line.alarms
                assert f"because pid {pid} holds a lock on it" in line.alarms[0]
            assert (await line.lead()).epoch == granted.epoch + 1

    asyncio.run(scenario())


def test_assert_leader_raises_for_any_other_epoch_and_after_the_release(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            for epoch in (granted.epoch - 1, granted.epoch + 1):
                with pytest.raises(Exception, match="does not lead any more"):
                    database.sql("SELECT highlander.assert_leader(%s, %s)", [line.lock_id, epoch])
            await line.release(granted.epoch)
            with pytest.raises(Exception, match="does not lead any more"):
                database.sql("SELECT highlander.assert_leader(%s, %s)", [line.lock_id, granted.epoch])

    asyncio.run(scenario())


def test_a_terminated_backend_is_told_and_the_next_session_reattaches(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            [pid] = _row(database, line, "backend_pid")
            database.sql("SELECT pg_terminate_backend(%s)", [pid])
            await line.told(Detached)
            await line.told(Attached)
            line.renew(granted.epoch)
            await line.told(Renewed)
            assert _row(database, line, "epoch, renewal") == (granted.epoch, 2)
            assert _row(database, line, "backend_pid") != (pid,)
            assert _locks(database) == 1

    asyncio.run(scenario())


def test_an_old_session_that_outlives_its_network_is_terminated(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            async with _outlived(database, line) as old:
                line.renew(granted.epoch)
                await line.told(Contended)
                await until(lambda: _locks(database) == 0)
                line.renew(granted.epoch)
                await line.told(Renewed)
                with pytest.raises(psycopg.OperationalError):
                    old.execute("SELECT 1")

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


def test_a_waiting_session_is_idle_and_holds_nothing_back(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            await ours.lead()
            await theirs.look()
            await until(
                lambda: (
                    database.sql(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'highlander/%/beat' "
                        "AND state = 'idle' AND backend_xmin IS NULL AND wait_event = 'ClientRead'"
                    )
                    == [(2,)]
                )
            )

    asyncio.run(scenario())


def test_the_lease_of_the_ledger_changes_while_a_term_runs(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            await until(lambda: here.pool.listener.connected)
            await lease_change.set_lease(here.pool.listener, 5.0, force=False)
            assert (await lease_change.report(here.pool.listener)).pending == ("beat on n1",)
            line.renew(granted.epoch)
            lengths = (await line.told(Renewed)).lengths
            assert [length.length for length in (lengths.trusted, lengths.wanted, lengths.pace)] == [10.0, 5.0, 5.0]
            line.renew(granted.epoch, 5.0)
            assert (await line.told(Renewed)).lengths == Lengths.alike(5.0)
            assert (await lease_change.report(here.pool.listener)).pending == ()
            assert "postgres.lease is 10 s here but 5 s in the ledger" in next(iter(here.pool.server.notes.warnings))
            with pytest.raises(HighlanderError, match="2 to 60 seconds, not 1"):
                await lease_change.set_lease(here.pool.listener, 1.0, force=False)

    asyncio.run(scenario())


def test_rows_of_the_ledger_are_never_removed(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            await line.release((await line.lead()).epoch)
            for removal in ("DELETE FROM highlander.lease", "TRUNCATE highlander.lease"):
                with pytest.raises(Exception, match="never removed"):
                    database.sql(removal)

    asyncio.run(scenario())


def test_many_nodes_at_once_create_one_ledger(database: Database) -> None:
    async def scenario() -> None:
        async def node() -> None:
            async with desk(database.dsn) as here:
                await (await here.line()).look()

        await asyncio.gather(*(node() for _ in range(8)))
        assert database.sql("SELECT count(*), min(version) FROM highlander.meta") == [(1, dialect.VERSION)]

    asyncio.run(scenario())


def test_the_statement_timeouts_of_the_role_do_not_reach_a_session(database: Database) -> None:
    hurtful = {
        "lock_timeout": "1ms",
        "statement_timeout": "1ms",
        "idle_session_timeout": "1s",
        "idle_in_transaction_session_timeout": "1ms",
        "default_transaction_read_only": "on",
        "synchronous_commit": "off",
    }

    async def scenario() -> None:
        for name, value in hurtful.items():
            database.sql(f"ALTER ROLE \"{database.role}\" SET {name} = '{value}'", admin=True)
        async with desk(database.dsn) as here:
            line = await here.line()
            database.sql(f'ALTER ROLE "{database.role}" RESET ALL', admin=True)
            settle(database)
            granted = await line.lead()
            for _ in range(3):
                line.renew(granted.epoch)
                await line.told(Renewed)

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
                await until(lambda: _locks(database) == 0)
            assert (await line.lead()).epoch == granted.epoch + 1

    asyncio.run(scenario())


def test_the_lease_does_not_change_before_the_ledger_has_settled_on_its_server(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            with pytest.raises(HighlanderError, match="has not settled"):
                await lease_change.set_lease(here.pool.listener, 5.0, force=False)

    asyncio.run(scenario())
