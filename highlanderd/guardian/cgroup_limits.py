"""Limits by cgroup v2: they hold for a child's whole tree together, from its first instruction on."""

from __future__ import annotations

import errno
import os

from highlanderd.guardian import cgroup
from highlanderd.system import controllers

LARGEST_WEIGHT = b"10000"

FILES = {
    "memory_max": (("memory.oom.group", "1"), ("memory.max", "%d")),  # the tree dies together: its term ends cleanly
    "cpu_max": (("cpu.max", f"%d {controllers.CPU_PERIOD}"),),
    "tasks_max": (("pids.max", "%d"),),
}
"""What is written for each limit: the cgroup's file, and its content."""


def apply(directory: str | None, limits: dict[str, int]) -> str:
    """Set the limits of a child's cgroup, in which nothing is yet. Return which do not hold, and why; empty if all do.

    A program runs without what this machine cannot do.
    """
    if directory is None:
        cure = "let systemd delegate one to the daemon (Delegate=yes)"
        return f"{_names(limits)} cannot hold: the daemon may make no cgroup of version 2; {cure}"
    sentences = []
    for name, value in limits.items():
        try:
            _set(directory, name, value)
        except OSError as error:
            sentences.append(f"{name} cannot hold: {_why(os.path.dirname(directory), name, error)}")
    return "; ".join(sentences)


def _names(limits: dict[str, int]) -> str:
    return " and ".join(", ".join(limits).rsplit(", ", 1))


def _set(directory: str, name: str, value: int) -> None:
    parent, controller = os.path.dirname(directory), controllers.CONTROLLERS[name]
    if controller not in controllers.passed_on(parent):
        cgroup.write(f"{parent}/cgroup.subtree_control", b"+%s" % controller.encode())
        if controller == "cpu":
            _favour(f"{parent}/{cgroup.LEAF}")
    for file, content in FILES[name]:
        cgroup.write(f"{directory}/{file}", (content.replace("%d", str(value))).encode())


def _favour(leaf: str) -> None:
    """Let the daemon go before its children: each cgroup has a share of the processors now, not each process."""
    try:
        cgroup.write(f"{leaf}/cpu.weight", LARGEST_WEIGHT)
    except OSError:
        return  # the daemon is in the root, which shares nothing


def _why(parent: str, name: str, error: OSError) -> str:
    controller = controllers.CONTROLLERS[name]
    if controller not in controllers.offered(parent):
        lack = controllers.lack(controller)
        return lack or f"{parent} has not got the controller {controller}; let systemd delegate it (Delegate=yes)"
    if error.errno == errno.EBUSY:
        return f"processes that are not the daemon's are in its cgroup, {parent}; give it one of its own (Delegate=yes)"
    return f"{error.strerror} ({error.filename or parent})"
