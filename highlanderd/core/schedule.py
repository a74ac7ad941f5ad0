"""Schedules: when a program is to run, what the ledger keeps of that, and what becomes of a time.

Values only. Times are whole seconds of the epoch; no clock of a node takes part.
"""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

MISSED: Final = "missed"
"""Why a time was skipped: no node, or no PostgreSQL, was there to run it, for longer than ``catch_up``."""
OVERLAP: Final = "overlap"
"""Why a time was skipped: it came while another run was under way."""
STOPPED: Final = "stopped"
"""Why a time was skipped: it came while the program was stopped everywhere."""
CHANGED: Final = "changed"
"""Why a time was skipped: another schedule was loaded before it was run."""
UNREADABLE: Final = "unreadable"
"""Why times were skipped: they were those of a former schedule that this node cannot read, so nobody knows how many."""
CLOCK: Final = "clock"
"""Why a time was skipped: the server's clock, which was set back, had shown it before."""


class Times(Protocol):
    """The times of a schedule."""

    def following(self, moment: float) -> float:
        """Return the first time after a moment; infinity where there is none."""

    def shown(self, moment: float) -> str:
        """Return a time as people read it."""

    def of(self, words: str) -> Times | None:
        """Return the times that a schedule with these words has; None where they make no sense on this node."""


class Schedule(Struct, frozen=True):
    """When a program is to run."""

    times: Times
    words: str
    """What the configuration says: nodes whose words differ have another schedule."""
    catch_up: float
    """Seconds for which a time that no node could run when it came may still be run."""
    since: float = 0.0
    """When this node took it up, in CLOCK_BOOTTIME seconds. The schedule that was taken up last counts."""


class Timetable(Struct, frozen=True):
    """What the ledger keeps of a program's schedule. All times are those of the server's clock."""

    words: str
    taken_up: float
    """When a node brought this schedule."""
    latest: int
    """The latest time that was run or skipped."""
    epoch: int | None = None
    """Of the term that was begun for it; ``None`` when it was skipped."""
    held: tuple[float, float] | None = None
    """From when to when the program was stopped everywhere the last time."""
    set_back: bool = False
    """Whether the server's clock was set back to before ``latest``, and the history does not say so yet."""
    version: str = ""
    """Of the ledger's row, as a bare token: every write changes it."""


class Run(Struct, frozen=True):
    """The time that a claimed term is for."""

    at: int
    after: int
    """The latest time that was run or skipped before: the takeover begins only if the ledger still says so."""


class Skipped(Struct, frozen=True):
    """Times in a row that were skipped for one reason."""

    first: int
    last: int
    count: int
    """So many at least."""
    reason: str


class Change(Struct, frozen=True):
    """What is to be written of a timetable, if the ledger still shows it as it was."""

    before: Timetable | None
    words: str
    latest: int
    skipped: tuple[Skipped, ...] = ()
