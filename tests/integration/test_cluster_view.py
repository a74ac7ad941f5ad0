"""Claims about the cluster as any of its nodes shows it: who leads, who could take over, who could not and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.support.commands import highlanderctl
from tests.support.memory_node import Ended
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it, and no worker of a busy machine is silent for 3/10 of it."""
SHORT_LEASE = 6.0
"""For the test that waits for more renewals than it has."""
NOWHERE = Path("/nowhere/control.sock")


def shown(node: Node, name: str = "beat") -> dict[str, Any]:
    """Return one program of the cluster as this node shows it."""
    programs = node.control.ask("GET", "/v1/cluster")["programs"]
    return next((program for program in programs if program["name"] == name), {"candidates": [], "unable": []})


def becomes(node: Node, fact: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
    """Wait until the node shows it, and return the program as it is shown then."""

    def so() -> dict[str, Any]:
        found = shown(node)
        return found if fact(found) else {}

    return wait_for(so, what=what)


def unable(program: dict[str, Any]) -> dict[str, str]:
    return {one["node"]: one["reason"] for one in program["unable"]}


def test_every_node_shows_who_leads_and_who_could_take_over(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    a, b, c = nodes(database, "a", "b", "c", programs=["beat"], lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    others = sorted(node.name for node in (a, b, c) if node is not leader)
    for node in (a, b, c):
        found = becomes(node, lambda it: it["candidates"] == others and it["ready"], "both standbys are shown")
        assert (found["leader"], found["unable"], found["stopped"]) == (leader.name, [], None)
        assert found["epoch"] == 1
        names = [
            (one["name"], one["present"], one["drained"]) for one in node.control.ask("GET", "/v1/cluster")["nodes"]
        ]
        assert names == [("a", True, None), ("b", True, None), ("c", True, None)]
    wait_for(lambda: leader.program("beat")["candidates"] == 2, what="status counts them")
    done = highlanderctl(a.socket, "cluster")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1].split()[:3] == ["beat", leader.name, "1"]
    assert json.loads(highlanderctl(a.socket, "cluster", "--json").out)["programs"][0]["leader"] == leader.name


def test_a_node_that_is_gone_or_stopped_is_no_candidate(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    nodes(database, "a", "b", "c", programs=["beat"], lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    one, other = (node for node in nodes.nodes if node is not leader)
    becomes(leader, lambda it: len(it["candidates"]) == 2, "both stand by")
    one.order("stop", "beat")
    found = becomes(leader, lambda it: it["candidates"] == [other.name], "a stopped node does not count")
    assert unable(found)[one.name].startswith("stopped by uid ")
    other.crash()
    found = becomes(leader, lambda it: not it["candidates"], "a node that has died does not count")
    assert unable(found)[other.name].startswith("its daemon is not connected, last seen 20")
    wait_for(lambda: leader.program("beat")["candidates"] == 0, what="status says that nobody stands by")


def test_drift_is_named_by_key_and_shows_no_value(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    becomes(a, lambda it: len(it["candidates"]) == 1, "b or a stands by")
    leader = nodes.await_led("beat")["beat"]
    other = b if leader is a else a
    secret = "hunter2-of-the-test"
    other.file.write_text(
        other.file.read_text().replace(
            "[program.beat]", f'[program.beat]\nenvironment = {{ TOKEN = "{secret}" }}\nbackoff = 3'
        )
    )
    other.control.ask("POST", "/v1/reload", {})
    found = becomes(
        a, lambda it: any("backoff" in drift["keys"] for drift in it["drift"]), "the other configuration is shown"
    )
    assert found["drift"] == [{"node": other.name, "keys": ["backoff", "environment"]}]
    rows = database.sql("SELECT c::text FROM highlander.candidate AS c")
    assert not any(secret in row for (row,) in rows)


@pytest.mark.long  # a server that refuses one table
def test_presence_that_cannot_be_written_costs_no_renewal(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, SHORT_LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=SHORT_LEASE)
    nodes.await_led("beat")
    wait_for(lambda: database.sql("SELECT 1 FROM highlander.candidate WHERE ready"), what="it is written")
    before = nodes.life("beat").pids
    [(renewal,)] = database.sql("SELECT renewal FROM highlander.lease")
    with psycopg.connect(database.dsn) as blocker:
        blocker.execute("LOCK highlander.node, highlander.candidate IN ACCESS EXCLUSIVE MODE")
        wait_for(
            lambda: database.sql("SELECT renewal FROM highlander.lease") > [(renewal + 6,)],
            what="more than a lease of renewals",
        )
        wait_for(
            lambda: any("other nodes do not see" in note for note in node.status()["warnings"]), what="the status warns"
        )
    assert nodes.life("beat").pids == before
    wait_for(lambda: not any("other nodes do not see" in note for note in node.status()["warnings"]), what="it is over")


def test_a_standby_that_lacks_the_command_is_no_candidate(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    missing = '[program.beat]\ncommand = ["/nowhere/beat"]\n'
    nodes(database, "b", programs=missing, lease=LEASE)
    why = {"b": "there is no file /nowhere/beat; install it, or correct the path"}
    found = becomes(a, lambda it: unable(it) == why, "b could not start it")  # at first it has no session yet
    assert found["candidates"] == []


@pytest.mark.long  # test_cluster_roles.py has the role that reads
def test_the_cluster_is_shown_without_a_daemon_to_a_role_that_may_only_read(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    found = becomes(a, lambda it: it["leader"] and it["candidates"], "beat is led, and has a standby")
    reader = f"{database.role}_reader"
    tables = ", ".join(f"highlander.{table}" for table in ("meta", "lease", "term", "node", "candidate", "wish"))
    database.sql(f'CREATE ROLE "{reader}" LOGIN', admin=True)
    try:
        database.sql(
            f'GRANT USAGE ON SCHEMA highlander TO "{reader}"; GRANT SELECT ON {tables} TO "{reader}"', admin=True
        )
        done = highlanderctl(NOWHERE, "cluster", "--dsn", make_conninfo(database.dsn, user=reader), "--json")
        assert (done.code, done.err) == (0, "")
        [program] = json.loads(done.out)["programs"]
        assert (program["leader"], program["candidates"]) == (found["leader"], found["candidates"])
        assert highlanderctl(NOWHERE, "cluster", "--config", str(b.file)).out.splitlines()[1].split()[0] == "beat"
        [told] = json.loads(highlanderctl(a.socket, "history", "--json").out)["terms"]
        direct = highlanderctl(NOWHERE, "history", "b*", "--config", str(b.file), "--json")
        [again] = json.loads(direct.out)["terms"]
        assert again.pop("led") >= told.pop("led")  # it goes on
        assert (direct.code, again) == (0, told)
        assert highlanderctl(NOWHERE, "history", "x", "--config", str(b.file)).code == 4
        waited = ("wait", "beat", "--dsn", make_conninfo(database.dsn, user=reader), "--for")
        line = f"beat: ready, led by {found['leader']}, epoch {found['epoch']}\n"
        assert highlanderctl(NOWHERE, *waited, "ready") == Ended(0, line, "")
        assert highlanderctl(NOWHERE, *waited, "finished", "--timeout", "1s").code == 7
        assert highlanderctl(NOWHERE, *waited, "stopped").code == 2
        assert highlanderctl(NOWHERE, "wait", "x", "--for", "ready", "--config", str(b.file)).code == 4
        summed = highlanderctl(NOWHERE, "history", "--summary", "--dsn", make_conninfo(database.dsn, user=reader))
        assert (summed.code, summed.out.splitlines()[-1].split()[:2]) == (0, ["1", "term"])
        refused = highlanderctl(NOWHERE, "cluster", "--dsn", "host=127.0.0.1 port=1 user=x")
        assert refused.code == 1
        assert refused.err.startswith("highlanderctl: PostgreSQL does not answer: ")
    finally:
        database.sql(f'DROP OWNED BY "{reader}"; DROP ROLE "{reader}"', admin=True)
