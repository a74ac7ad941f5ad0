"""Which of a program's scheduled times is to be run now, and which are to be skipped.

The verdict alone says whether a node may begin a term; a program with a schedule needs a time as well, so this only
delays. The ledger keeps the latest time that was run or skipped. ``plan`` is a pure function of that, of the server's
clock in the same answer, and of what the last term came to. A claim carries its time, and the takeover writes both or
neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from math import inf
from typing import Final

from highlanderd.core.observation import Row
from highlanderd.core.schedule import HELD, MISSED, OVERLAP, Change, Run, Schedule, Skipped, Times, Timetable
from highlanderd.core.states import LAPSED, Cause

COUNTED: Final = 200
"""Skipped times that are counted at most: each takes some time to find."""
WINDOWS: Final = (3600.0, 86_400.0, 31 * 86_400.0, 366 * 86_400.0)
"""Seconds before now in which the latest time is looked for, one after the other."""

_ORDERED: Final = frozenset({Cause.RESTARTED.value, Cause.RELEASED.value})
"""Causes after which a run is repeated, because an operator has ordered it."""
_OVER: Final = frozenset(cause.value for cause in (Cause.FINISHED, Cause.STOPPED, Cause.REMOVED, Cause.UNWANTED))
"""Causes after which none is: it has done its work, or an operator has ended it."""


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing is to be run before ``at``, in seconds of the epoch; infinity where only an event changes that."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class TimeFacts:
    """What a look has shown, of a program whose last term is over."""

    timetable: Timetable | None
    clock: float
    """The server's, now."""
    since: float
    """When this node took its schedule up, by that clock."""
    row: Row | None
    """What is left of the last term."""


def plan(schedule: Schedule, seen: TimeFacts, *, repeats: bool) -> Run | Change | Later:
    """Return what is to be done. ``repeats`` says whether a run that has failed is repeated until the next time."""
    kept = seen.timetable
    if kept is None:
        return Change(None, schedule.words, int(seen.clock))
    if kept.words != schedule.words:
        if seen.since <= kept.taken_up:
            return Later(inf, f"another node has brought another schedule since, {kept.words}; reload this one")
        return Change(kept, schedule.words, max(kept.latest, int(seen.since)))
    newest = _newest(schedule.times, kept.latest, seen.clock)
    if newest is None:
        again = seen.row is not None and _is_to_be_repeated(kept, seen.row, repeats=repeats)
        return Run(kept.latest, kept.latest) if again else _later(schedule, max(seen.clock, kept.latest))
    due = _reason(newest, kept, seen) == MISSED and seen.clock - newest <= schedule.catch_up
    skipped = tuple(_skipped(schedule.times, kept, seen, newest - 1 if due else newest))
    return Change(kept, kept.words, skipped[-1].last, skipped) if skipped else Run(int(newest), kept.latest)


def _later(schedule: Schedule, now: float) -> Later:
    at = schedule.times.following(now)
    return Later(at, "its schedule has no further time" if at == inf else f"next run at {schedule.times.shown(at)}")


def _newest(times: Times, after: float, until: float) -> float | None:
    """Return the latest time after ``after`` that has come; None for none."""
    if times.following(after) > until:
        return None
    begins = (max(after, until - window) for window in (*WINDOWS, inf))
    return next((found[-1] for begin in begins if (found := list(_between(times, begin, until)))), None)


def _between(times: Times, after: float, until: float) -> Iterator[float]:
    time = times.following(after)
    while time <= until:
        yield time
        time = times.following(time)


def _reason(time: float, kept: Timetable, seen: TimeFacts) -> str:
    """Return why a time that has come was not run when it came."""
    row = seen.row
    if kept.held is not None and kept.held[0] <= time <= kept.held[1]:
        return HELD
    # Nothing shows since when a leader was lost whose term has lapsed: what has come meanwhile was missed.
    if row is not None and row.reason != LAPSED and time <= seen.clock - row.ended_ago:
        return OVERLAP
    return MISSED


def _skipped(times: Times, kept: Timetable, seen: TimeFacts, until: float) -> Iterator[Skipped]:
    """Yield the times that have come until then, as many in a row as have one reason. The last of many has the rest."""
    found = list(islice(_between(times, kept.latest, until), COUNTED))
    for reason, group in groupby(found, key=lambda time: _reason(time, kept, seen)):
        alike = list(group)
        last = alike[-1]
        if len(found) == COUNTED and last == found[-1]:
            last = _newest(times, last, until) or last
        yield Skipped(int(alike[0]), int(last), len(alike), reason)


def _is_to_be_repeated(kept: Timetable, row: Row, *, repeats: bool) -> bool:
    """Return whether the latest time is that of the last term, and that term has not done its work."""
    return kept.epoch == row.epoch and (row.reason in _ORDERED or (repeats and row.reason not in _OVER))
