"""Claims about ``explain`` on real nodes: why here, why not here, why nowhere, and when that changes."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it, and no worker of a busy machine is silent for 3/10 of it."""
SHORT_LEASE = 6.0
"""For tests that wait for its end."""
NOWHERE = Path("/nowhere/control.sock")
FAILS = '[program.beat]\ncommand = ["false"]\nbackoff = 300\nbackoff_max = 300\n'


def told(node: Node, name: str = "beat") -> dict[str, Any]:
    return node.control.ask("GET", f"/v1/explain/{name}")


def says(node: Node, sentence: str, verdict: str = "") -> dict[str, Any]:
    """Wait until the node says it, under a verdict that ends so, and return all that it says then."""

    def said() -> dict[str, Any]:
        found = told(node)
        so = found["verdict"].endswith(verdict) and any(sentence in one for one in found["because"])
        return found if so else {}

    return wait_for(said, what=f"{node.name} says {sentence!r} and {verdict!r}")


def test_leader_and_standby_explain_each_other(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    other = b if leader is a else a
    says(leader, f"it could be led now by {other.name}", "which is this node")
    says(other, f"{other.name}, stands by", f"beat is led by {leader.name}")
    wait_for(lambda: told(other)["earliest"] is None, what="the leader renews, so nobody can say when that ends")
    other.order("stop", "beat")
    says(leader, f"{other.name} could not lead it: stopped by uid ")
    asked = highlanderctl(leader.socket, "explain", "beat")
    assert asked.code == 0
    assert asked.out.splitlines()[0] == f"beat is led by {leader.name}, which is this node"
    assert asked.out.splitlines()[-1] == "only an order or an event changes that"
    assert highlanderctl(leader.socket, "explain", "baet").code == 4
    direct = highlanderctl(NOWHERE, "explain", "beat", "--config", str(a.file), "--json")
    assert (direct.code, json.loads(direct.out)["verdict"]) == (0, f"beat is led by {leader.name}")
    assert highlanderctl(NOWHERE, "explain", "baet", "--config", str(a.file)).code == 4
    assert highlanderctl(NOWHERE, "explain", "beat").code == 5


def test_a_backoff_names_the_moment_at_which_it_ends(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=FAILS, lease=LEASE)
    found = says(node, "backoff, exited with status 1", "no node leads beat")
    assert 0 < datetime.fromisoformat(found["earliest"]).timestamp() - time.time() < 400


def test_a_leader_says_when_its_child_counts_as_ready_which_another_node_leaves_to_it(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs='[program.beat]\nready = "1h"\n', lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    other = b if leader is a else a
    says(other, f"{other.name}, stands by")
    found = says(leader, "its child is not ready")
    assert 3000 < datetime.fromisoformat(found["earliest"]).timestamp() - time.time() < 3700
    wait_for(lambda: told(other)["known_to"] == [leader.name], what="the other node has seen a renewal")
    wait_for(
        lambda: told(other)["because"][0] == told(leader)["because"][0],
        what="both say the ledger's moment, the leader once it has read it",
    )


def test_a_program_that_was_stopped_everywhere_says_by_whom_and_how_to_lift_it(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    node.control.order("beat", "stop", {"everywhere": True, "reason": "it corrupts data", "wait": True}, 60)()
    found = says(node, "it was stopped everywhere by uid ", "no node leads beat")  # it has heard its own release
    assert found["earliest"] is None
    assert ": it corrupts data, at 20" in found["because"][0]


def test_a_lost_leader_leads_no_more_where_nobody_takes_over(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, SHORT_LEASE)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=SHORT_LEASE)
    leader = nodes.await_led("beat")["beat"]
    other = b if leader is a else a
    other.order("stop", "beat")
    wait_for(lambda: told(other)["verdict"] == f"beat is led by {leader.name}", what="the leader is known")
    leader.crash()
    wait_for(lambda: told(other)["verdict"] == "no node leads beat", what="its lease is over")
    wait_for(lambda: other.program("beat")["leader"] is None, what="status says so, too")


def test_a_lost_leader_s_lease_ends_at_a_moment(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, SHORT_LEASE)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=SHORT_LEASE)
    leader = nodes.await_led("beat")["beat"]
    other = b if leader is a else a
    says(leader, f"it could be led now by {other.name}")
    leader.crash()
    earliest = wait_for(lambda: told(other)["earliest"], what="the end of the lease is named")
    assert -1 < datetime.fromisoformat(str(earliest)).timestamp() - time.time() < 22
