"""Which of a program's scheduled times is to be run now, and which are to be skipped.

The verdict alone says whether a node may begin a term; a program with a schedule needs a time as well, so this only
delays. The ledger keeps the latest time that was run or skipped. ``plan`` is a pure function of that, of the server's
clock in the same answer, and of what the last term came to. A claim carries its time, and the takeover writes both or
neither.

The latest time never goes back, so no time is run twice. A clock that is set back shows times again which it had shown
before: the history says so once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import Final

from msgspec import Struct

from highlanderd.core.cluster import NEXT_RUN
from highlanderd.core.observation import Row
from highlanderd.core.schedule import (
    CHANGED,
    CLOCK,
    MISSED,
    OVERLAP,
    STOPPED,
    UNREADABLE,
    Change,
    Run,
    Schedule,
    Skipped,
    Times,
    Timetable,
)
from highlanderd.core.states import LAPSED, Cause
from highlanderd.core.verdict import Claim

COUNTED: Final = 200
"""Skipped times that are counted at most: each takes some time to find."""
WINDOWS: Final = (3600.0, 86_400.0, 31 * 86_400.0, 366 * 86_400.0)
"""Seconds before now in which the latest time is looked for, one after the other."""

_ORDERED: Final = frozenset({Cause.RESTARTED.value, Cause.RELEASED.value})
"""Causes after which a run is repeated, because an operator has ordered it."""
_OVER: Final = frozenset(cause.value for cause in (Cause.FINISHED, Cause.STOPPED, Cause.REMOVED, Cause.UNWANTED))
"""Causes after which none is: it has done its work, or an operator has ended it."""


class Later(Struct, frozen=True):
    """Nothing is to be run before ``at``, in seconds of the epoch; infinity where only an event changes that."""

    at: float
    why: str


class Repeat(Struct, frozen=True):
    """The last run, which `start` had begun for no time, is run again: an operator has ordered that."""


class Closing(Struct, frozen=True):
    """The terms that the claim found to be over are closed before anything else becomes of the program."""

    claim: Claim


class TimeFacts(Struct, frozen=True):
    """What a look has shown, of a program whose last term is over."""

    timetable: Timetable | None
    clock: float
    """The server's, now."""
    since: float
    """When this node took its schedule up, by that clock."""
    row: Row | None
    """What is left of the last term."""
    superseded: bool = False
    """Whether another schedule, which was loaded later, counts instead of this node's."""


def plan(schedule: Schedule, seen: TimeFacts, *, repeats: bool) -> Run | Repeat | Change | Later:
    """Return what is to be done. ``repeats`` says whether a run that has failed is repeated until the next time."""
    kept = seen.timetable
    if kept is None:
        return Change(None, schedule.words, int(seen.clock))
    if kept.words != schedule.words:
        return _changed(schedule, kept, seen)
    if kept.set_back and (shown := tuple(_skipped(schedule.times, seen.clock, kept.latest - 1, (), lambda _: CLOCK))):
        return Change(kept, kept.words, kept.latest, shown)
    if (again := _ordered_again(schedule.times, kept, seen)) is not None:
        return again
    newest = _newest(schedule.times, kept.latest, seen.clock)
    if newest is None:
        failed = seen.row is not None and _has_failed(kept, seen.row)
        return Run(kept.latest, kept.latest) if repeats and failed else _later(schedule, kept.latest, seen.clock)
    reason, edges = _reasons(kept, seen)
    due = reason(newest) == MISSED and seen.clock - newest <= schedule.catch_up
    skipped = tuple(_skipped(schedule.times, kept.latest, newest - 1 if due else newest, edges, reason))
    return Change(kept, kept.words, skipped[-1].last, skipped) if skipped else Run(int(newest), kept.latest)


def _changed(schedule: Schedule, kept: Timetable, seen: TimeFacts) -> Run | Repeat | Change | Later:
    """Return what becomes of another schedule in the ledger: the one that was loaded last counts."""
    if seen.superseded:
        return Later(
            inf,
            f"another node has loaded another schedule since: {kept.words:.200}; write the same schedule into "
            "the file of each node, and reload them",
        )
    former = schedule.times.of(kept.words)
    if (again := _ordered_again(former or schedule.times, kept, seen)) is not None:
        return again
    reason, edges = _reasons(kept, seen)
    too_late = seen.clock - schedule.catch_up

    def why(time: float) -> str:
        return CHANGED if reason(time) == MISSED and time >= too_late else reason(time)

    until = min(seen.since, seen.clock)
    if former is not None:
        skipped = tuple(_skipped(former, kept.latest, until, (*edges, too_late), why))
    else:
        skipped = (Skipped(kept.latest, int(until), 0, UNREADABLE),) if kept.latest < int(until) else ()
    return Change(kept, schedule.words, max(kept.latest, int(seen.since)), skipped)


def supersedes(kept: Timetable, clock: float, since: float) -> bool:
    """Return whether the schedule in the ledger was loaded later than another one, at ``since`` by the server's clock.

    One that was brought later than now was brought before the clock was set back: it holds up no other one.
    """
    return since <= kept.taken_up <= clock


def _later(schedule: Schedule, latest: float, clock: float) -> Later:
    """Return when the next time comes that has not come before."""
    times = schedule.times
    at = times.following(max(clock, latest))
    why = "its schedule has no further time" if at == inf else f"{NEXT_RUN}{times.shown(at)}"
    if times.following(clock) < at:
        why += (
            f"; PostgreSQL's clock is behind {times.shown(latest)}, the latest time in the ledger's table schedule: it "
            "was set back, or the table was edited; to run the times until then, set latest to now() there"
        )
    return Later(at, why)


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


def _reasons(kept: Timetable, seen: TimeFacts) -> tuple[Callable[[float], str], tuple[float, ...]]:
    """Return what says why a time that has come was not run when it came, and the moments at which that changes."""
    # Nothing shows since when a leader was lost whose term has lapsed: what has come meanwhile was missed.
    led_until = -inf if seen.row is None or seen.row.reason == LAPSED else seen.clock - seen.row.ended_ago
    begin, end = kept.held or (inf, -inf)

    def reason(time: float) -> str:
        if begin <= time <= end:
            return STOPPED
        return OVERLAP if time <= led_until else MISSED

    return reason, (begin, end, led_until)


def _skipped(
    times: Times, after: float, until: float, edges: tuple[float, ...], reason: Callable[[float], str]
) -> Iterator[Skipped]:
    """Yield the times that have come until then, as many in a row as have one reason, which changes at the edges."""
    found: Skipped | None = None
    for end in sorted({until, *(edge for edge in edges if after < edge < until)}):
        last = _newest(times, after, end)
        if last is not None:
            first, why = times.following(after), reason(last)
            count = sum(1 for _ in islice(_between(times, after, end), COUNTED))
            if found is not None and found.reason == why:
                first, count = found.first, min(found.count + count, COUNTED)
            elif found is not None:
                yield found
            found = Skipped(int(first), int(last), count, why)
        after = end
    if found is not None:
        yield found


def _ordered_again(times: Times, kept: Timetable, seen: TimeFacts) -> Run | Repeat | None:
    """Return the last run once more, if an operator has ordered that, and neither a time nor a stop has come since.

    What had come before its end is skipped once that run is over.
    """
    row = seen.row
    if row is None or row.reason not in _ORDERED:
        return None
    ended = seen.clock - row.ended_ago
    stopped_since = kept.held is not None and kept.held[0] >= ended
    if stopped_since or times.following(max(kept.latest, ended)) <= seen.clock:
        return None
    if kept.epoch == row.epoch:
        return Run(kept.latest, kept.latest)
    return None if ended < kept.latest <= seen.clock else Repeat()


def _has_failed(kept: Timetable, row: Row) -> bool:
    """Return whether the latest time is that of the last term, and that term has not done its work."""
    return kept.epoch == row.epoch and row.reason not in _OVER
