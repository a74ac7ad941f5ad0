"""Processes as /proc shows them now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from highlanderd.core.status import Process


def tree_of(pid: int) -> Iterator[Process]:
    """Return the tree that ``pid`` belongs to: every process below its keeper."""
    known = {process.pid: process for process in _all()}
    main = known.get(pid)
    if main is None:
        return
    parents = {main.parent}
    for process in sorted(known.values(), key=lambda process: process.pid):
        if process.parent in parents and (process.parent != main.parent or process.pid >= pid):
            parents.add(process.pid)
            yield process


def process_of(pid: int) -> Process | None:
    """Return one process; None when it has ended and its parent has taken its exit status."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    return Process(pid, int(rest[1]), name, rest[0])


def _all() -> Iterator[Process]:
    for entry in Path("/proc").glob("[0-9]*"):
        process = process_of(int(entry.name))
        if process is not None:
            yield process
