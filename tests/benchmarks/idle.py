"""What a quiet day costs: two nodes with 200 programs each, every one of which leads 100 and waits for 100.

Prints each worker's and guardian's CPU over a minute, their memory, and what their keepers share with nobody.
``IDLE_PROGRAMS`` and ``IDLE_SECONDS`` change the size.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from tests.support.deaths import marked
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.wait import wait_for

from .bed import daemons, server, sleepers
from .processes import cpu, private_kilobytes

PROGRAMS = int(os.environ.get("IDLE_PROGRAMS", "200"))
SECONDS = float(os.environ.get("IDLE_SECONDS", "60"))
LEASE = 10.0
SETTLE = 3 * LEASE
"""Seconds before the measurement: starts and handovers are over, and what they left was renewed."""
GOALS = "goals: worker under 6 % of a core and 80 MB, keeper under 1000 kB private"


def resident(pid: int) -> float:
    """Return its resident memory in megabytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1000


def keepers(node: Node) -> list[int]:
    """List the keepers of a node."""
    comms = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in marked(node.home)}
    return [pid for pid, comm in comms.items() if comm.startswith("keep ")]


def divide(nodes: Nodes, first: Node, second: Node) -> None:
    """Let each of the two lead one half."""
    wait_for(lambda: len(first.leading()) == PROGRAMS, 120, "the first node leads all")
    nodes.await_up(second)
    for number in range(0, PROGRAMS, 2):
        first.control.order(f"p{number}", "release", {})()
    half = PROGRAMS // 2
    wait_for(lambda: (len(first.leading()), len(second.leading())) == (half, half), 120, "each leads one half")


def main() -> None:
    """Print the figures."""
    programs = sleepers(PROGRAMS)
    with server(max_connections=str(2 * PROGRAMS + 50)) as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        [first] = nodes(database, "a", programs=programs, lease=LEASE, log="info")
        [second] = nodes(database, "b", programs=programs, lease=LEASE, log="info")
        divide(nodes, first, second)
        time.sleep(SETTLE)
        pids = {f"{node.name}'s {name}": getattr(node, name) for node in nodes.nodes for name in ("worker", "guardian")}
        before = {name: cpu([pid]) for name, pid in pids.items()}
        time.sleep(SECONDS)
        for name, pid in pids.items():
            percent = 100 * (cpu([pid]) - before[name]) / SECONDS
            print(f"  {name:<14} {percent:5.2f} % of a core, {resident(pid):5.1f} MB resident")
        private = [private_kilobytes(pid) for node in nodes.nodes for pid in keepers(node)]
        print(f"  {len(private)} keepers    median {median(private):.0f} kB private, largest {max(private)} kB")
        print(f"  {GOALS}")


if __name__ == "__main__":
    main()
