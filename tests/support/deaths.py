"""Processes that a test has marked by a directory in their environment: which there are, and when they died."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from highlanderd.system.linux import boottime
from tests.support.wait import wait_for


def marked(directory: Path) -> list[int]:
    """List the processes, zombies among them, whose environment or command names something below ``directory``."""
    mark = os.fsencode(directory)
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    shown = ((pid, f"/proc/{pid}/{file}") for pid in numbers for file in ("environ", "cmdline") if pid != os.getpid())
    return [*{pid: path for pid, path in shown if mark in proc_file(path)}]


def gone(pid: int) -> bool:
    """Whether nothing of the process runs any more."""
    return _state(pid) in (b"", b"Z", b"X")


def _state(pid: int) -> bytes:
    return proc_file(f"/proc/{pid}/stat").rpartition(b") ")[2][:1]


def stand_still(*pids: int) -> None:
    """Stop processes, and wait until each of them does stand still: it may be running while the signal is sent."""
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(_state(pid) in (b"T", b"t", b"Z", b"X", b"") for pid in pids), what=f"{pids} stand still")


def open_files(pid: int) -> dict[Path, str]:
    """Return what a process has open, by the place that /proc shows it at; what it closes meanwhile is left out."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[fd] = str(fd.readlink())
    return found


def deaths(families: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Wait until all processes of all families are gone; gives by name when the last of each was seen alive.

    When it was seen to be dead would say how late we looked, too.
    """
    alive = dict.fromkeys(families, 0.0)

    def all_dead() -> bool:
        now = boottime()
        living = [name for name, pids in families.items() if not all(map(gone, pids))]
        alive.update(dict.fromkeys(living, now))
        return not living

    wait_for(all_dead, what=f"{', '.join(families)} are dead")
    return alive


def proc_file(path: str) -> bytes:
    """Return a file of /proc; nothing when its process has ended."""
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended
        return b""
