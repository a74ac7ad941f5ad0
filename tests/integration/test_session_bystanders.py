"""What others do to the ledger's rows, tables and history may cost time, and never two leaders or none for long."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Json

from highlanderd.core.events import Attached, Detached, Granted, Refused, Renewed
from highlanderd.core.key import advisory_lock, name_lock
from highlanderd.core.lease import Lease
from highlanderd.core.verdict import NotYet
from tests.support.postgres import Database
from tests.support.session import SHORT_LEASE, Line, desk, row_of, settle
from tests.support.wait import until


@contextmanager
def _overlapping(database: Database, line: Line, epoch: int, timeout: str) -> Iterator[list[str]]:
    """Let six connections call assert_leader in transactions of 0.2 s, so that one always holds; yield the answers."""
    over, told = threading.Event(), list[str]()

    def call(number: int) -> None:
        with psycopg.connect(database.dsn, autocommit=True) as child:
            child.execute(f"SET statement_timeout = '{timeout}'".encode())
            over.wait(number / 30)
            while not over.is_set():
                try:
                    with child.transaction():
                        child.execute("SELECT highlander.assert_leader(%s, %s)", [line.lock_id, epoch])
                        over.wait(0.2)
                        told.append("")
                except psycopg.Error as error:
                    told.append(str(error.sqlstate))
                    over.wait(0.02)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("timeout", ["0", "2s"], ids=["no limit", "statement_timeout"])
def test_transactions_that_overlap_for_ever_hold_a_takeover_up_only_until_the_last_one_that_was_let_in(
    database: Database, timeout: str
) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here, desk(database.dsn, lease=SHORT_LEASE) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            epoch = (await ours.lead()).epoch
            with _overlapping(database, ours, epoch, timeout) as told:
                ours.session.close()  # its host is lost
                claim = await theirs.claim()
                assert claim.closing == (claim.judged,)
                tries = 0
                while True:
                    theirs.session.take_over(claim)
                    event = await theirs.outcome()
                    if isinstance(event, Granted):
                        break
                    tries += 1
                    claim = await theirs.claim()
                assert tries <= 1, "the term was closed, so that nothing new can hold the row"
                assert "" in told
            assert {*told} <= {"", "55P03"}
            terms = "SELECT epoch, reason FROM highlander.term ORDER BY epoch"
            await until(lambda: database.sql(terms) == [(epoch, "lapsed"), (claim.epoch, None)])

    asyncio.run(scenario())


def test_a_row_that_a_bystander_locks_costs_the_session_and_is_named(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            epoch = (await line.lead()).epoch
            with psycopg.connect(database.dsn) as bystander:
                bystander.execute("SELECT * FROM highlander.lease FOR UPDATE")
                [[pid]] = bystander.execute("SELECT pg_backend_pid()").fetchall()
                while not line.alarms:
                    line.renew(epoch, SHORT_LEASE)
                    assert "holds a lock on the ledger's row" in (await line.told(Detached)).why
                    await line.told(Attached)
                assert f"because pid {pid} holds a lock on it" in line.alarms[0]
            line.renew(epoch, SHORT_LEASE)
            await line.told(Renewed)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "harm",
    [
        "LOCK TABLE highlander.term IN ACCESS EXCLUSIVE MODE",
        "DROP TABLE highlander.term",
        "INSERT INTO highlander.term SELECT l.lock_id, l.epoch + n, 'beat', 'x', now() FROM highlander.lease AS l, "
        "generate_series(1, 3) AS n",
    ],
    ids=["locked", "dropped", "epochs of somebody else"],
)
def test_the_history_can_veto_no_takeover(database: Database, harm: str) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            first = (await line.lead()).epoch
            await line.release(first)
            with psycopg.connect(database.dsn) as bystander:
                bystander.execute(harm.encode())
                if not harm.startswith("LOCK"):
                    bystander.commit()
                assert (await line.lead()).epoch > first

    asyncio.run(scenario())


def test_a_value_in_the_ledger_that_nobody_can_read_costs_the_session_and_no_more(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            offsets = database.sql("SELECT offsets FROM highlander.meta")[0][0]
            broken = "UPDATE highlander.meta SET offsets = jsonb_build_object(settled_system::text, 'nonsense')"
            database.sql(broken)
            line.session.look()
            assert "cannot be read" in (await line.told(Detached)).why
            assert "cannot be read" in line.alarms[0]
            database.sql("UPDATE highlander.meta SET offsets = %s::jsonb", [Json(offsets)])
            await line.told(Attached)
            assert (await line.lead()).epoch == 1

    asyncio.run(scenario())


def test_a_released_row_is_not_believed_in_a_ledger_that_went_back(database: Database) -> None:
    """A dump was restored into the living tables: it shows the last term as released, and its leader lives on."""

    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here, desk(database.dsn, lease=SHORT_LEASE) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            await ours.release((await ours.lead()).epoch)
            saved = "epoch, renewal, released_at, reason"
            [old] = database.sql(f"SELECT {saved} FROM highlander.lease")
            second = await ours.lead()
            await theirs.look()
            database.sql(f"UPDATE highlander.lease SET ({saved}) = (%s, %s, %s, %s)", list(old))
            observation = await theirs.look()
            assert theirs.knowledge.rewinds == 1
            verdict = theirs.judge(observation)
            assert isinstance(verdict, NotYet)
            theirs.session.unsettle(observation.server)
            await until(lambda: database.sql("SELECT settled_system FROM highlander.meta") == [(None,)])
            claim = await theirs.claim()
            assert claim.epoch > second.epoch, "no epoch that this node has seen begins twice"

    asyncio.run(scenario())


def test_a_ledger_that_was_made_anew_under_the_same_server_is_another_one(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            ours = await here.line()
            settle(database)
            epoch = (await ours.lead()).epoch
            before = await ours.look()
            database.sql("DROP SCHEMA highlander CASCADE")
            database.sql(f'CREATE SCHEMA highlander AUTHORIZATION "{database.role}"', admin=True)
            async with desk(database.dsn, lease=SHORT_LEASE) as there:
                theirs = await there.line(node="n2")
                theirs.knowledge = ours.knowledge
                settle(database)  # somebody says so, who knows nothing of what was here before
                observation = await theirs.look()
                assert observation.server.place != before.server.place
                assert theirs.knowledge.versions == {}
                assert isinstance(theirs.judge(observation), NotYet), (
                    "what the former ledger had promised is waited for"
                )
                claim = await theirs.claim()
                assert claim.epoch > epoch, "an epoch that this node has seen does not begin twice"

    asyncio.run(scenario())


@pytest.mark.parametrize("of_name", [False, True], ids=["the key's lock", "the name's lock"])
def test_a_stranger_who_keeps_a_lock_while_nobody_leads_is_named(database: Database, of_name: bool) -> None:
    stranger_role = f"{database.role}_stranger"
    database.sql(f'CREATE ROLE "{stranger_role}" LOGIN', admin=True)

    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            lock = name_lock("highlander", "beat") if of_name else line.lock_id
            dsn = make_conninfo(database.dsn, user=stranger_role, application_name="squat")
            with psycopg.connect(dsn, autocommit=True) as stranger:
                stranger.execute("SELECT pg_advisory_lock(%s)", [lock])
                while not line.alarms:
                    line.session.take_over(await line.claim())
                    assert "another session holds the advisory lock" in (await line.told(Refused)).why
                    await asyncio.sleep(0.2)
                who = f"pid {stranger.info.backend_pid} (role {stranger_role}, application 'squat')"
                gone = f"SELECT 1 FROM pg_stat_activity WHERE pid = {stranger.info.backend_pid}"
                assert f"its advisory lock was held by {who}; end that session if it still holds it" in line.alarms[0]
                line.session.take_over(await line.claim())
                assert (await line.told(Refused)).why.endswith(f": {who}")
            await until(lambda: not database.sql(gone))
            assert (await line.lead()).epoch == 1

    try:
        asyncio.run(scenario())
    finally:
        database.sql(f'DROP ROLE "{stranger_role}"', admin=True)


def test_of_many_sessions_that_share_a_lock_the_first_are_named(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            await until(lambda: here.pool.listener.connected)
            with ExitStack() as open_sessions:
                pids = []
                for _ in range(7):
                    one = open_sessions.enter_context(psycopg.connect(database.dsn, autocommit=True))
                    one.execute("SELECT pg_advisory_lock_shared(4711)")
                    pids.append(one.info.backend_pid)
                said = await here.pool.listener.holders(
                    advisory_lock("highlander", 4711), name_lock("highlander", "beat")
                )
            assert [int(pid) for pid in re.findall(r"pid (\d+)", said)] == sorted(pids)[:5]
            assert said.endswith(" and 2 more")

    asyncio.run(scenario())


def test_a_pair_is_the_lock_that_other_software_takes_with_two_numbers(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line(key=(1, -52318))
            settle(database)
            with psycopg.connect(database.dsn, autocommit=True, application_name="other") as other:
                other.execute("SELECT pg_advisory_lock(1, -52318)")
                while not line.alarms:
                    line.session.take_over(await line.claim())
                    assert "another session holds the advisory lock" in (await line.told(Refused)).why
                    await asyncio.sleep(0.2)
                who = f"pid {other.info.backend_pid} (role {database.role}, application 'other', client "
                assert f"its advisory lock was held by {who}{other.info.hostaddr}); end that" in line.alarms[0]
                other.execute("SELECT pg_advisory_unlock_all()")
                await line.lead()
                assert other.execute("SELECT pg_try_advisory_lock(1, -52318)").fetchone() == (False,)
                number = (1 << 32) | (2**32 - 52318)  # the same bits in the other key space are another lock
                assert other.execute("SELECT pg_try_advisory_lock(%s)", [number]).fetchone() == (True,)

    asyncio.run(scenario())


def test_a_session_that_is_replaced_takes_its_pair_back(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line(key=(7, 8))
            settle(database)
            term = await line.lead()
            line.session.disconnect("on purpose")
            await line.told(Detached)
            await line.told(Attached)
            line.session.renew(term.epoch, Lease(SHORT_LEASE))
            await line.told(Renewed)
            held = database.sql("SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2")
            assert held == [(7, 8)]

    asyncio.run(scenario())


def test_a_warning_that_is_not_about_the_commit_costs_no_session_and_is_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            database.sql(
                "CREATE FUNCTION highlander.hook() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE WARNING 'duration: % ms', random(); RETURN NEW; END $$"
            )
            database.sql(
                "CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON highlander.lease FOR EACH ROW "
                "EXECUTE FUNCTION highlander.hook()"
            )
            epoch = (await line.lead()).epoch
            for _ in range(2):
                line.renew(epoch)
                await line.told(Renewed)
            await line.release(epoch)

    asyncio.run(scenario())
    assert len([record for record in caplog.records if "whose commit is not in doubt" in record.message]) == 1


def test_foreign_triggers_on_the_ledger_are_warned_of(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            database.sql(
                "CREATE FUNCTION highlander.hook() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
            )
            database.sql(
                "CREATE TRIGGER audit BEFORE UPDATE ON highlander.lease FOR EACH ROW EXECUTE FUNCTION highlander.hook()"
            )
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: any("foreign triggers (audit)" in note for note in here.pool.server.notes.warnings))

    asyncio.run(scenario())


def test_what_a_locked_history_did_not_take_is_written_once_it_is_free(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            first = (await line.lead()).epoch
            await line.release(first)
            database.sql("DELETE FROM highlander.term")  # as if the former leader had written nothing
            with psycopg.connect(database.dsn) as bystander:
                bystander.execute("LOCK TABLE highlander.term IN ACCESS EXCLUSIVE MODE")
                second = (await line.lead()).epoch
                [leader] = row_of(database, line, "backend_pid")
                waits = f"SELECT 1 FROM pg_locks WHERE NOT granted AND pid = {leader}"
                await until(lambda: database.sql(waits))
                await until(lambda: not database.sql(waits))  # it has given up
            written = "SELECT epoch, ended_at IS NOT NULL, reason FROM highlander.term ORDER BY epoch"
            await until(lambda: database.sql(written) == [(first, True, "released"), (second, False, None)])

    asyncio.run(scenario())
