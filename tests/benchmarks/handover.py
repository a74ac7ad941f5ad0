"""How long a program does not run: released by an operator, and killed.

From the old child's last act to the first line of the new one on the other node, both by the children's own journal;
the start of the child's interpreter is measured alone and told beside it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from statistics import median

from highlanderd.system.linux import boottime
from tests.support.journal import CHILD
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.wait import wait_for

from .bed import daemons, milliseconds, server

ROUNDS = 20
LEASE = 10.0
GOAL = 25
BETWEEN = 0.3
"""Seconds between two rounds: longer than the backoff, so that both nodes are candidates again."""


def interpreter_start(nodes: Nodes, number: int) -> float:
    """Start the child without any daemon, for the ``number``-th time; gives the seconds until its first line."""
    names = {"PROGRAM": "alone", "LOCK_ID": "0", "EPOCH": str(number), "NODE": "none"}
    environment = {f"HIGHLANDER_{name}": value for name, value in names.items()}
    began = boottime()
    child = subprocess.Popen(CHILD, env={**environment, "JOURNAL": str(nodes.journal.path)})
    wait_for(partial(lives_at_least, nodes, "alone", number))
    child.terminate()
    child.wait()
    return nodes.life("alone").began - began


def lives_at_least(nodes: Nodes, program: str, count: int) -> bool:
    """Whether a program has lived so often. Asks nobody: a question would cost the nodes what is measured."""
    return nodes.journal.path.read_bytes().count(b"start ") >= count and len(nodes.journal.lives(program)) >= count


def leader(nodes: Nodes) -> Node:
    """Return the node of the latest child, by its own word."""
    name = nodes.life("beat").node
    return next(node for node in nodes.nodes if node.name == name)


def released(nodes: Nodes) -> tuple[list[float], list[float]]:
    """Release the program from node to node; gives the gaps, and between them the interpreter's starts, in seconds."""
    before, starts = len(nodes.journal.lives("beat")), []
    for number in range(1, ROUNDS + 1):
        leader(nodes).control.order("beat", "release", {})()
        wait_for(partial(lives_at_least, nodes, "beat", before + number))
        time.sleep(BETWEEN)
        starts.append(interpreter_start(nodes, number))
    return nodes.journal.gaps("beat")[before - 1 :], starts


def killed(nodes: Nodes) -> list[float]:
    """SIGKILL the child again and again; gives the seconds from the kill to the next child's first line."""
    spent = []
    for _ in range(ROUNDS):
        count = len(nodes.journal.lives("beat"))
        [pid] = nodes.life("beat").pids
        began = boottime()
        os.kill(pid, signal.SIGKILL)
        wait_for(partial(lives_at_least, nodes, "beat", count + 1))
        spent.append(nodes.life("beat").began - began)
        time.sleep(BETWEEN)
    return spent


def main() -> None:
    """Print the figures."""
    with server() as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        beat = "[program.beat]\nbackoff = 0.1\nbackoff_max = 0.1\n"
        nodes(database, "a", "b", programs=beat, lease=LEASE)
        nodes.await_led("beat")
        (gaps, alone), kills = released(nodes), killed(nodes)
        doubles = nodes.journal.doubles()
    beyond = 1000 * (median(gaps) - median(alone))
    print(f"  child's interpreter, alone     {milliseconds(alone)}")
    print(f"  release: exit to first line    {milliseconds(gaps)}")
    print(f"  beyond the interpreter         median {beyond:6.1f} ms   (goal: under {GOAL})")
    print(f"  kill -9: kill to first line    {milliseconds(kills)}")
    print(f"  doubled                        {doubles or 'never'}")


if __name__ == "__main__":
    main()
