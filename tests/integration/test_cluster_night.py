"""The claim of the page on one night: what it shows is what three real nodes say, typed in its order."""

from __future__ import annotations

import json
import re

from tests.integration.test_cluster_orders import stopped
from tests.support.commands import highlanderctl
from tests.support.journal import CHILD
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.sessions import Typed, alike, said, typed
from tests.support.wait import wait_for

LEASE = 10.0
"""Seconds: one is waited for, and no worker of a busy machine is silent for 3/10 of it."""
PAGE = "how-to/one-night.md"


def candidates(node: Node, program: str) -> int:
    """Return how many other nodes could lead a program."""
    return int(node.program(program)["candidates"] or 0)


def last_night(nodes: Nodes, database: Database) -> tuple[Node, Node, Node]:
    """Let happen what the page tells of the night."""
    settled_ledger(database, LEASE)
    same = {"JOURNAL": str(nodes.journal.path), "CHILD": " ".join(CHILD), "TEST_HOME": str(nodes.directory)}
    environment = ", ".join(f"{name} = {json.dumps(value)}" for name, value in same.items())
    programs = "".join(f"[program.{name}]\nenvironment = {{ {environment} }}\n" for name in ("beat", "mailer"))
    [a] = nodes(database, "a", programs=programs, lease=LEASE)
    nodes.await_led("beat", "mailer")
    b, c = nodes(database, "b", "c", programs=programs, lease=LEASE)
    wait_for(lambda: candidates(a, "beat") == candidates(a, "mailer") == 2, what="all are known")
    orders = (
        (c, "stop", "beat", "--reason", "c is too small for it"),
        (b, "release", "mailer", "--to", "c", "--reason", "less load on a"),
        (c, "restart", "mailer", "--reason", "a leak"),
    )
    for node, *words in orders:
        done = highlanderctl(node.socket, *words)
        assert done.code == 0, done
    a.crash()
    wait_for(lambda: nodes.leaders().get("beat") is b, what="b takes over")
    boot(nodes, a)
    return a, b, c


def boot(nodes: Nodes, a: Node) -> None:
    """Start a node, and wait until all know of it."""
    a.start()
    nodes.await_up(a)
    wait_for(
        lambda: a.program("beat")["state"] == "stopped" or candidates(nodes.nodes[1], "beat") == 1, what="it is known"
    )


def settled(node: Node) -> bool:
    """Whether every node has written what followed from the last order: each led child is ready, each stop is known."""
    cluster = node.control.ask("GET", "/v1/cluster")
    programs, present = cluster["programs"], all(one["present"] for one in cluster["nodes"])
    held = [one for one in programs if one["stopped"] is not None]
    known = all(
        not one["candidates"] and all(node["reason"].startswith("stopped") for node in one["unable"]) for one in held
    )
    return present and known and all(one["ready"] or one["leader"] is None for one in programs)


def anywhere(step: Typed, lines: list[str]) -> bool:
    """Return whether a command has printed what the page shows, whichever node leads afterwards."""
    return alike(*(tuple(re.sub(r"led by [abc]", "led by N", line) for line in each) for each in (step.shown, lines)))


def test_each_command_of_the_page_prints_what_it_shows(nodes: Nodes, database: Database) -> None:
    a, _, c = last_night(nodes, database)
    for step in typed(PAGE):
        if step.command == "highlanderctl cluster":
            a.signal(15)
            assert a.ended() == 0
            boot(nodes, a)
            wait_for(lambda: stopped(a, "beat").startswith("drained "), what="it is drained still")
            wait_for(lambda: settled(c), what="all nodes are there")
        lines = said(step, {"": c})
        same = anywhere(step, lines) if " start " in step.command else alike(step.shown, lines)
        assert same, "\n".join([step.command, *lines])
        wait_for(lambda: settled(c), what="the ledger has what every node says")
    nodes.await_led("beat", "mailer")
