"""A leader's child floods its machine, or does not die: the other node leads when nothing of it is left, not before."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.floods import FLOOD, dried, family
from tests.support.long import first_of
from tests.support.nodes import Node, Nodes, ends, renewals, settled_ledger
from tests.support.postgres import Database
from tests.support.processes import undying
from tests.support.proxy import OpensDoors
from tests.support.wait import wait_for

LEASE = 10.0
LONG_LEASE = 30.0
"""Seconds; a worker that is replaced on a busy machine may need many of them to start."""
MORE_THAN_A_LEASE = 7
"""Renewals, five of which are a lease."""
PAIR = '[program.beat]\nstop_timeout = 0.3\ncommand = ["sh", "-c", "$CHILD part stubborn & exec $CHILD stubborn"]\n'


def flood(kind: str, count: int) -> str:
    """Configure a program whose first child floods."""
    command = ", ".join(f'"{word}"' for word in [*FLOOD, kind, str(count)])
    return f"[program.beat]\nstop_timeout = 0.3\ncommand = [{command}]\n"


@pytest.fixture
def dry(nodes: Nodes) -> Iterator[None]:
    """Leave nothing of a flood behind."""
    with dried(nodes.directory):
        yield
        for node in nodes.nodes:
            node.crash()


def at_its_height(nodes: Nodes) -> Node:
    """Wait for the flood; gives the node that leads it."""
    leader = nodes.await_led("beat")["beat"]
    wait_for(lambda: nodes.journal.says("full"), what="the flood is at its height")
    return leader


def give(node: Node, programs: str) -> None:
    """Let a daemon that runs already have programs: one that starts beside a flood takes long."""
    node.configure(programs)
    node.signal(signal.SIGHUP)
    wait_for(lambda: node.up() and node.status()["programs"], what=f"{node.name} has its programs")


@pytest.mark.parametrize("kind", ["spray"])
@pytest.mark.usefixtures("grouping", "dry")
def test_a_flood_is_over_before_the_release(nodes: Nodes, database: Database, kind: str) -> None:
    settled_ledger(database, LEASE)
    nodes(database, "a", "b", programs=flood(kind, 20 if kind == "chains" else 120), lease=LEASE)
    old = at_its_height(nodes)

    old.control.order("beat", "release", {"force": True})()

    nodes.await_led("beat", without=old)
    assert family(old.home, 1) == []
    assert ends(database, "beat")[0] == "released"


@pytest.mark.parametrize("kind", first_of(["bomb", "chains"]))
@pytest.mark.usefixtures("grouping", "dry")
def test_a_flood_that_is_fenced_is_over_before_another_node_leads(
    nodes: Nodes, database: Database, door: OpensDoors, kind: str
) -> None:
    settled_ledger(database, LEASE)
    way = door(database.dsn)
    programs = flood(kind, 20 if kind == "chains" else 120)
    [old] = nodes(way.dsn(database.dsn), "a", lease=LEASE)
    [other] = nodes(database, "b", lease=LEASE)
    give(old, programs)
    assert at_its_height(nodes) is old
    give(other, programs)

    way.cut()

    nodes.await_led("beat", without=old)
    assert family(old.home, 1) == []
    assert ends(database, "beat")[0] == "lapsed"


def two_processes(nodes: Nodes) -> tuple[Node, int]:
    """Wait for a leader whose tree has two processes; gives it, and the one that is not the main process."""
    leader = nodes.await_led("beat")["beat"]
    wait_for(lambda: nodes.life("beat").starts == 2, what="both processes have started")
    [part] = nodes.life("beat").pids - {leader.program("beat")["pid"]}
    return leader, part


@pytest.mark.parametrize("losses", first_of([(), ("worker",), ("keeper",), ("keeper", "worker")]))
def test_a_tree_that_does_not_die_keeps_the_lock_and_says_so_until_it_is_let_go(
    nodes: Nodes, database: Database, losses: tuple[str, ...]
) -> None:
    lease, more = (LONG_LEASE, 2) if losses else (LEASE, MORE_THAN_A_LEASE)
    settled_ledger(database, lease)
    nodes(database, "a", "b", programs=PAIR, lease=lease)
    old, part = two_processes(nodes)

    with undying(part):
        old.control.order("beat", "release", {"force": True})()
        wait_for(lambda: old.program("beat")["unkillable"], what="it is told")
        for loss in losses:
            _lose(old, loss)
        wait_for(lambda: old.program("beat")["unkillable"], what="it is told still")
        program = old.program("beat")
        assert [(one["pid"], one["state"]) for one in program["unkillable"]] == [(part, "Z")]
        assert (program["state"], program["ready"]) == ("draining", False)
        assert f"does not end {part} (python" in program["reason"]
        wait_for(lambda: _warns(old, "the lock is kept"), what="the status says so")
        renewed = renewals(database)["beat"]
        wait_for(lambda: renewals(database)["beat"] > renewed + more, what="the term is renewed")
        assert ends(database, "beat") == [None]
    nodes.await_led("beat", without=old)
    assert ends(database, "beat")[0] == "released"
    assert "WARNING beat: SIGKILL was sent" in old.log.read_text()
    wait_for(lambda: old.program("beat")["unkillable"] == [], what="it is told no longer")


def _warns(node: Node, what: str) -> bool:
    return any(what in warning for warning in node.status()["warnings"])


def _lose(node: Node, what: str) -> None:
    lost = node.worker if what == "worker" else node.keeper("beat")
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: node.worker != lost and node.up(), what="the daemon is up")


def test_beside_a_tree_that_does_not_die_its_own_node_starts_nothing_even_after_its_lease(
    nodes: Nodes, database: Database, door: OpensDoors
) -> None:
    settled_ledger(database, LEASE)
    way = door(database.dsn)
    [old] = nodes(way.dsn(database.dsn), "a", programs=PAIR, lease=LEASE)
    _, part = two_processes(nodes)
    [rival] = nodes(database, "b", programs=PAIR, lease=LEASE)

    with undying(part):
        way.cut()
        nodes.await_led("beat", without=old)  # the lease is over: nothing holds up the other node
        way.heal()
        wait_for(lambda: old.program("beat")["connected"] and old.program("beat")["unkillable"], what="it is back")
        lost = old.worker
        os.kill(lost, signal.SIGKILL)
        wait_for(lambda: old.worker != lost and old.up(), what="the next worker is up")
        wait_for(lambda: old.program("beat")["unkillable"], what="it says so, too")
        wait_for(lambda: _warns(old, "its lease has run out"), what="the status says so")
        rival.control.order("beat", "stop", {"force": True})()
        wait_for(lambda: rival.program("beat")["state"] == "stopped", what="nobody leads")
        settled = renewals(database)["beat"]
        wait_for(lambda: old.program("beat")["state"] == "draining", what="it does not either")
        assert renewals(database)["beat"] == settled
        assert len(nodes.journal.lives("beat")) == 2
    assert nodes.await_led("beat")["beat"] is old
    assert nodes.life("beat").epoch == 3
