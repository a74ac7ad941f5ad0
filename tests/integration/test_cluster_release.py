"""Claims about a release to a certain node: it is checked before, and waited for until that very node leads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.integration.test_cluster_orders import stopped
from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it, and no worker of a busy machine is silent for 3/10 of it."""


def three(nodes: Nodes, database: Database, **keys: object) -> tuple[Node, Node, Node]:
    """Start three nodes, the first of which leads ``beat``, once each of them knows the others."""
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE, **keys)
    nodes.await_led("beat")
    b, c = nodes(database, "b", "c", programs=["beat"], lease=LEASE, **keys)
    wait_for(lambda: a.program("beat")["candidates"] == 2, what="both are known")
    return a, b, c


def _stop(node: Node) -> None:
    node.order("stop", "beat")
    wait_for(partial(stopped, node, "beat"), what="it is stopped there")


def _end(node: Node) -> None:
    node.signal(15)
    assert node.ended() == 0


def _break(node: Node) -> None:
    node.configure('[program.beat]\ncommand = "/nowhere/beat"\n')
    assert highlanderctl(node.socket, "reload", "--force").code == 0


def _forget(node: Node) -> None:
    node.configure("")
    assert highlanderctl(node.socket, "reload").code == 0


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (_stop, "b could not lead beat now: stopped by uid "),
        (_end, "b could not lead beat now: its daemon is not connected"),
        (_break, "b could not lead beat now: "),
        (_forget, "b could not lead beat now: "),  # by the ledger, or by what it says itself
    ],
    ids=["stopped there", "absent", "no command there", "not configured there"],
)
def test_a_node_that_could_not_lead_it_is_refused_and_the_child_runs_on(
    nodes: Nodes, database: Database, harm: Callable[[Node], None], why: str
) -> None:
    a, b, c = three(nodes, database)
    harm(b)
    for node in (a, c):
        refused = highlanderctl(node.socket, "release", "beat", "--to", "b")
        assert (refused.code, refused.out) == (1, "")
        assert why in refused.err
    [life] = nodes.journal.lives("beat")
    assert life.node == "a"


def test_a_node_that_does_not_answer_is_refused_whatever_it_has_written(nodes: Nodes, database: Database) -> None:
    a, b, c = three(nodes, database)
    b.freeze(b.guardian, b.worker)
    refused = highlanderctl(a.socket, "release", "beat", "--to", "b")
    b.thaw()
    assert (refused.code, refused.out) == (1, "")
    assert "b could not lead beat now: its daemon does not answer" in refused.err
    [life] = nodes.journal.lives("beat")
    assert life.node == "a"
    assert highlanderctl(c.socket, "release", "beat", "--to", "c").code == 0
    assert nodes.await_led("beat")["beat"] is c


def test_the_releasing_node_stays_out_for_as_long_as_it_is_told_to(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    done = highlanderctl(a.socket, "release", "beat", "--force", "--for", "8s")
    assert done.code == 0, done
    wait_for(lambda: "leaves it to another node for now" in a.program("beat")["reason"], what="it stays out")
    nodes.await_led("beat")
    terms = "SELECT node FROM highlander.term ORDER BY epoch"
    wait_for(lambda: database.sql(terms) == [("a",), ("a",)], what="the history has both terms")


def _knows(node: Node, candidates: dict[str, int]) -> bool:
    return {program["name"]: program["candidates"] for program in node.status()["programs"]} == candidates


def test_each_of_many_programs_goes_to_the_node(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["web1", "web2", "bot"], lease=LEASE)
    nodes.await_led("web1", "web2", "bot")
    [b, c] = nodes(database, "b", "c", programs=["web1", "web2", "bot"], lease=LEASE)
    candidates = {"web1": 2, "web2": 2, "bot": 2}
    for node in (a, b, c):
        wait_for(partial(_knows, node, candidates), what="each knows that both others could lead all of them")
    done = highlanderctl(c.socket, "release", "web*", "--to", "b", "--reason", "less load on a")
    assert (done.code, done.err) == (0, ""), done
    wait_for(lambda: nodes.leaders() == {"web1": b, "web2": b, "bot": a}, what="each is where it belongs")
    said = "SELECT DISTINCT remark FROM highlander.term WHERE reason = 'released'"
    wait_for(lambda: database.sql(said) == [("less load on a",)], what="the former leader has written why, of each")
