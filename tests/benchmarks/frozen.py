"""What a frozen worker costs on a busy machine: lease 2 s, and ten processes that do nothing but count.

The worker of a node that leads ten programs stands still. Its guardian ends it, and the next one has to renew each
lease before the children's deadlines: a child that does not live to see that is one that the freeze has cost.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.deaths import gone, stand_still
from tests.support.nodes import Node, settled_ledger
from tests.support.wait import wait_for

from .bed import daemons, server, sleepers
from .processes import below, name
from .replacement import PAUSE
from .results import OURS, note

PART = "worker frozen"
ROUNDS = 5
PROGRAMS = 10
LEASE = 2.0
LOAD = 10
LONGEST = 300
"""Seconds after which the load ends by itself."""
COUNTING = f"import time\nend = time.monotonic() + {LONGEST}\nwhile time.monotonic() < end: pass"


@contextmanager
def busy() -> Iterator[None]:
    """Keep the machine's processors busy."""
    counting = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(LOAD)]
    try:
        yield
    finally:
        for one in counting:
            one.kill()
            one.wait()


def children(node: Node) -> set[int]:
    """Return the programs' processes."""
    return {pid for pid in below(node.guardian) if name(pid) == "sleep"}


def cost(node: Node) -> int:
    """Freeze the worker, and return how many children had ended when every program was led again."""
    worker, before = node.worker, children(node)
    stand_still(worker)
    wait_for(lambda: gone(worker), 60, "the guardian has ended it")
    wait_for(lambda: node.up() and len(node.leading()) == PROGRAMS, 60, "all are led again")
    return len(before - children(node))


def main() -> None:
    """Print the figure."""
    text = sleepers(PROGRAMS)
    with server() as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        [node] = nodes(database, "a", programs=text, lease=LEASE, log="error")
        wait_for(lambda: len(node.leading()) == PROGRAMS, 60, "all are led")
        with busy():
            costs = []
            for _ in range(ROUNDS):
                time.sleep(PAUSE)
                costs.append(cost(node))
    note(PART, "children that it cost", OURS, costs, f"of {PROGRAMS}", PROGRAMS)


if __name__ == "__main__":
    main()
