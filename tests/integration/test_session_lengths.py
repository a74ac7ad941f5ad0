"""The lengths of leases on real servers: what is promised to whom before a longer one is used, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from highlanderd.core.events import Attached, Detached, LeaseRefused, Renewed
from highlanderd.core.lease import maintenance_lease
from highlanderd.errors import HighlanderError, NeedsForce
from highlanderd.postgres import hosts, lease_change
from highlanderd.postgres.sql import lengths
from tests.support.long import first_of
from tests.support.nodes import settled_ledger
from tests.support.postgres import Cluster, Clusters, Database
from tests.support.session import LEASE, SHORT_LEASE, Desk, desk, settle
from tests.support.wait import until


async def _begin(here: Desk, outage: float, *, force: bool = False) -> None:
    await lease_change.begin_maintenance(here.pool.listener, outage, author="uid 0 on n1", reason="tests", force=force)


def _lengths(database: Database) -> tuple[float, float, float]:
    """Return the ledger's lease, its ceiling, and the longest lease of a row."""
    [row] = database.sql(
        "SELECT extract(epoch FROM m.lease)::float, extract(epoch FROM m.ceiling)::float, "
        "coalesce((SELECT max(extract(epoch FROM trusted_for)) FROM highlander.lease), 0)::float "
        "FROM highlander.meta AS m"
    )
    return row[0], row[1], row[2]


def test_a_longer_lease_is_taken_over_by_the_next_two_renewals_and_given_back_by_the_next_two(
    database: Database,
) -> None:
    longer = float(maintenance_lease(SHORT_LEASE, 60))

    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            epoch = (await line.lead()).epoch
            await until(lambda: here.pool.listener.connected)
            await _begin(here, 60)
            assert _lengths(database) == (SHORT_LEASE, longer, SHORT_LEASE)
            line.renew(epoch, SHORT_LEASE)
            assert (await line.told(Renewed)).lengths.wanted.length == longer
            line.renew(epoch, longer)
            assert (await line.told(Renewed)).lengths.trusted.length == longer
            report = await lease_change.report(here.pool.listener)
            assert report.pending == ()
            assert report.maintenance is not None
            assert (report.maintenance.outage, report.maintenance.reason) == (60.0, "tests")
            await lease_change.end_maintenance(here.pool.listener)
            line.renew(epoch, longer)
            assert (await line.told(Renewed)).lengths.wanted.length == SHORT_LEASE
            line.renew(epoch, SHORT_LEASE)
            await line.told(Renewed)
            assert _lengths(database) == (SHORT_LEASE, longer, SHORT_LEASE), "the ceiling stays for 1.05 of itself"

    asyncio.run(scenario())


def test_a_lease_above_the_ceiling_is_written_by_nobody(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            epoch = (await line.lead()).epoch
            for granted in (True, False):
                if not granted:
                    line.session.disconnect("to reattach")
                    await line.told(Detached)
                    await line.told(Attached)
                line.renew(epoch, 30.0)
                await line.told(LeaseRefused)
                assert _lengths(database)[2] == SHORT_LEASE
                line.renew(epoch, SHORT_LEASE)
                await line.told(Renewed)

    asyncio.run(scenario())


@pytest.mark.parametrize("ends", first_of(["by order", "by itself"]))
def test_the_ceiling_comes_down_once_nobody_can_rest_on_a_longer_lease(database: Database, ends: str) -> None:
    """The lease is as short as a busy machine keeps it, and 1.05 of the ceiling is a test's time."""

    async def scenario() -> None:
        async with desk(database.dsn, lease=4.0) as here:
            await here.line()
            settle(database)
            await until(lambda: here.pool.listener.connected)
            await _begin(here, 4.0)
            assert _lengths(database)[1] == 8.0
            if ends == "by order":
                await lease_change.end_maintenance(here.pool.listener)
            await until(lambda: _lengths(database)[1] == 4.0)

    asyncio.run(scenario())


@pytest.mark.long  # beside the ceiling that comes down
def test_a_row_that_carries_a_longer_lease_holds_the_ceiling_up(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=4.0) as here:
            line = await here.line()
            settle(database)
            epoch = (await line.lead()).epoch
            await until(lambda: here.pool.listener.connected)
            await _begin(here, 4.0)
            line.renew(epoch, 8.0)
            await line.told(Renewed)
            await lease_change.end_maintenance(here.pool.listener)
            watched = asyncio.get_running_loop().time() + 1.5 * 8.0
            while asyncio.get_running_loop().time() < watched:
                line.renew(epoch, 8.0)
                await line.told(Renewed)
                assert _lengths(database)[1] == 8.0
                await asyncio.sleep(0.4)

    asyncio.run(scenario())


def test_what_cannot_be_is_refused_with_its_cure(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            with pytest.raises(
                HighlanderError, match=r"not settled on this server yet.* within 11s of their first answer"
            ):
                await _begin(here, 60)
            settle(database)
            with pytest.raises(HighlanderError, match="an outage of up to 1d, not 1d1h"):
                await _begin(here, 25 * 3600)
            with pytest.raises(HighlanderError, match="an outage of 4s costs no child anyway"):
                await _begin(here, 4)
            await _begin(here, 60)
            with pytest.raises(HighlanderError, match="end it with `highlanderctl maintenance off`"):
                await lease_change.set_lease(here.pool.listener, 20, force=False)
            await _begin(here, 120)
            report = await lease_change.report(here.pool.listener)
            assert report.maintenance is not None
            assert report.maintenance.outage == 120.0, "the second one replaces the first"

    asyncio.run(scenario())


# ------------------------------------------------------------------------------------------------------- evidence


def _replicated(clusters: Clusters) -> tuple[Cluster, Database]:
    primary = clusters.create()
    database = primary.database()
    settled_ledger(database, LEASE)
    return primary, database


@pytest.mark.long  # with standbys of its own
def test_a_longer_lease_needs_every_standby_to_have_been_told(clusters: Clusters) -> None:
    primary, database = _replicated(clusters)
    standby = clusters.standby(primary)

    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            with pytest.raises(NeedsForce, match=r"may not see what standbys have received .GRANT pg_monitor"):
                await _begin(here, 60)
            database.sql(f'GRANT pg_monitor TO "{database.role}"', admin=True)
            await _begin(here, 60)
            await lease_change.end_maintenance(here.pool.listener)
            standby.pause()
            try:
                with pytest.raises(NeedsForce, match=f"not on the disk of {standby.directory.name}"):
                    await _begin(here, 120)
                await _begin(here, 120, force=True)
            finally:
                standby.resume()

    asyncio.run(scenario())


def test_a_standby_that_every_commit_waits_for_is_evidence_that_needs_no_privilege(clusters: Clusters) -> None:
    primary, database = _replicated(clusters)
    standby = clusters.standby(primary)
    primary.configure(synchronous_standby_names=standby.directory.name)

    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            await _begin(here, 60)
            primary.configure(synchronous_standby_names=f"ANY 1 ({standby.directory.name}, another)")
            await until(lambda: "ANY" in database.sql("SHOW synchronous_standby_names")[0][0])
            with pytest.raises(NeedsForce, match="may not see"):
                await _begin(here, 120)

    asyncio.run(scenario())


def test_a_standby_that_is_away_without_a_slot_is_asked_through_the_dsn(clusters: Clusters) -> None:
    primary, database = _replicated(clusters)
    standby = clusters.standby(primary)
    database.sql(f'GRANT pg_monitor TO "{database.role}"', admin=True)
    both = database.with_standby(standby)

    async def scenario() -> None:
        async with desk(both) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            await _begin(here, 60)
            standby.stop("fast")
            await until(lambda: database.sql("SELECT count(*) FROM pg_stat_replication", admin=True) == [(0,)])
            with pytest.raises(NeedsForce, match=rf":{standby.port} \(which postgres.dsn names\)"):
                await _begin(here, 120)
            standby.start()
            await until(lambda: database.sql("SELECT count(*) FROM pg_stat_replication", admin=True) == [(1,)])
            await _begin(here, 120)

    asyncio.run(scenario())


@pytest.mark.long  # with standbys of its own
def test_an_old_primary_that_follows_without_a_rewind_is_no_evidence_however_far_it_had_come(
    clusters: Clusters,
) -> None:
    old, database = _replicated(clusters)
    new = clusters.standby(old)
    new.promote()
    for cluster in (old, new):
        Database(cluster, database.name, database.role).sql(f'GRANT pg_monitor TO "{database.role}"', admin=True)
    old.sql("SELECT pg_logical_emit_message(false, 'tests', repeat('x', 1000000))")
    old.stop("fast")
    (old.data / "standby.signal").touch()
    old.start()
    both = make_conninfo(database.dsn, host="127.0.0.1,127.0.0.1", port=f"{new.port},{old.port}")

    async def scenario() -> None:
        async with desk(make_conninfo(both, target_session_attrs="read-write")) as here:
            promoted = Database(new, database.name, database.role)
            promoted.sql("UPDATE highlander.meta SET settled_system = NULL, settled_timeline = NULL")
            settle(promoted)
            await here.line()
            await until(lambda: here.pool.listener.connected)
            with pytest.raises(NeedsForce, match=f":{old.port} .which postgres.dsn names."):
                await _begin(here, 60)

    asyncio.run(scenario())


def test_of_a_name_with_two_addresses_none_may_be_silent() -> None:
    silent = hosts.silent([_address("db", number) for number in ("10.0.0.1", "10.0.0.2", "fd00::1")], answered={0})
    assert list(silent) == ["db:5432 at 10.0.0.2"], "the server does not listen on IPv6"
    silent = hosts.silent([_address("db", "10.0.0.1"), _address("standby", "fd00::2")], answered={0})
    assert list(silent) == ["standby:5432"]


def _address(host: str, number: str) -> dict[str, str]:
    return {"host": host, "hostaddr": number, "port": "5432"}


def test_a_backup_under_way_is_no_standby(clusters: Clusters, tmp_path: Path) -> None:
    primary, database = _replicated(clusters)
    program = str(primary.programs.program("pg_basebackup"))
    slowly = [program, "-D", str(tmp_path / "backup"), "-d", primary.tcp_dsn, "-X", "none", "-r", "32k", "-c", "fast"]
    database.sql(f'GRANT pg_monitor TO "{database.role}"', admin=True)

    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            backup = await asyncio.create_subprocess_exec(*slowly, stdin=asyncio.subprocess.DEVNULL)
            try:
                await until(lambda: database.sql("SELECT state FROM pg_stat_replication", admin=True) == [("backup",)])
                await _begin(here, 60)
            finally:
                backup.kill()
                await backup.wait()

    asyncio.run(scenario())


def test_lengths_that_somebody_else_has_changed_meanwhile_are_left_alone(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            settle(database)
            await until(lambda: here.pool.listener.connected)
            ask = here.pool.listener.answer
            await ask("raise_ceiling", lengths.RAISE_CEILING, 60.0)
            stale, now = LEASE - 1, LEASE
            values = ("uid 0", "tests")
            assert (await ask("set", lengths.SET_LEASE, 20.0, stale)).affected == 0
            assert (await ask("begin", lengths.BEGIN_MAINTENANCE, 9.0, 60.0, stale, *values)).affected == 0
            assert (await ask("begin", lengths.BEGIN_MAINTENANCE, 9.0, 60.0, now, *values)).affected == 1
            assert (await ask("set", lengths.SET_LEASE, 20.0, now)).affected == 0, "maintenance is on"

    asyncio.run(scenario())


def test_a_slot_whose_standby_is_away_is_no_evidence(clusters: Clusters) -> None:
    primary, database = _replicated(clusters)
    primary.sql("SELECT pg_create_physical_replication_slot('away')")

    async def scenario() -> None:
        async with desk(database.dsn) as here:
            await here.line()
            await until(lambda: here.pool.listener.connected)
            with pytest.raises(NeedsForce, match="not on the disk of slot away"):
                await _begin(here, 60)
            primary.sql("SELECT pg_drop_replication_slot('away')")
            await _begin(here, 60)

    asyncio.run(scenario())
