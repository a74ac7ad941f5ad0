"""What an administrator does to PostgreSQL under running daemons, step by step as the page on its maintenance tells it.

Here: an announced outage, and a failover. After each test the journal is asked: no two lives of a program at once, and
every epoch above the one before.
"""

from __future__ import annotations

import pytest
from psycopg.conninfo import make_conninfo

from highlanderd.system.linux import boottime
from tests.support.commands import highlanderctl
from tests.support.maintenance import (
    LEASE,
    PROGRAMS,
    alive,
    await_renewed,
    each_started_once,
    maintenance_on,
    rows_of,
    spread,
)
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Cluster, Clusters
from tests.support.wait import wait_for

pytestmark = pytest.mark.long


def test_an_announced_outage_of_one_and_a_half_leases_restarts_nothing_and_a_node_lost_in_it_is_not_doubled(
    nodes: Nodes, cluster: Cluster
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    spread(nodes, database, PROGRAMS)
    a, b, c = nodes.nodes
    maintenance_on(a)
    before = alive(nodes, PROGRAMS)

    cluster.stop("fast")
    stopped = boottime()
    trusted = {program: c.trusted_until(program) for program in ("feed", "relay")}
    c.crash()
    wait_for(lambda: boottime() > stopped + 1.5 * LEASE, what="PostgreSQL was away for one and a half leases")
    cluster.start()
    await_renewed(database.dsn, "beat", "bot", "cron")
    assert alive(nodes, ["beat", "bot", "cron"]) == {name: before[name] for name in ("beat", "bot", "cron")}

    leaders = nodes.await_led(*PROGRAMS, without=c)
    assert {leaders[name] for name in PROGRAMS} <= {a, b}
    assert [name for name, until in trusted.items() if nodes.life(name).began <= until] == []
    assert alive(nodes, ["beat", "bot", "cron"]) == {name: before[name] for name in ("beat", "bot", "cron")}

    done = highlanderctl(b.socket, "maintenance", "off")
    assert (done.code, done.err) == (0, "")
    carried = database.sql("SELECT DISTINCT extract(epoch FROM trusted_for)::float FROM highlander.lease")
    assert carried == [(LEASE,)], "every row carries the ledger's own lease again"
    each_started_once(nodes)


def test_after_a_failover_the_old_primary_leads_nobody_not_even_a_daemon_that_meets_it_first(
    nodes: Nodes, clusters: Clusters
) -> None:
    primary = clusters.create()
    database = primary.database()
    settled_ledger(database, LEASE)
    standby = clusters.standby(primary)
    both = database.with_standby(standby)
    there = make_conninfo(database.dsn, port=standby.port)
    nodes(both, "a", "b", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    wait_for(lambda: rows_of(there), what="the standby has the term")

    primary.kill()
    standby.promote()
    await_renewed(there, "beat")
    nodes.await_led("beat")
    primary.start()  # as a service manager would, with the lapsed row of a ledger that has settled

    [c] = nodes(both, "c", programs=["beat"], lease=LEASE)
    old = rows_of(database.dsn)
    await_renewed(there, "beat", times=8)
    wait_for(lambda: c.status()["postgres"]["timeline"] == 2, what="it has found the promoted server")
    assert rows_of(database.dsn) == old, "nobody has written on the old primary"

    leader = nodes.await_led("beat")["beat"]
    leader.crash()
    nodes.await_led("beat", without=leader)
    assert rows_of(database.dsn) == old
    assert nodes.life("beat").epoch >> 32 == 1
    each_started_once(nodes)
