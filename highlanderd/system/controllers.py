"""The controllers of cgroup v2 that limit a program: which limit needs which, and whether this machine has it."""

# pathlib costs more memory than a keeper has
from __future__ import annotations

import os

from highlanderd.system import cgroup_places

CONTROLLERS = {"cpu_max": "cpu", "memory_max": "memory", "tasks_max": "pids"}
"""By the limit's name."""
CPU_PERIOD = 100_000
"""Microseconds, the kernel's own: ``cpu_max`` is how many of processor time a program has in each of them."""


def lack(controller: str) -> str:
    """Return why no cgroup of this machine can use a controller, and the cure; empty when one can.

    Whether the daemon's own cgroup can is not said: only the daemon is in it.
    """
    mounts = [mount for _, mount in cgroup_places.mounts()]
    if not mounts:
        return "no cgroup v2 is mounted here; boot with systemd.unified_cgroup_hierarchy=1, or mount it"
    if not any(controller in offered(mount) for mount in mounts):
        return (
            f"cgroup v2 has no controller {controller} here: cgroup v1, a container's host or the kernel's command "
            "line keeps it; boot with systemd.unified_cgroup_hierarchy=1, or limit the whole container"
        )
    if os.geteuid() == 0 and not any(os.access(mount, os.W_OK) for mount in mounts):
        return f"{mounts[0]} is mounted read-only; let the container write to its cgroup, or limit the whole container"
    return ""


def offered(directory: str) -> list[str]:
    """Return the controllers that a cgroup may pass on to those below it."""
    return _words(f"{directory}/cgroup.controllers")


def passed_on(directory: str) -> list[str]:
    """Return the controllers that a cgroup passes on."""
    return _words(f"{directory}/cgroup.subtree_control")


def _words(path: str) -> list[str]:
    return " ".join(cgroup_places.lines(path)).split()
