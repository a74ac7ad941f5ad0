"""What the daemons' processes use, and which processes there are."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.deaths import gone, marked, proc_file
from tests.support.nodes import Node
from tests.support.processes import children

SAMPLES = 8
"""Looks, of which the least counts: a question that is just asked has a descriptor, too."""
APART = 0.7
"""Seconds between two of them."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one process uses."""

    node: str
    kind: str
    program: str
    descriptors: int
    kilobytes: int
    """Resident memory."""
    threads: int


@dataclass(frozen=True, slots=True)
class Child:
    """One process of a program's tree."""

    pid: int
    program: str
    epoch: int
    node: str


def uses(nodes: Iterable[Node]) -> dict[int, Use]:
    """Return what each process of the daemons uses, by pid; of several looks the least."""
    least: dict[int, Use] = {}
    for _ in range(SAMPLES):
        now = {pid: use for node in nodes for pid, use in _of_node(node)}
        least = {pid: _lesser(use, least.get(pid, use)) for pid, use in now.items()}
        time.sleep(APART)
    return least


def _lesser(one: Use, other: Use) -> Use:
    facts = ("descriptors", "kilobytes", "threads")
    return Use(one.node, one.kind, one.program, *(min(getattr(one, name), getattr(other, name)) for name in facts))


def _of_node(node: Node) -> Iterator[tuple[int, Use]]:
    workers = node.mine(b"--worker")
    for pid in own(node):
        name = proc_file(f"/proc/{pid}/comm").decode().strip()
        kind, _, program = name.partition(" ")
        if pid == node.guardian:
            kind, program = "guardian", ""
        elif pid in workers:
            kind, program = "worker", ""
        elif name == "fork server":
            kind, program = name, ""
        elif kind not in ("keep", "log"):
            kind, program = "spare", ""
        status = dict(line.split(":", 1) for line in proc_file(f"/proc/{pid}/status").decode().splitlines())
        try:
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
            numbers = int(status["VmRSS"].split()[0]), int(status["Threads"])
        except (OSError, KeyError):  # it has ended
            continue
        yield pid, Use(node.name, kind, program, descriptors, *numbers)


def own(node: Node) -> list[int]:
    """Return the pids of a daemon: guardian, fork server, worker, spare, keepers, loggers."""
    if not node.runs:
        return []
    ours = [node.guardian]
    for pid in ours:
        ours += [child for child in children(pid) if b"HIGHLANDER_EPOCH=" not in proc_file(f"/proc/{child}/environ")]
    return ours


def trees(directory: Path) -> list[Child]:
    """Return every process of every program's tree, whichever daemon has started it."""
    found = []
    for pid in marked(directory):
        words = dict(word.partition(b"=")[::2] for word in proc_file(f"/proc/{pid}/environ").split(b"\0"))
        if b"HIGHLANDER_EPOCH" in words and not gone(pid):
            said = [words[b"HIGHLANDER_" + name].decode() for name in (b"PROGRAM", b"EPOCH", b"NODE")]
            found.append(Child(pid, said[0], int(said[1]), said[2]))
    return found


def unexplained(nodes: Iterable[Node], directory: Path) -> list[str]:
    """Return the processes of daemons that no living daemon has, and zombies that nobody collects."""
    known = {pid for node in nodes for pid in own(node)} | {child.pid for child in trees(directory)}
    return [f"pid {pid}: {proc_file(f'/proc/{pid}/cmdline')[:200]!r}" for pid in marked(directory) if pid not in known]


def totals(census: dict[int, Use]) -> Counter[tuple[str, str]]:
    """Return how many processes of each kind each node has."""
    return Counter((use.node, use.kind) for use in census.values())
