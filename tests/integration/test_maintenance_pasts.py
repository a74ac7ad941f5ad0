"""What becomes of running daemons when an administrator gives them a ledger with another past."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from highlanderd.embedded.installation import Installation
from tests.support.deaths import gone
from tests.support.maintenance import (
    LEASE,
    await_kept,
    await_said,
    dumped,
    each_started_once,
    maintenance_on,
    restore,
    to_the_next_timeline,
)
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Cluster
from tests.support.proxy import OpensDoors
from tests.support.wait import wait_for

pytestmark = pytest.mark.long


@pytest.mark.parametrize("how", ["restored", "begun anew", "begun anew during maintenance"])
def test_a_ledger_that_is_replaced_under_a_node_that_is_cut_off_waits_for_it_and_repeats_no_epoch(
    nodes: Nodes, cluster: Cluster, door: OpensDoors, postgres_programs: Installation, how: str
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    dump = dumped(postgres_programs, database.dsn, "--schema=highlander")
    way = door(database.dsn)
    [a] = nodes(way.dsn(database.dsn), "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    for _ in range(2):  # epochs that the dump knows nothing of
        a.order("restart", "beat")
        nodes.await_led("beat")
    [b] = nodes(database, "b", programs=["beat"], lease=LEASE)
    await_kept(b, {"generation": 0})
    if how.endswith("maintenance"):
        maintenance_on(b)
    last = nodes.life("beat")

    way.stall()
    database.sql(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{database.role}'", admin=True
    )
    database.sql("DROP SCHEMA highlander CASCADE", admin=True)
    if how == "restored":
        restore(postgres_programs, database, dump)
    else:
        database.sql(f'CREATE SCHEMA highlander AUTHORIZATION "{database.role}"', admin=True)
        b.signal(15)
        assert b.ended() == 0
        b.start()
    assert not all(map(gone, last.pids)), "the child of the node that is cut off runs on"

    assert nodes.await_led("beat", without=a)["beat"] is b
    assert all(map(gone, last.pids))
    way.heal()
    wait_for(a.up, what="the node that was cut off is back")
    b.order("release", "beat", to="a")
    assert nodes.await_led("beat", without=b)["beat"] is a
    each_started_once(nodes)


def test_a_server_restored_to_a_lower_timeline_is_refused_with_its_cure_which_repeats_no_epoch(
    nodes: Nodes, cluster: Cluster
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    cluster.stop("fast")
    backup = cluster.directory / "backup"
    subprocess.run(["cp", "-a", cluster.data, backup], check=True)
    for _ in range(2):
        to_the_next_timeline(cluster)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    await_kept(a, {"timelines": 3, "generation": 2})
    a.signal(15)
    assert a.ended() == 0

    cluster.stop("fast")
    shutil.rmtree(cluster.data)
    subprocess.run(["cp", "-a", backup, cluster.data], check=True)
    to_the_next_timeline(cluster)
    a.start()
    await_said(a, "restored on purpose, stop all daemons, remove the file 'timelines' from each one's state_dir")
    a.signal(15)
    assert a.ended() == 0
    (a.home / "state" / "timelines").unlink()
    a.start()
    nodes.await_up(a)

    nodes.await_led("beat")
    assert [life.epoch >> 32 for life in nodes.journal.lives("beat")] == [2, 3]
    assert a.status()["postgres"]["timeline"] == 2
    each_started_once(nodes)
