"""What this host lets one daemon have: processes, and memory. Each limit is returned with the name of what sets it.

Only limits that hold for sure are looked at, not what others use at the moment: that changes from second to second.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from highlanderd.system import cgroup_places

MAY_EXCEED: Final = 1 << 24 | 1 << 21
"""CAP_SYS_RESOURCE and CAP_SYS_ADMIN: RLIMIT_NPROC does not hold for a process that has one of them, nor for root."""


class HostLimit(NamedTuple):
    """So many, and what says so."""

    most: int
    by: str


NO_LIMIT: Final = HostLimit(sys.maxsize, "")


def files() -> HostLimit:
    """Return how many files one of the daemon's processes may open: they raise their own limit to the hard one."""
    return _rlimit(resource.getrlimit(resource.RLIMIT_NOFILE)[1], "LimitNOFILE in the unit, ulimit -Hn")


def processes() -> HostLimit:
    """Return how many processes and threads the daemon may have with all that it starts."""
    found = [_number(f"/proc/sys/kernel/{name}", f"kernel.{name}") for name in ("pid_max", "threads-max")]
    found += [*_of_cgroups("pids.max"), *_of_cgroups("pids.max", "pids")]
    if os.getuid() != 0 and not _capabilities() & MAY_EXCEED:
        found.append(processes_of_users())
    return min(found)


def memory() -> HostLimit:
    """Return how many bytes of memory there are for the daemon with all that it starts."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cgroups = [*_of_cgroups("memory.max"), *_of_cgroups("memory.limit_in_bytes", "memory")]
    return min([HostLimit(total, "this machine's memory"), *cgroups])


def processes_of_users() -> HostLimit:
    """Return how many processes and threads a user may have to whom a program changes: all of that user's together."""
    return _rlimit(resource.getrlimit(resource.RLIMIT_NPROC)[0], "LimitNPROC in the unit, ulimit -u")


def _of_cgroups(name: str, controller: str = "") -> Iterator[HostLimit]:
    for directory, mount in cgroup_places.places(controller):
        yield from along(Path(directory), Path(mount), name)


def along(directory: Path, mount: Path, name: str) -> Iterator[HostLimit]:
    """Yield what a cgroup and those above it allow, as far up as is mounted; ``name`` is a file of each."""
    for each in (directory, *directory.parents):
        if each.is_relative_to(mount):
            yield _number(f"{each}/{name}", f"{each}/{name}")


def _number(path: str, by: str) -> HostLimit:
    text = next(iter(cgroup_places.lines(path)), "")
    return HostLimit(int(text), by) if text.isascii() and text.isdigit() else NO_LIMIT


def _rlimit(most: int, by: str) -> HostLimit:
    return NO_LIMIT if most == resource.RLIM_INFINITY else HostLimit(most, by)


def _capabilities() -> int:
    """Return the effective capabilities of this process, as a mask."""
    found = [line.split()[1] for line in cgroup_places.lines("/proc/self/status") if line.startswith("CapEff:")]
    return int(found[0], 16) if found else 0
