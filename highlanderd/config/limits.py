"""Resource limits of a child, as setrlimit(2) has them, and what this process may set."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from highlanderd.config.values import kind, quoted, size

UNLIMITED: Final = -1
"""``RLIM_INFINITY``."""

_IN_BYTES: Final = ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack")
_COUNTS: Final = ("nofile", "nproc", "sigpending", "rtprio", "cpu", "rttime")
LIMITS: Final = tuple(sorted((*_IN_BYTES, *_COUNTS)))
"""The limits that may be written: setrlimit's, in small letters and without ``RLIMIT_``."""


def resource_limits(value: object) -> dict[str, int]:
    """Return each limit's number. Raises ValueError with a sentence.

    >>> resource_limits({"nofile": 4096, "core": "unlimited", "as": "2GiB"})
    {'nofile': 4096, 'core': -1, 'as': 2147483648}
    """
    if not isinstance(value, Mapping):
        raise ValueError(f'is {kind(value)}; write a table, such as {{ nofile = 4096, core = "unlimited" }}')
    return {_name(name): _limit(name, given) for name, given in value.items()}


def _name(name: object) -> str:
    plain = str(name).lower().removeprefix("rlimit_").removeprefix("limit")
    if name in LIMITS:
        return plain
    if plain in LIMITS:
        raise ValueError(f"has no {quoted(name)}; write {plain}")
    raise ValueError(f"has no {quoted(name)}; its limits are {', '.join(LIMITS)}")


def _limit(name: str, value: object) -> int:
    if value == "unlimited":
        return UNLIMITED
    if name in _IN_BYTES:
        try:
            return size(value)
        except ValueError:
            said = 'write for example "2GiB", a number of bytes, or "unlimited"'
            raise ValueError(f"gives {name} {quoted(value)}, which is no size; {said}") from None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f'gives {name} {quoted(value)}, which is no number; write one, or "unlimited"')
    return value


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
    for name, value in wanted.items():
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
