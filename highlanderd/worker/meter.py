"""Measure what the children of this node use. A question waits for a moment at most, and gets the latest reading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from highlanderd.core.status import Usage
from highlanderd.guardian import cgroup
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.threads import in_thread
from highlanderd.worker.interfaces import ProgramChild
from highlanderd.worker.usage import EVENTS, MeasuredTree, cgroup_counts, usages

WAIT: Final = 0.02
"""Seconds that one waits for a look; after that one gets the reading before it, and the next question this one's. Where
the look before took longer than that, nobody waits."""
LATER: Final = 0.2
"""Seconds after which a look begins that nobody waits for: it would take the interpreter from the page that is written
meanwhile."""
FIRST_WAIT: Final = 0.25
"""Seconds that one waits while there is no reading, or an old one only."""
LOOK_WITHIN: Final = 5.0
"""Seconds for one look; on a machine with more processes nothing is known. Ten thousand take 0.4 of processor time."""
LEAST_REST: Final = 1.0
"""Seconds between two looks at least: no scraper asks as often."""
REST: Final = 9.0
"""Times its own cost for which no look follows a look: a tenth of a core at most."""
STALE: Final = 120.0
"""Seconds after which a reading is none any more: scrapers ask every minute at the slowest."""


class Meter:
    """The latest readings, by the number of the child."""

    def __init__(self, instance: str, cgroups: str | None, count_oom: Callable[[str, int], None]) -> None:
        """``cgroups`` is where children have theirs, if any do.

        ``count_oom`` is called with a program, and with how many more of its processes the kernel killed for memory.
        """
        self._instance, self._cgroups, self._count_oom = instance, cgroups, count_oom
        self._look: asyncio.Future[None] | None = None
        self._due = 0.0
        self._taken, self._lasted = 0.0, 0.0
        self._readings: Mapping[int, Usage] = {}
        self._oom_kills: dict[int, int] = {}
        """By child: how many were counted."""

    def of(self, child: ProgramChild | None) -> Usage | None:
        """Return the latest reading of a child; None without one."""
        if child is None or boottime() - self._taken > STALE:
            return None
        return self._readings.get(child.number)

    async def measure(self, children: Mapping[str, ProgramChild]) -> None:
        """Look at the children, given by program, and wait for that for a moment. Never raises.

        A look that was taken a moment ago will do.
        """
        known = boottime() - self._taken <= STALE
        awaited = not (known and self._lasted > WAIT)
        if (self._look is None or self._look.done()) and boottime() >= self._due:
            self._look = asyncio.ensure_future(self._measure(dict(children), 0.0 if awaited else LATER))
            self._look.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._look is not None and awaited:
            await asyncio.wait([self._look], timeout=WAIT if known else FIRST_WAIT)

    async def _measure(self, children: Mapping[str, ProgramChild], after: float) -> None:
        await asyncio.sleep(after)
        programs = {child.number: program for program, child in children.items() if child.number}
        kept = {
            number: MeasuredTree(pid, self._directory(number))
            for child in children.values()
            if (number := child.number) and (pid := child.keeper_pid)
        }
        began, readings = boottime(), dict[int, Usage]()
        with suppress(OSError):  # a TimeoutError is one; what is not known is not shown
            readings.update(await in_thread(partial(usages, kept, LOOK_WITHIN), "measure children"))
        for number in readings.keys() & self._readings.keys():
            if readings[number].cpu < (spent := self._readings[number].cpu):  # what nobody waited for is lost in /proc
                readings[number] = replace(readings[number], cpu=spent)
        self._readings, self._taken = readings, boottime()
        self._lasted = self._taken - began
        self._due = self._taken + max(LEAST_REST, REST * self._lasted)
        self._oom_kills = {number: kills for number, kills in self._oom_kills.items() if number in programs}
        for number, usage in readings.items():
            self._count(number, programs[number], usage.oom_kills)

    def exited(self, program: str, child: ProgramChild) -> None:
        """Count what the kernel has killed of a child whose main process has ended, and whose cgroup is still there."""
        if (directory := self._directory(child.number)) is not None:
            self._count(child.number, program, cgroup_counts(directory, EVENTS).get("oom_kills"))

    def starved(self, child: ProgramChild) -> str:
        """Return why the kernel had no memory for a child that it has killed just now, in words; else nothing."""
        directory = self._directory(child.number)
        counts = {} if directory is None else cgroup_counts(directory, EVENTS)
        if counts.get("oom_kills", 0) <= self._oom_kills.get(child.number, 0):
            return ""  # what was counted already has not ended it
        own = counts.get("limit_reached")
        return "at its memory_max" if own else "which this host, or a cgroup above its own, had no more of"

    def _count(self, number: int, program: str, kills: int | None) -> None:
        if kills is not None and (more := kills - self._oom_kills.get(number, 0)) > 0:
            self._oom_kills[number] = kills
            self._count_oom(program, more)

    def _directory(self, number: int) -> str | None:
        return None if self._cgroups is None else f"{self._cgroups}/{cgroup.name(self._instance, number)}"
