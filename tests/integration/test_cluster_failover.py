"""The primary is lost and a standby promoted, under real daemons whose dsn names both."""

from __future__ import annotations

from psycopg.conninfo import make_conninfo

from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Clusters, run
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; a promotion may take some. The last takeover waits for one: the promoted server has not settled."""
PROGRAMS = ["beat", "bot", "relay"]


def test_a_failover_costs_no_child_and_later_epochs_are_above_all_earlier_ones(
    nodes: Nodes, clusters: Clusters
) -> None:
    primary = clusters.create()
    database = primary.database()
    settled_ledger(database, LEASE)
    standby = clusters.standby(primary)
    both = database.with_standby(standby)
    nodes(both, "a", "b", programs=PROGRAMS, lease=LEASE)
    leaders = nodes.await_led(*PROGRAMS)
    pids = {program: nodes.life(program).pids for program in PROGRAMS}
    there = make_conninfo(standby.dsn, dbname=database.name)
    wait_for(lambda: len(standby_rows(there)) == len(PROGRAMS), what="the standby has every term")

    primary.kill()
    standby.promote()

    before = standby_rows(there)
    wait_for(
        lambda: all(standby_rows(there)[program] > before[program] for program in PROGRAMS),
        what="every term is renewed on the promoted server",
    )
    assert nodes.await_led(*PROGRAMS) == leaders
    assert {program: nodes.life(program).pids for program in PROGRAMS} == pids
    assert all(len(nodes.journal.lives(program)) == 1 for program in PROGRAMS)

    leaders["beat"].order("release", "beat")

    moved = nodes.await_led("beat", without=leaders["beat"])["beat"]
    assert moved.program("beat")["epoch"] == 1 << 32 | 1
    assert moved.status()["postgres"]["timeline"] == 2


def standby_rows(dsn: str) -> dict[str, int]:
    """Return each program's renewal as the standby shows it."""
    return dict(run(dsn, "SELECT program, renewal FROM highlander.lease"))
