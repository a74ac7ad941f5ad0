"""What one look saw: the server that answered, the ledger's row about itself, and the rows of programs.

Values only. Everything in an observation comes from one answer of PostgreSQL. All times are seconds.
"""

from __future__ import annotations

from msgspec import Struct, field

from highlanderd.core.lease import Lease
from highlanderd.core.schedule import Timetable


class ServerIdentity(Struct, frozen=True):
    """Which PostgreSQL answered, as it says itself in the same answer."""

    system: int
    """The system identifier: each ``initdb`` makes a new one."""
    timeline: int
    """Each promotion of a standby raises it."""
    started: str
    """``pg_postmaster_start_time()`` as a bare token: it is compared, and never calculated with."""
    position: int
    """The WAL position in bytes. It goes back only when history was lost."""
    place: str = ""
    """The oids of the ledger's database and tables and the ledger's own id, as a bare token."""

    @property
    def ledger(self) -> tuple[int, int, str]:
        """Which ledger it is. While these three stay, nothing that was committed is lost, not even by a crash."""
        return self.system, self.timeline, self.place


class Meta(Struct, frozen=True):
    """The ledger's one row about itself."""

    lease: Lease
    """The ledger's lease: renewals, looks and time limits go at its pace."""
    settled: tuple[int, int, str] | None
    """The (system, timeline, place) for which a node has waited out the ceiling."""
    offset: int | None
    """Epoch offset of the present system; ``None`` while the ledger has not settled on this system yet."""
    wanted: Lease
    """The lease under which leaders write their rows at present; longer than ``lease`` during maintenance."""
    ceiling: Lease
    """The longest lease that any leader may have been promised."""
    floor: int = 0
    """The highest epoch of this lock id that row and history show."""


class Row(Struct, frozen=True):
    """The ledger's row of one lock id. (epoch, renewal) is its version: every write changes it."""

    lock_id: int
    program: str
    epoch: int
    renewal: int
    node: str
    instance: str
    system: int
    timeline: int
    released: bool
    trusted_for: float
    """Seconds: the lease under which this version was written."""
    reason: str = ""
    reserved_for: str | None = None
    reserved_seconds: float = 0.0
    ended_ago: float = 0.0
    """Seconds since the term's end by the server's clock. Metrics show it; the verdict never uses it."""

    @property
    def version(self) -> tuple[int, int]:
        """Return what a takeover must still find."""
        return self.epoch, self.renewal


class Glimpse(Struct, frozen=True):
    """What this node has seen of a program's row without a look of the program: a survey shows the rows of all."""

    server: ServerIdentity
    """As the latest survey that showed this version has said it."""
    version: tuple[int, int]
    at: float
    """Arrival of the survey that showed this version first."""


class LedElsewhere(Struct, frozen=True):
    """An unreleased row, of any program, that was last written through another server."""

    program: str
    node: str
    version: tuple[int, int, int]
    """Lock id, epoch and renewal."""
    trusted_for: Lease


class Suspension(Struct, frozen=True):
    """An order in the ledger that keeps a program from being led on this node."""

    drained: bool
    """Whether the node is drained; otherwise the program is stopped everywhere."""
    author: str
    remark: str
    """What the author said why."""
    since: str = ""
    """RFC 3339."""

    def __str__(self) -> str:
        """Return it as a reason.

        >>> str(Suspension(True, "uid 0 on node a", "new disk"))
        'drained by uid 0 on node a: new disk'
        """
        what = "drained" if self.drained else "stopped everywhere"
        return f"{what} by {self.author}" + (f": {self.remark}" if self.remark else "")


class Observation(Struct, frozen=True):
    """What one look saw."""

    server: ServerIdentity
    meta: Meta
    row: Row | None
    """The row of the program's lock id."""
    others: tuple[Row, ...] = ()
    """Rows with the program's name under another lock id: its key was changed."""
    elsewhere: tuple[LedElsewhere, ...] = ()
    """The unreleased rows of any program that were last written through another server."""
    promised: Lease = field(default=Lease(0.0))
    """The longest lease that this node has seen promised, by any ledger."""
    suspension: Suspension | None = None
    """The order that keeps the program from being led on this node."""
    clock: float | None = None
    """The server's clock, in seconds of the epoch. Only schedules go by it; ``None`` while the ledger keeps none."""
    timetable: Timetable | None = None
    """What the ledger keeps of the program's schedule."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """Return every row of the program."""
        return self.others if self.row is None else (self.row, *self.others)

    @property
    def settled(self) -> bool:
        """Return whether the ledger says that a node has waited out the ceiling for this very server and ledger."""
        return self.meta.offset is not None and self.meta.settled == self.server.ledger

    @property
    def longest_lease(self) -> Lease:
        """Return the ceiling, or the lease of an unreleased row if that is longer: then the ceiling has gone back."""
        led = [Lease(row.trusted_for) for row in self.rows if not row.released]
        return max([self.meta.ceiling, *led], key=lambda lease: lease.length)
