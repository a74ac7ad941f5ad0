"""PostgreSQL goes away under running children: for a moment, and for longer than a lease."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import psycopg
import pytest

from highlanderd.system.linux import boottime
from tests.support.commands import highlanderctl
from tests.support.deaths import deaths
from tests.support.long import first_of
from tests.support.nodes import Nodes, ends, settled_ledger
from tests.support.postgres import Cluster, Database, Mode
from tests.support.wait import wait_for

LEASE = 10.0
LONG_LEASE = 30.0
"""Seconds; nobody waits for it, and a busy server that was killed may take seconds to recover."""
MANY = [f"p{number}" for number in range(12)]
LATE = """
SELECT count(*) FILTER (WHERE backend_start < extract(epoch FROM pg_postmaster_start_time()) * 1000000),
       extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())
  FROM highlander.lease
"""


@contextmanager
def load(cluster: Cluster) -> Iterator[None]:
    """Keep the server busy with writers, who come back whenever it does."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with suppress(psycopg.Error), psycopg.connect(cluster.dsn, autocommit=True, connect_timeout=2) as one:
                one.execute("CREATE TABLE IF NOT EXISTS written (text text)")
                while not over.wait(0.002):
                    one.execute("INSERT INTO written SELECT repeat('x', 1000) FROM generate_series(1, 20)")
            over.wait(0.02)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        over.set()
        for writer in writers:
            writer.join(60)


@pytest.mark.parametrize("mode", first_of(["immediate", "fast"]))
def test_no_child_notices_a_restart_and_every_lock_is_taken_back_within_half_a_lease(
    nodes: Nodes, cluster: Cluster, mode: Mode
) -> None:
    database = cluster.database()
    settled_ledger(database, LONG_LEASE)
    nodes(database, "a", "b", programs=MANY, lease=LONG_LEASE)
    leaders = nodes.await_led(*MANY)
    before = {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()}

    with load(cluster):
        cluster.restart(mode)
        late, since = wait_for(lambda: [row for row in database.sql(LATE) if row[0] == 0], what="all are back")[0]

    assert (late, float(since) < LONG_LEASE / 2) == (0, True), f"all are back {since} s after the server's start"
    wait_for(lambda: nodes.leaders() == leaders, what="the same nodes lead")
    assert {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()} == before


def test_an_outage_longer_than_the_lease_finds_every_child_dead_in_time_and_all_run_once_afterwards(
    nodes: Nodes, cluster: Cluster
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    deaf = '[program.deaf]\ncommand = ["sh", "-c", "$CHILD stubborn"]\n'
    nodes(database, "a", "b", programs=f"[program.beat]\n[program.bot]\n{deaf}", lease=LEASE)
    leaders = nodes.await_led("beat", "bot", "deaf")
    families = {name: nodes.life(name).pids for name in leaders}

    cluster.stop("fast")
    trusted = {name: node.trusted_until(name) for name, node in leaders.items()}
    alive = deaths(families)
    assert [name for name in families if max(alive[name], nodes.life(name).last) >= trusted[name]] == []
    assert [nodes.life(name).obeyed for name in ("beat", "bot", "deaf")] == [True, True, False]
    wait_for(lambda: boottime() > max(trusted.values()), what="the leases have run out")
    [other] = [node for node in nodes.nodes if node is not leaders["beat"]]
    wait_for(lambda: other.program("beat")["leader"] is None, what="nobody passes for the leader any more")
    assert highlanderctl(other.socket, "wait", "beat", "--for", "leading", "--timeout", "0.1").code == 7
    refused = highlanderctl(other.socket, "explain", "baet")
    assert refused.code == 1
    assert "no program 'baet', and whether another one has it cannot be asked: PostgreSQL " in refused.err

    cluster.start()
    nodes.await_led("beat", "bot", "deaf")
    for name in leaders:
        assert [life.epoch for life in nodes.journal.lives(name)] == [1, 2]
        assert ends(database, name) == ["fenced", None]


@pytest.mark.long
def test_a_stalled_synchronous_standby_ends_every_program_in_time_and_lets_none_begin(
    nodes: Nodes, cluster: Cluster
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    nodes(database, "a", "b", programs=["beat", "bot"], lease=LEASE)
    leaders = nodes.await_led("beat", "bot")
    families = {name: nodes.life(name).pids for name in leaders}

    cluster.configure(synchronous_standby_names="nobody_there")
    trusted = {name: node.trusted_until(name) for name, node in leaders.items()}
    alive = deaths(families)
    assert [name for name in families if max(alive[name], nodes.life(name).last) >= trusted[name]] == []
    held = "no node has led it for a whole lease"
    wait_for(lambda: all(held in str(node.status()["warnings"]) for node in nodes.nodes), what="both alarm")
    assert len(nodes.journal.lives()) == len(families), "nobody has begun a term"

    cluster.configure(synchronous_standby_names="")
    nodes.await_led("beat", "bot")


def test_a_terminated_backend_costs_no_child(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    nodes(database, "a", "b", programs=["beat"], lease=LONG_LEASE)
    leaders = nodes.await_led("beat")
    before = nodes.life("beat")

    for _ in range(3):
        old = _backends(database)
        database.sql("SELECT pg_terminate_backend(backend_pid) FROM highlander.lease", admin=True)
        wait_for(partial(_replaced, database, old), what="another session has taken the lock back")

    assert nodes.leaders() == leaders
    [life] = nodes.journal.lives("beat")
    assert (life.epoch, life.pids) == (before.epoch, before.pids)


def test_whoever_wants_it_is_stopped_when_the_connection_breaks(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    nodes(database, "a", "b", programs=["beat"], lease=LONG_LEASE, on_connection_loss="stop")
    nodes.await_led("beat")

    database.sql("SELECT pg_terminate_backend(backend_pid) FROM highlander.lease", admin=True)

    wait_for(lambda: len(nodes.journal.lives("beat")) == 2, what="a second term")
    assert nodes.journal.lives("beat")[0].obeyed
    assert ends(database, "beat") == ["disconnected", None]


def _backends(database: Database) -> list[int]:
    return [pid for (pid,) in database.sql("SELECT backend_pid FROM highlander.lease")]


def _replaced(database: Database, old: list[int]) -> bool:
    return not {*old} & {*_backends(database)}
