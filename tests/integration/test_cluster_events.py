"""Claims about events on real nodes: any of them tells what happens on all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.commands import highlanderctl
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 10.0
NOWHERE = Path("/nowhere/control.sock")


def lately(*line: str, socket: Path = NOWHERE) -> list[dict[str, Any]]:
    done = highlanderctl(socket, "events", "--json", *line)
    assert (done.code, done.err) == (0, "")
    return [json.loads(one) for one in done.out.splitlines()]


def test_what_happens_on_one_node_is_followed_on_another(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    other = b if leader is a else a
    wait_for(lambda: other.program("beat")["leader"] == leader.name, what="the other node knows who leads")
    with subprocess.Popen(
        [sys.executable, "-m", "highlanderd.ctl", "--socket", str(other.socket), "events", "-f", "--json"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        assert (first["event"], first["program"], first["node"]) == ("snapshot", "beat", leader.name)
        [led_there] = leader.control.ask("GET", "/v1/cluster")["programs"]
        assert first["time"] == led_there["since"]  # not since when the other node waits
        leader.order("release", "beat", to=other.name, reason="new disk")
        found = [first]
        while not {"ended", "leading"} <= {one["event"] for one in found}:  # in either order: two nodes have seen them
            found.append(json.loads(following.stdout.readline()))
        [end] = [one for one in found if one["event"] == "ended"]
        assert (end["node"], end["epoch"], end["cause"]) == (leader.name, 1, "released")
        assert end["reason"] == "new disk"
        led = [one for one in found if one["event"] == "leading"]
        assert [(one["node"], one["epoch"]) for one in led] == [(other.name, 2)]
        other.control.ask("POST", "/v1/drain", {"nodes": [leader.name], "reason": "kernel", "force": True})
        while found[-1]["event"] != "drained":
            found.append(json.loads(following.stdout.readline()))
        assert (found[-1]["node"], found[-1]["reason"]) == (leader.name, "kernel")
        following.kill()
    told = [(one["event"], one["node"], one["epoch"]) for one in lately(socket=leader.socket)]
    for each in (("leading", leader.name, 1), ("ended", leader.name, 1), ("leading", other.name, 2)):
        assert told.count(each) == 1  # as the ledger remembers it, and as the node itself has seen it
    direct = [(one["event"], one["node"]) for one in lately("--config", str(a.file))]
    assert ("drained", leader.name) in direct, "the ledger alone tells of the drain"
    assert direct[:1] == [("leading", leader.name)]


def test_a_node_without_postgresql_tells_what_it_has_seen(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    events = [one["event"] for one in lately(socket=node.socket)]
    assert events == ["leading", "started"]
    database.sql("DROP TABLE highlander.event")
    assert [one["event"] for one in lately(socket=node.socket)] == ["leading", "started"]


def test_a_change_of_leases_is_an_event_with_who_and_why(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    for words in ("ledger set-lease 5s", "maintenance on --for 60s", "maintenance off"):
        assert highlanderctl(node.socket, *words.split(), "--no-wait", "--reason", "a test").code == 0
    found = [one for one in lately(socket=node.socket) if one["author"] and one["program"] is None]
    assert [(one["event"], one["node"], one["reason"]) for one in found] == [
        ("lease_set", None, "5s: a test"),
        ("maintenance_begun", None, "1m: a test"),
        ("maintenance_ended", None, "a test"),
    ]
    assert all(re.fullmatch(rf"uid \d+( \(.*\))? on node a, role {database.role}", one["author"]) for one in found)
