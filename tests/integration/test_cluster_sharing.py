"""Nodes whose waiting programs share connections lead as others do, and use few connections while they wait."""

from __future__ import annotations

import pytest

from highlanderd.postgres.warm import WARM
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Cluster, Database
from tests.support.wait import wait_for

MANY = [f"p{number}" for number in range(12)]
LEASE = 10.0
"""Seconds; on a busy machine no program of twelve is fenced while the others are ordered."""


def connections(database: Database, node: Node) -> int:
    """Return how many connections the server sees of a node, which leads nothing or all."""
    like = f"%/{node.name}%"
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"
    [[count]] = database.sql(query, [like])
    return int(count)


def locks(database: Database, node: Node) -> int:
    """Return how many locks a node's sessions hold, one for each program or one for many: two for each program."""
    query = """
        SELECT count(*) FROM pg_locks AS held JOIN pg_stat_activity AS one USING (pid)
        WHERE held.locktype = 'advisory' AND held.granted AND one.application_name LIKE %s
          AND one.datname = current_database()
    """
    [[count]] = database.sql(query, [f"%/{node.name}%"])
    return int(count)


def waits(node: Node) -> bool:
    """Whether all programs of a node wait, and are connected."""
    return all(one["state"] == "waiting" and one["connected"] for one in node.status()["programs"])


@pytest.mark.long
def test_a_node_that_shares_takes_all_over_and_shares_again_once_it_leads_nothing(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    [a, b] = nodes(database, "a", programs=MANY, lease=LEASE) + nodes(
        database, "b", programs=MANY, lease=LEASE, standby_connections="shared"
    )
    nodes.await_led(*MANY)
    wait_for(lambda: len(a.leading()) == len(MANY), 60, "a leads all")
    wait_for(lambda: connections(database, b) == WARM + 1, 60, "b shares")
    assert waits(b)
    a.crash()
    nodes.await_led(*MANY, without=a)
    wait_for(lambda: connections(database, b) == len(MANY) + 1, 60, "each has its own and none is too many")
    a.start()
    nodes.await_up(a)
    for program in MANY:
        b.order("release", program)
    wait_for(lambda: len(a.leading()) == len(MANY), 60, "a leads all again")
    wait_for(lambda: connections(database, b) == WARM + 1, 60, "b shares again")
    assert waits(b)


@pytest.mark.long
def test_a_restart_of_the_server_costs_no_child_and_those_who_share_are_back(nodes: Nodes, cluster: Cluster) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=MANY, lease=LEASE)
    nodes.await_led(*MANY)
    [b] = nodes(database, "b", programs=MANY, lease=LEASE, standby_connections="shared")
    wait_for(lambda: waits(b), 60, "b waits")
    epochs = {name: status["epoch"] for name, status in a.leading().items()}
    cluster.restart()
    wait_for(lambda: connections(database, b) == WARM + 1 and waits(b), 60, "b shares again")
    wait_for(lambda: locks(database, a) == 2 * len(MANY), 60, "a has taken all locks back")
    assert {name: status["epoch"] for name, status in a.leading().items()} == epochs
