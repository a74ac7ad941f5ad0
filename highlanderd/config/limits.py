"""Limits of a child: of each process, as setrlimit(2) has them, and of its whole tree, by cgroup v2."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from highlanderd.config.values import kind, quoted, size
from highlanderd.system.controllers import CONTROLLERS, CPU_PERIOD, lack

UNLIMITED: Final = -1
"""``RLIM_INFINITY``."""

_IN_BYTES: Final = ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack")
_COUNTS: Final = ("nofile", "nproc", "sigpending", "rtprio", "cpu", "rttime")
RLIMITS: Final = tuple(sorted((*_IN_BYTES, *_COUNTS)))
"""setrlimit's limits, in small letters and without ``RLIMIT_``."""
CGROUP_LIMITS: Final = tuple(CONTROLLERS)
"""The limits of the whole tree."""
LIMITS: Final = tuple(sorted((*RLIMITS, *CGROUP_LIMITS)))
"""The limits that may be written."""
_SYSTEMDS: Final = {"memorymax": "memory_max", "cpuquota": "cpu_max", "tasksmax": "tasks_max"}
LEAST_MEMORY: Final = 16 << 20
"""Bytes: what is forked for a child is a Python until it executes the program, and has to fit in."""
LEAST_FILES: Final = 4
"""The standard streams, and the file that a program is loaded from."""
LEAST_CPU, MOST_CPU = 0.01, 8192
"""Processors: the kernel gives a millisecond at least, and knows no more of them."""


def resource_limits(value: object) -> dict[str, int]:
    """Return each limit's number. Raises ValueError with a sentence.

    ``cpu_max`` becomes microseconds of processor time in each ``CPU_PERIOD``.

    >>> resource_limits({"nofile": 4096, "core": "unlimited", "as": "2GiB"})
    {'nofile': 4096, 'core': -1, 'as': 2147483648}
    >>> resource_limits({"memory_max": "1GiB", "cpu_max": 1.5, "tasks_max": 64}), resource_limits({"cpu_max": "50%"})
    ({'memory_max': 1073741824, 'cpu_max': 150000, 'tasks_max': 64}, {'cpu_max': 50000})
    """
    if not isinstance(value, Mapping):
        raise ValueError(f'is {kind(value)}; write a table, such as {{ nofile = 4096, core = "unlimited" }}')
    return {_name(name): _limit(name, given) for name, given in value.items()}


def _name(name: object) -> str:
    plain = str(name).lower().removeprefix("rlimit_").removeprefix("limit")
    if name in LIMITS:
        return plain
    if (meant := _SYSTEMDS.get(plain, plain)) in LIMITS:
        raise ValueError(f"has no {quoted(name)}; write {meant}")
    raise ValueError(f"has no {quoted(name)}; its limits are {', '.join(LIMITS)}")


def _limit(name: str, value: object) -> int:
    if value == "unlimited":
        return UNLIMITED
    if name == "cpu_max":
        return _processor_time(value)
    if name in (*_IN_BYTES, "memory_max"):
        return _size(name, value)
    if name == "tasks_max" and value == 0 and not isinstance(value, bool):
        raise ValueError("gives tasks_max 0, with which nothing can be started; write 1 or more")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f'gives {name} {quoted(value)}, which is no number; write one, or "unlimited"')
    if name == "nofile" and value < LEAST_FILES:
        raise ValueError(f"gives nofile {value}, with which nothing can be started; write {LEAST_FILES} or more")
    return value


def _size(name: str, value: object) -> int:
    try:
        given = size(value)
    except ValueError:
        said = 'write for example "2GiB", a number of bytes, or "unlimited"'
        raise ValueError(f"gives {name} {quoted(value)}, which is no size; {said}") from None
    if name == "memory_max" and given < LEAST_MEMORY:
        said = f'in which no program starts; write "{LEAST_MEMORY >> 20}MiB" or more'
        raise ValueError(f"gives memory_max {quoted(value)}, {said}")
    return given


def _processor_time(value: object) -> int:
    """Return the microseconds in each ``CPU_PERIOD`` that so many processors have."""
    percent = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value) if isinstance(value, str) else None
    processors = float(percent[1]) / 100 if percent else value
    if not isinstance(processors, int | float) or isinstance(processors, bool):
        said = 'write how many it may use, such as 1.5 or "150%", or "unlimited"'
        raise ValueError(f"gives cpu_max {quoted(value)}, which is no number of processors; {said}")
    if not LEAST_CPU <= processors <= MOST_CPU:
        said = f"write {LEAST_CPU} to {MOST_CPU} processors"
        raise ValueError(f"gives cpu_max {quoted(value)}, which the kernel does not take; {said}")
    return round(processors * CPU_PERIOD)


def rlimits(limits: Mapping[str, int]) -> dict[str, int]:
    """Return those that setrlimit(2) sets."""
    return {name: value for name, value in limits.items() if name in RLIMITS}


def cgroup_limits(limits: Mapping[str, int]) -> dict[str, int]:
    """Return those that a cgroup sets. A new one has no limits: it needs not be told."""
    return {name: value for name, value in limits.items() if name in CGROUP_LIMITS and value != UNLIMITED}


def unserved(limits: Mapping[str, int]) -> list[str]:
    """Return which limits by cgroup this machine cannot set, or has no use for, a sentence each."""
    wanted = cgroup_limits(limits)
    lacks = {name: lack(CONTROLLERS[name]) for name in wanted}
    found = [f"{name} cannot hold, and the program runs without: {why}" for name, why in lacks.items() if why]
    processors = os.cpu_count() or 1
    if wanted.get("cpu_max", 0) > processors * CPU_PERIOD:
        given = f"cpu_max is {wanted['cpu_max'] / CPU_PERIOD:g} processors, and this machine has {processors}"
        found.append(f'{given}, so it limits nothing; a processor and a half is 1.5, or "150%"')
    return found


def nice_value(value: object) -> int:
    """Accept a nice value."""
    return _whole(value, -20, 19, "is not a nice value")


def oom_adjustment(value: object) -> int:
    """Accept an adjustment of the out-of-memory killer's score."""
    return _whole(value, -1000, 1000, "is not an adjustment of the OOM score")


def _whole(value: object, least: int, most: int, why: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{quoted(value)} {why}; write a number from {least} to {most}")
    return value


def beyond(wanted: Mapping[str, int]) -> list[str]:
    """Return what this process may not grant, a sentence each: only root may raise a hard limit."""
    if os.geteuid() == 0:
        return []
    found = []
    for name, value in rlimits(wanted).items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
        if hard != UNLIMITED and (value == UNLIMITED or value > hard):
            shown = "unlimited" if value == UNLIMITED else value
            cure = f"write at most {hard}, or raise the daemon's own limit (systemd: Limit{name.upper()}=)"
            found.append(f"sets {name} to {shown}, above the hard limit {hard} of this process; {cure}")
    return found


def urgent(nice: int | None, oom_score_adj: int | None) -> dict[str, str]:
    """Return what this process may not grant, a sentence by key: only root may raise a priority, or a protection."""
    if os.geteuid() == 0:
        return {}
    found = {}
    ceiling = resource.getrlimit(resource.RLIMIT_NICE)[0]
    least = -20 if ceiling == UNLIMITED else min(os.getpriority(os.PRIO_PROCESS, 0), 20 - ceiling)
    if nice is not None and nice < least:
        found["nice"] = (
            f"is {nice}, and only root may go below {least}; write {least} or more, or run the daemon as root"
        )
    own = int(Path("/proc/self/oom_score_adj").read_text())
    if oom_score_adj is not None and oom_score_adj < own:
        found["oom_score_adj"] = (
            f"is {oom_score_adj}, and only root may go below the daemon's own {own}; write {own} or more"
        )
    return found
