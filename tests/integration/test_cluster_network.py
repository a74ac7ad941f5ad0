"""The network between a node and PostgreSQL breaks: for a part of a lease, and for longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from highlanderd.system.linux import boottime
from tests.support.deaths import deaths
from tests.support.long import first_of
from tests.support.nodes import Nodes, ends, renewals, settled_ledger
from tests.support.postgres import Database
from tests.support.proxy import Door, OpensDoors
from tests.support.wait import wait_for

LEASE = 10.0
SPARING_LEASE = 30.0
"""Seconds, where no child may be lost: a tenth of it is for the reconnection after the heal, on a busy machine."""
BREAKS: dict[str, Callable[[Door], None]] = {
    "cut": Door.cut,
    "stalled": Door.stall,
    "unanswered": lambda door: door.stall("answers"),
}


@pytest.mark.parametrize("how", first_of(BREAKS))
def test_a_partition_of_four_tenths_of_a_lease_costs_no_child(
    nodes: Nodes, database: Database, door: OpensDoors, how: str
) -> None:
    settled_ledger(database, SPARING_LEASE)
    way = door(database.dsn)
    nodes(way.dsn(database.dsn), "a", programs=["beat", "bot"], lease=SPARING_LEASE)
    nodes.await_led("beat", "bot")
    [rival] = nodes(database, "b", programs=["beat", "bot"], lease=SPARING_LEASE)
    before = {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()}

    BREAKS[how](way)
    healed_at = boottime() + 0.4 * SPARING_LEASE
    wait_for(lambda: boottime() >= healed_at, SPARING_LEASE, "the partition has lasted 4/10 of a lease")
    way.heal()

    renewed = renewals(database)
    wait_for(lambda: all(count > renewed[name] + 1 for name, count in renewals(database).items()), what="all renew")
    assert {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()} == before
    assert rival.leading() == {}


@pytest.mark.parametrize("how", first_of(["cut", "stalled"]))
def test_behind_a_longer_partition_children_are_fenced_in_time_and_the_other_node_leads(
    nodes: Nodes, database: Database, door: OpensDoors, how: str
) -> None:
    settled_ledger(database, LEASE)
    way = door(database.dsn)
    programs = '[program.beat]\n[program.deaf]\ncommand = ["sh", "-c", "$CHILD stubborn"]\n'
    [node] = nodes(way.dsn(database.dsn), "a", programs=programs, lease=LEASE)
    nodes.await_led("beat", "deaf")
    [rival] = nodes(database, "b", programs=programs, lease=LEASE)
    families = {life.program: life.pids for life in nodes.journal.lives()}

    BREAKS[how](way)
    trusted = {name: node.trusted_until(name) for name in families}
    alive = deaths(families)

    lives = {name: nodes.journal.lives(name)[0] for name in families}
    assert [name for name in families if max(alive[name], lives[name].last) >= trusted[name]] == []
    wait_for(lambda: rival.leading().keys() == {"beat", "deaf"}, what="the other node leads")
    assert ends(database, "deaf") == ["lapsed", None]
    way.heal()
    wait_for(lambda: all(node.program(name)["state"] == "waiting" for name in ("beat", "deaf")), what="it waits again")
    wait_for(lambda: node.program("beat")["leader"] == rival.name, what="and knows who leads")
