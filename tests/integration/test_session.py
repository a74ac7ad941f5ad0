"""One program's lock connection against a real server: what it tells is what was acknowledged, and nothing else."""

from __future__ import annotations

import asyncio
from functools import partial
from unittest.mock import ANY

import psycopg
import pytest

from highlanderd.core.effects import Release
from highlanderd.core.events import Event, Granted, Notified, Refused, Renewed, Unlocked
from highlanderd.core.lease import Lengths
from highlanderd.core.states import Cause, Reservation
from highlanderd.core.verdict import Claim, NotYet, Settle
from highlanderd.errors import HighlanderError
from highlanderd.postgres import lease_change
from highlanderd.postgres.sql import dialect
from highlanderd.postgres.sql.sharing import LED
from tests.support.postgres import Database
from tests.support.session import LEASE, SHORT_LEASE, desk, locks_of_beat, row_of, settle
from tests.support.wait import until


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
            assert row_of(database, ours, "epoch, node, released_at") == (1, "n1", None)
            assert locks_of_beat(database) == 1

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
            assert locks_of_beat(database) == 0

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


def test_a_former_leader_hears_that_what_it_gave_up_by_order_is_led_again(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            await until(lambda: here.pool.listener.facts is not None)  # from here on each hint is a notification
            heard = list[str]()
            here.pool.listener.hint(f"{LED}{ours.lock_id}", partial(heard.append, "led"))
            await ours.release((await ours.lead()).epoch, Cause.SHUTDOWN)
            await theirs.lead()
            await until(lambda: heard)

    asyncio.run(scenario())


def test_what_is_reserved_for_a_node_that_is_drained_since_is_any_nodes(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            first = await ours.lead()
            ours.session.release(Release(first.epoch, Cause.RELEASED, Reservation("n3", 60.0)))
            await ours.told(Unlocked)
            assert theirs.judge(await theirs.look()) == NotYet(ANY, "reserved for n3")
            database.sql(
                "INSERT INTO highlander.node (name, drained_since, drained_by) VALUES ('n3', now(), 'an operator')"
            )
            assert isinstance(theirs.judge(await theirs.look()), Claim)

    asyncio.run(scenario())


def test_a_term_that_ends_at_its_grant_has_a_beginning_and_an_end_in_the_history(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            heard = line.session.post

            def hear(event: Event) -> None:
                heard(event)
                if isinstance(event, Granted):
                    line.session.release(Release(event.epoch, Cause.STOPPED, None))

            line.session.post = hear
            await line.lead()
            await line.told(Unlocked)
            history = "SELECT epoch, reason, ended_at IS NOT NULL FROM highlander.term"
            await until(lambda: database.sql(history) == [(1, "stopped", True)])

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
            assert row_of(database, line, "renewal") == (2,)

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


@pytest.mark.long
def test_a_session_that_asks_nothing_outlives_the_limit_on_idle_ones_and_has_nothing_executed(
    database: Database,
) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            await line.look()
            await asyncio.sleep(SHORT_LEASE / 10)  # nothing is under way
            connection = line.session.connection
            assert connection is not None
            executed = "SELECT query_start FROM pg_stat_activity WHERE pid = %s"
            last = database.sql(executed, [connection.pid], admin=True)
            await asyncio.sleep(1.5 * SHORT_LEASE)
            assert database.sql(executed, [connection.pid], admin=True) == last

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


def test_the_lease_does_not_change_before_the_ledger_has_settled_on_its_server(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            with pytest.raises(HighlanderError, match="has not settled"):
                await lease_change.set_lease(here.pool.listener, 5.0, force=False)

    asyncio.run(scenario())
