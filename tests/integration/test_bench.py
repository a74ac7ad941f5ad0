"""The bench itself: clusters and doors do what later tests rely on."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.postgres import Cluster, Clusters, Database
from tests.support.proxy import OpensDoors
from tests.support.wait import wait_for


@contextlib.contextmanager
def connect(dsn: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Connect, and close whatever is under way: psycopg's own context would commit."""
    with contextlib.closing(psycopg.connect(dsn, autocommit=True, connect_timeout=20)) as connection:
        yield connection


def answers(dsn: str) -> bool:
    try:
        with connect(dsn) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_the_role_may_log_in_and_owns_one_schema_and_nothing_more(database: Database) -> None:
    assert database.sql("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user") == [
        (False, False, False)
    ]
    database.sql("CREATE TABLE highlander.probe (id int)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.sql("CREATE SCHEMA another")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.sql("CREATE TABLE public.probe (id int)")


def test_a_cluster_survives_being_killed_and_being_paused(cluster: Cluster) -> None:
    assert cluster.sql("SHOW fsync") == [("on",)]
    cluster.sql("CREATE TABLE kept (id int)")
    cluster.kill()
    assert not cluster.processes()
    cluster.start()
    assert cluster.sql("SELECT count(*) FROM kept") == [(0,)]
    with connect(cluster.socket_dsn) as held:
        cluster.pause()
        held.pgconn.send_query(b"SELECT 1")
        held.pgconn.flush()
        assert not _readable(held, 0.2)
        cluster.resume()
        assert _readable(held, 60)
    cluster.restart("immediate")
    assert answers(cluster.dsn)


def _take_answer(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    while connection.pgconn.is_busy():
        assert _readable(connection, 60)
        connection.pgconn.consume_input()


def _readable(connection: psycopg.Connection[tuple[object, ...]], within: float) -> bool:
    return bool(select.select([connection.fileno()], [], [], within)[0])


def test_a_standby_follows_and_is_promoted_to_a_higher_timeline(clusters: Clusters) -> None:
    primary = clusters.create()
    standby = clusters.standby(primary)
    primary.configure(synchronous_standby_names=standby.directory.name)
    wait_for(
        lambda: primary.sql("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), what="a synchronous standby"
    )
    primary.sql(
        "CREATE TABLE followed (id int)"
    )  # a backend may not wait for the standby yet: settings come one by one
    wait_for(lambda: standby.sql("SELECT to_regclass('followed')") != [(None,)], what="the standby has it")
    primary.kill()
    standby.promote()
    wait_for(lambda: standby.sql("SELECT NOT pg_is_in_recovery()") == [(True,)], what="the promotion")
    assert standby.sql("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)") == [("00000002",)]
    assert standby.sql("SELECT count(*) FROM followed") == [(0,)]


def test_a_door_that_is_cut_closes_and_refuses_until_it_is_healed(database: Database, door: OpensDoors) -> None:
    through = door(database.dsn)
    with connect(through.dsn(database.dsn)) as connection:
        assert through.connections == 1
        through.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert not answers(through.dsn(database.dsn))
    through.heal()
    assert answers(through.dsn(database.dsn))


def test_a_door_that_resets_serves_the_next_one(database: Database, door: OpensDoors) -> None:
    through = door(database.dsn)
    with connect(through.dsn(database.dsn)) as connection:
        through.reset()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert answers(through.dsn(database.dsn))


@pytest.mark.parametrize("directions", [(), ("questions",), ("answers",)])
def test_a_stalled_door_keeps_its_connections_and_goes_on_where_it_stood(
    database: Database, door: OpensDoors, directions: tuple[str, ...]
) -> None:
    through = door(database.dsn)
    with connect(through.dsn(database.dsn)) as connection:
        through.stall(*directions)  # type: ignore[arg-type]
        connection.pgconn.send_query(b"CREATE TABLE highlander.arrived (id int)")
        connection.pgconn.flush()
        arrived = "SELECT 1 FROM pg_tables WHERE tablename = 'arrived'"
        if directions == ("answers",):
            wait_for(lambda: database.sql(arrived), what="the question has arrived")
        assert not _readable(connection, 0.3)
        assert bool(database.sql(arrived)) == (directions == ("answers",))
        through.heal()
        assert _readable(connection, 60)


def test_swallowed_answers_are_lost_but_their_questions_arrive(database: Database, door: OpensDoors) -> None:
    through = door(database.dsn)
    with connect(through.dsn(database.dsn)) as connection:
        through.swallow()
        connection.pgconn.send_query(b"CREATE TABLE highlander.arrived (id int)")
        connection.pgconn.flush()
        wait_for(lambda: database.sql("SELECT 1 FROM pg_tables WHERE tablename = 'arrived'"), what="the question")
        assert not _readable(connection, 0.2)
        through.heal()
        with pytest.raises(psycopg.OperationalError):
            _take_answer(connection)


def test_a_slow_door_delays(database: Database, door: OpensDoors) -> None:
    through = door(database.dsn)
    with connect(through.dsn(database.dsn)) as connection:
        through.slow(0.2)
        asked = time.monotonic()
        connection.pgconn.send_query(b"SELECT 1")
        connection.pgconn.flush()
        assert _readable(connection, 60)
        assert time.monotonic() - asked >= 0.4, "there and back"
