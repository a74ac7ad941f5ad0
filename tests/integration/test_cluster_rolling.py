"""Claims about a change of one program on all nodes, as its how-to page says: one handover at most."""

from __future__ import annotations

import pytest

from tests.integration.test_cluster_orders import both_know
from tests.support.commands import highlanderctl
from tests.support.long import first_of
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.sessions import alike, said, typed
from tests.support.wait import wait_for

LEASE = 10.0
PAGE = "how-to/change-a-program.md"
NEW = '[program.beat]\numask = "077"\n[program.bot]\n'


def led_by_a(nodes: Nodes, database: Database) -> dict[str, Node]:
    """Start three nodes, the first of which leads all, and write the new file on each; return them by name."""
    settled_ledger(database, LEASE)
    nodes(database, "a", programs=["beat", "bot"], lease=LEASE)
    nodes.await_led("beat", "bot")
    nodes(database, "b", "c", programs=["beat", "bot"], lease=LEASE)
    both_know(nodes, "beat", "bot")
    for node in nodes.nodes:
        node.configure(NEW)
    return {node.name: node for node in nodes.nodes}


def drifting(node: Node) -> list[str]:
    """Return the nodes whose ``umask`` of ``beat`` is another one than the leader's; each has its own environment."""
    programs = node.control.ask("GET", "/v1/cluster")["programs"]
    return [drift["node"] for program in programs for drift in program["drift"] if "umask" in drift["keys"]]


def test_the_page_costs_no_handover_and_one_start(nodes: Nodes, database: Database) -> None:
    by_name = led_by_a(nodes, database)
    for step in typed(PAGE):
        lines = said(step, {**by_name, "": by_name["a"]})
        assert alike(step.shown, lines), (step, lines)
    assert nodes.await_led("beat", "bot") == {"beat": by_name["a"], "bot": by_name["a"]}
    assert ends(database, "beat") == ["changed", None]
    assert ends(database, "bot") == [None], "no other program was touched"
    assert len(nodes.journal.lives("beat")) == 2
    wait_for(lambda: not drifting(by_name["c"]), what="all nodes have the new file")


@pytest.mark.parametrize("first", first_of(["leader", "standbys"]))
def test_a_change_of_all_nodes_costs_at_most_one_handover_in_either_order(
    nodes: Nodes, database: Database, first: str
) -> None:
    by_name = led_by_a(nodes, database)
    standbys = [by_name["b"], by_name["c"]]
    for node in (*standbys, by_name["a"]) if first == "standbys" else (by_name["a"], *standbys):
        assert highlanderctl(node.socket, "reload").code == 0
    wait_for(lambda: ends(database, "beat")[:1] == ["changed"], what="the term has ended")
    nodes.await_led("beat")
    terms = "SELECT node FROM highlander.term WHERE program = 'beat'"
    wait_for(lambda: database.sql(terms) == [("a",), ("a",)], what="the history has both terms")
    assert len(nodes.journal.lives("beat")) == 2


def test_the_new_file_comes_with_one_handover_to_another_node(nodes: Nodes, database: Database) -> None:
    by_name = led_by_a(nodes, database)
    for name in ("b", "c"):
        assert highlanderctl(by_name[name].socket, "reload").code == 0
    both_know(nodes, "beat")
    done = highlanderctl(by_name["c"].socket, "release", "beat", "--to", "b")
    assert done.code == 0, done
    assert highlanderctl(by_name["a"].socket, "reload").code == 0
    assert nodes.await_led("beat")["beat"] is by_name["b"]
    terms = "SELECT node, reason FROM highlander.term WHERE program = 'beat' ORDER BY epoch"
    wait_for(lambda: database.sql(terms) == [("a", "released"), ("b", None)], what="the history has both terms")
    assert len(nodes.journal.lives("beat")) == 2
