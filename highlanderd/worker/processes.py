"""Processes as /proc shows them now."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from highlanderd.core.status import Process
from highlanderd.system import proctree
from highlanderd.threads import in_thread

MOST: Final = 1000
"""Processes of one tree that are looked at."""
WALKED_WITHIN: Final = 2.0
"""Seconds; a thousand processes take some twenty milliseconds."""


class Tree(Struct, frozen=True):
    """Processes, parents first."""

    processes: tuple[Process, ...] = ()
    more: int = 0
    """Processes that were seen and not looked at."""


async def tree_below(keeper: int | None) -> Tree:
    """Return what lives below a keeper; nothing when there is none, or when /proc does not answer in time."""
    if keeper is None:
        return Tree()
    with suppress(TimeoutError):
        async with asyncio.timeout(WALKED_WITHIN):
            return await in_thread(lambda: walk(keeper), "look at a process tree")
    return Tree()


def walk(keeper: int) -> Tree:
    """Look at the processes below a keeper, level by level: their number is the program's choice, so it has a bound."""
    found: list[Process] = []
    left: deque[int] = deque()
    with suppress(OSError):  # no descriptor to look with; what was found so far is true
        left.extend(proctree.below(keeper))
        while left and len(found) < MOST:
            process = process_of(left.popleft())
            if process is not None:
                found.append(process)
                left.extend(proctree.below(process.pid) if process.state != "Z" else ())
    return Tree(tuple(found), len(left))


def process_of(pid: int) -> Process | None:
    """Return one process; None when it has ended and its parent has taken its exit status."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    return Process(pid, int(rest[1]), name, rest[0])
