"""What processes use, as the kernel counts it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def cpu(pids: Iterable[int]) -> float:
    """Return the seconds of CPU that processes have used, and their ended children whom they have waited for."""
    return sum(map(_cpu, pids))


def _cpu(pid: int) -> float:
    """Return it by the process's own clock: ``stat`` counts ticks of 10 ms, more than a keeper uses in a minute."""
    with suppress(OSError):
        ended = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[13:15]
        return time.clock_gettime(_clock(pid)) + sum(map(int, ended)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _clock(pid: int) -> int:
    """Return the clock of all threads of a process, those that have ended too, as clock_getcpuclockid(3) does."""
    return ~pid << 3 | 2


def written(pid: int) -> int:
    """Return the bytes that a process has written, by write(2) and its kin."""
    found = re.search(r"^wchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def below(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from below(int(child))


def name(pid: int) -> str:
    """Return its name; empty when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def private_megabytes(pids: Iterable[int]) -> float:
    """Return the memory that each of them shares with no other, in all."""
    return sum(map(private_kilobytes, pids)) / 1000


def private_kilobytes(pid: int) -> int:
    """Return the memory that a process shares with no other; 0 when it has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return 0
