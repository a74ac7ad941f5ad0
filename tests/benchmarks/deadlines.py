"""How late trees die whose deadlines all pass at once, as when PostgreSQL has been gone for most of a lease.

A hundred keepers of one guardian, three processes each, while every processor is busy; with a cgroup for each and
without. Deaths are told by the kernel (pidfd), deadlines by the keepers.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import statistics
import tempfile
from pathlib import Path

from highlanderd.system.linux import boottime
from tests.support.processes import Node, node_at

TREES, AHEAD = 100, 3.0
"""Trees, and the seconds from the last renewal of each to its deadline."""


def busy() -> None:
    """Keep a processor busy."""
    while True:
        pass


def planted(node: Node, cgroup: bool) -> dict[int, list[int]]:
    """Start all trees; gives their processes by epoch."""
    trees = {}
    for number in range(TREES):
        script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait"
        epoch = node.shell(script, program=f"p{number}", lock_id=number, cgroup=cgroup)
        below = ""
        while below.count("\n") < 2:
            below += node.line(epoch)
        trees[epoch] = [node.expect("Started", epoch=epoch)["pid"], *map(int, below.split())]
    return trees


def deadlines(node: Node, trees: dict[int, list[int]]) -> dict[int, float]:
    """Let all deadlines come; gives each as its keeper knows it."""
    for epoch in trees:
        node.tell("entrust", epoch=epoch, deadline=AHEAD, memo="last")
    known: dict[int, float] = {}
    while len(known) < len(trees):
        for epoch in trees.keys() - known.keys():
            node.tell("report", epoch=epoch)
            report = node.expect("report", epoch=epoch)
            if report["memo"] == "last":
                known[epoch] = report["deadline"]
    return known


def died(trees: dict[int, list[int]]) -> dict[int, float]:
    """Wait for every process; gives when the last of each tree has ended."""
    epochs = {os.pidfd_open(pid): epoch for epoch, pids in trees.items() for pid in pids}
    poller, last = select.poll(), {}
    for fd in epochs:
        poller.register(fd, select.POLLIN)
    while epochs:
        for fd, _ in poller.poll():
            last[epochs.pop(fd)] = boottime()
            poller.unregister(fd)
            os.close(fd)
    return last


def measure(cgroup: bool) -> None:
    """Print one line."""
    with tempfile.TemporaryDirectory() as home, node_at(Path(home), lease=30.0) as node:
        trees = planted(node, cgroup)
        spinners = [multiprocessing.Process(target=busy, daemon=True) for _ in range(os.cpu_count() or 1)]
        for spinner in spinners:
            spinner.start()
        due = deadlines(node, trees)
        last = died(trees)
        for spinner in spinners:
            spinner.kill()
            spinner.join()
    late = [1000 * (last[epoch] - due[epoch]) for epoch in trees]
    spread = 1000 * (max(due.values()) - min(due.values()))
    print(
        f"{TREES} trees of 3, {'with' if cgroup else 'without'} cgroups, deadlines within {spread:.0f} ms: "
        f"dead {statistics.median(late):.0f} ms late in the middle, {max(late):.0f} ms at worst"
    )


if __name__ == "__main__":
    for each in (True, False):
        measure(each)
