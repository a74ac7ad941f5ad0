"""What the processes of children use: one look at all processes of this machine, and at the cgroups of the children.

Everything here may take a while on a machine with many processes, so it runs in a thread (see ``meter.py``).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final

from msgspec import Struct

from highlanderd.core.status import Usage
from highlanderd.system import proctree

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
"""Bytes of a page of memory."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
"""In a second of processor time."""
MOST_FILES: Final = 100_000
"""Open files of one process that are counted one by one, where the kernel does not say their number (before 6.2)."""


class MeasuredTree(Struct, frozen=True):
    """One child: its keeper's pid, and its cgroup's directory, which perhaps does not exist."""

    keeper: int
    directory: str | None


class _Process(Struct, frozen=True):
    """One process, as ``/proc/PID/stat`` shows it. Times are ticks."""

    parent: int
    zombie: bool
    own: int
    reaped: int
    """Of its children that have ended, if it has waited for them."""
    threads: int
    pages: int


def usages(kept: Mapping[int, MeasuredTree], within: float) -> Mapping[int, Usage]:
    """Return what each child uses, by the same keys as ``kept``.

    Raises TimeoutError after ``within`` seconds, and OSError when there is no descriptor to look with.
    """
    if not kept:
        return {}
    end = monotonic() + within
    processes = dict(_processes(end))
    below: dict[int, list[int]] = defaultdict(list)
    for pid, process in processes.items():
        below[process.parent].append(pid)
    return {key: _usage(child, processes, below, end) for key, child in kept.items()}


def _processes(end: float) -> Iterator[tuple[int, _Process]]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - there may be ten thousand, and names are enough
        if name.isdecimal():
            _refuse_after(end)
            if stat := proctree.contents(f"/proc/{name}/stat"):
                yield int(name), _process(stat)


def _process(stat: bytes) -> _Process:
    state, parent, *rest = stat.rpartition(b") ")[2].split()
    user, system, reaped_user, reaped_system = map(int, rest[9:13])
    return _Process(
        int(parent), state == b"Z", user + system, reaped_user + reaped_system, int(rest[15]), int(rest[19])
    )


def _usage(child: MeasuredTree, processes: Mapping[int, _Process], below: Mapping[int, list[int]], end: float) -> Usage:
    tree = list(_descendants(child.keeper, below))
    found = [processes[pid] for pid in tree]
    living = [process for process in found if not process.zombie]
    counted = {} if child.directory is None else cgroup_counts(child.directory)
    keeper = processes.get(child.keeper)
    ticks = sum(process.own + process.reaped for process in found) + (0 if keeper is None else keeper.reaped)
    return Usage(
        cpu=counted.get("cpu", 1_000_000 * ticks / TICKS) / 1_000_000,
        memory=counted.get("memory", sum(process.pages for process in living) * PAGE),
        processes=len(living),
        tasks=counted.get("tasks", sum(process.threads for process in living)),
        open_files=_files(tree, end),
        oom_kills=counted.get("oom_kills"),
    )


def _descendants(keeper: int, below: Mapping[int, list[int]]) -> Iterator[int]:
    level = below.get(keeper, [])
    while level:
        yield from level
        level = [child for pid in level for child in below.get(pid, ())]


EVENTS: Final = "memory.events"
"""The file of a cgroup that counts what its lack of memory has led to."""
# By file of a cgroup and the word before the number in it: what is counted there, in microseconds and bytes.
_COUNTED: Final = {
    "cpu.stat": {b"usage_usec": "cpu"},
    "memory.current": {b"": "memory"},
    "pids.current": {b"": "tasks"},
    EVENTS: {b"oom_kill": "oom_kills", b"oom": "limit_reached"},
}


def cgroup_counts(directory: str, *files: str) -> dict[str, int]:
    """Return what the kernel has counted for a cgroup: less where a controller is not switched on for it.

    ``files`` are those of ``_COUNTED`` that are wanted; all of them without any.
    """
    found = {}
    for file in files or _COUNTED:
        with suppress(OSError):
            for line in proctree.contents(f"{directory}/{file}").splitlines():
                word, _, number = line.rpartition(b" ")
                if name := _COUNTED[file].get(word):
                    found[name] = int(number)
    return found


def _files(pids: Iterable[int], end: float) -> int | None:
    """Return how many files processes hold open; None where this daemon may not look at one of them."""
    found = 0
    for pid in pids:
        _refuse_after(end)
        try:
            found += _files_of(f"/proc/{pid}/fd")
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        except PermissionError:
            return None
    return found


def _files_of(directory: str) -> int:
    if known := Path(directory).stat().st_size:  # since Linux 6.2
        return known
    with os.scandir(directory) as entries:
        return sum(1 for _ in islice(entries, MOST_FILES))


def _refuse_after(end: float) -> None:
    if monotonic() > end:
        raise TimeoutError("this machine has too many processes to look at")
