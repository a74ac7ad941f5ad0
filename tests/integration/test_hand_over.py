"""The page about handing a program over: its commands are run, and what they print is what it says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it."""
RELEASED = "counter: waiting, led by b\n"
PAGE = Path(__file__).parents[2] / "docs/how-to/hand-over.md"


def _could_lead(node: Node) -> list[str]:
    [program] = node.control.ask("GET", "/v1/cluster")["programs"]
    return list(program["candidates"])


def test_the_page_shows_what_happens(nodes: Nodes, database: Database) -> None:
    shown = dict(re.findall(r"^\$ highlanderctl (release.*)\n(.*\n)", PAGE.read_text("utf-8"), re.MULTILINE))
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["counter"], lease=LEASE)
    nodes.await_led("counter")
    [b] = nodes(database, "b", programs=["counter"], lease=LEASE)

    def run(node: Node, words: str) -> str:
        done = highlanderctl(node.socket, *words.split())
        return done.out + done.err

    def released() -> bool:
        """Release it; a leads it again where b takes longer than the second for which the order waits for its name."""
        wait_for(lambda: _could_lead(a) == ["b"], what="b could lead it, and has written so")
        named = run(a, "release counter") == RELEASED
        if not named:
            nodes.await_led("counter", without=a)
            b.order("release", "counter", to="a")
        return named

    wait_for(released, what="it is released, and the next leader named")
    assert RELEASED in PAGE.read_text("utf-8")
    wait_for(lambda: nodes.await_led("counter")["counter"] is b, what="b leads")
    wait_for(lambda: _could_lead(b) == ["a"], what="a could lead it again: it has seen that another node does")
    to_a = "release counter --to a"  # refused while a is too busy to look whether it could
    wait_for(lambda: run(b, to_a) == shown[to_a], what="it is released to a, as the page shows it")
    assert nodes.await_led("counter")["counter"] is a
    wait_for(lambda: _could_lead(a) == ["b"], what="b could lead it again")
    assert run(a, "release counter --to nowhere") == shown["release counter --to nowhere"]
    code = highlanderctl(a.socket, "release", "counter", "--to", "nowhere").code
    assert f"\n$ echo $?\n{code}\n" in PAGE.read_text("utf-8")
