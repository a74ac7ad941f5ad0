"""The history of leads: terms as the ledger remembers them, and what many of them say together.

All times are those of the server's clock, as the ledger holds them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

_SIGNALS: Final = {member.value: member.name for member in signal.Signals}


def exit_of(status: int) -> tuple[int | None, str | None]:
    """Return the exit status, or the name of the signal, that a wait status stands for.

    >>> exit_of(256), exit_of(9)
    ((1, None), (None, 'SIGKILL'))
    """
    number = status & 0x7F
    if not number:
        return status >> 8, None
    return None, _SIGNALS.get(number, f"signal {number}")


class Former(Struct, frozen=True):
    """The term before another one of the same lock id."""

    epoch: int
    node: str
    cause: str | None
    """Why it ended; ``None`` while the ledger does not know of an end."""
    scheduled: str | None = None
    """As the term's."""


class PastTerm(Struct, frozen=True):
    """One term of one lock id."""

    program: str
    epoch: int
    node: str
    began: str
    """RFC 3339 in UTC, as ``ended``."""
    ended: str | None
    """``None`` while the ledger does not know of an end: the term is under way, or its leader has fallen silent."""
    lasted: float
    """Seconds from the beginning to the end, or until now."""
    cause: str | None
    former: Former | None
    """``None`` for the first term that the ledger holds."""
    gap: float | None
    """Seconds from the end of the former term to the beginning of this one, negative when they overlap.

    Exactly 0 where nothing tells when the former one ended.
    """
    exit_status: int | None = None
    """Of the main process; ``None`` as well where a signal has ended it, or the history does not know."""
    exit_signal: str | None = None
    author: str | None = None
    """Who has ordered the end."""
    remark: str | None = None
    """What he gave as the reason."""
    scheduled: str | None = None
    """The scheduled time that it was begun for: RFC 3339 in UTC."""
    late: float | None = None
    """Seconds from that time to its beginning; negative after the server's clock was set back."""
    unpruned: bool = False
    """Whether the ledger holds none before it, and has never removed one for its age: it ought to be the very first."""

    @property
    def overlaps(self) -> bool:
        """Whether it began before the former term had ended, by the ledger's own times."""
        return self.former is not None and (self.gap is None or self.gap < 0)

    @property
    def of_unknown_gap(self) -> bool:
        """Whether nobody has written when the former term ended, so that the gap may have had any length."""
        return self.gap == 0

    @property
    def unled(self) -> float | None:
        """Seconds of the gap in which it was due; ``None`` without a gap, and where it was not due before.

        A run is due from its scheduled time on. One that was begun by hand, after a run for a time, was not due.
        """
        if self.former is None or self.gap is None or self.overlaps:
            return None
        if self.late is not None:
            return min(self.gap, max(0.0, self.late))
        return None if self.former.scheduled else self.gap

    @property
    def unwritten(self) -> int:
        """How many epochs before it no line tells of, back to the former term or to the last promotion."""
        if self.former is None and not self.unpruned:
            return 0
        former = 0 if self.former is None else self.former.epoch
        return self.epoch - max(former, self.epoch >> 32 << 32) - 1


class SkippedTimes(Struct, frozen=True):
    """Scheduled times of a program in a row that were not run, for one reason."""

    program: str
    first: str
    """RFC 3339 in UTC, as ``last`` and ``recorded``."""
    last: str
    times: int
    """So many at least."""
    reason: str
    node: str
    """Which node has noted it."""
    recorded: str


class GapReport(Struct, frozen=True):
    """The gaps of one program after terms that ended for one cause."""

    cause: str
    count: int
    longest: float
    """Seconds."""
    unknown: int = 0
    """Of how many of them nothing tells how long they were: nobody has written when the former term ended."""


class ProgramHistory(Struct, frozen=True):
    """What the terms of one program say together."""

    program: str
    terms: int
    led: float
    """Seconds."""
    gaps: tuple[GapReport, ...]
    """Of a program with a schedule, only as far as it was due."""
    scheduled: bool = False
    """Whether one of its terms was for a scheduled time."""


def by_program(terms: Sequence[PastTerm]) -> tuple[ProgramHistory, ...]:
    """Return the summary of each program, by name."""
    names = sorted({term.program for term in terms})
    return tuple(_of_one(name, [term for term in terms if term.program == name]) for name in names)


def _of_one(name: str, terms: Sequence[PastTerm]) -> ProgramHistory:
    scheduled = any(term.scheduled for term in terms)
    return ProgramHistory(name, len(terms), sum(term.lasted for term in terms), tuple(_gaps(terms)), scheduled)


def _gaps(terms: Iterable[PastTerm]) -> list[GapReport]:
    found: dict[str, list[tuple[float, bool]]] = {}
    for term in terms:
        if term.former is not None and (unled := term.unled) is not None:
            found.setdefault(term.former.cause or "", []).append((unled, term.of_unknown_gap))
    return [
        GapReport(cause, len(gaps), max(unled for unled, _ in gaps), sum(unknown for _, unknown in gaps))
        for cause, gaps in sorted(found.items())
    ]
