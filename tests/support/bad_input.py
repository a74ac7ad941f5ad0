"""A daemon that is given something wrong: start it, and read what its status says."""

from __future__ import annotations

from tests.support.commands import answers
from tests.support.nodes import Node, Nodes
from tests.support.wait import wait_for

LEASE = 10.0
"""Seconds; nothing here waits for it."""
UNREACHABLE = "host=127.0.0.1 port={} dbname=ops user=ops"
QUIET = '[program.beat]\ncommand = ["sleep", "1000"]\n'


def begin(nodes: Nodes, dsn: str, programs: str = QUIET) -> Node:
    """Start a daemon, whatever becomes of it."""
    node = Node("a", nodes.directory / "a", dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.configure(programs)
    node.start()
    return node


def answering(node: Node) -> Node:
    """Wait until it answers, connected or not."""
    wait_for(lambda: answers(node), what=f"{node.name} answers")
    return node


def reason(node: Node, program: str, words: str) -> str:
    """Wait until a program's reason holds these words; gives all of it."""

    def why() -> str:
        said = str(node.program(program)["reason"]) if answers(node) else ""
        return said if words in said else ""

    return wait_for(why, what=f"{program} says {words!r}")
