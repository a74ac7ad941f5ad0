"""What a node must wait for when it finds a ledger that may know less than the node does.

A ledger that was dropped, created again or restored from a dump does not know of a longer lease that was promised
meanwhile. A node that has seen the longer lease waits for it, on any ledger. So a node keeps the promise in its state
directory, where it outlives the daemon.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from highlanderd.core.knowledge import Knowledge
from highlanderd.core.lease import LONGEST, Lease, maintenance_lease
from highlanderd.core.observation import ServerIdentity
from highlanderd.structs import replace

LONGEST_CEILING: Final = maintenance_lease(LONGEST, 86400)
"""Seconds: the lease of a maintenance for an outage of a day. No ledger promises more."""


class Promise(Struct, frozen=True):
    """What one ledger has promised to leaders: its ceiling and its lease. Lengths are seconds."""

    system: int
    timeline: int
    place: str
    ceiling: float
    lease: float

    def __post_init__(self) -> None:
        if not 0 < self.lease <= self.ceiling <= LONGEST_CEILING:
            raise ValueError(f"a ledger's lease of {self.lease} seconds cannot go with a ceiling of {self.ceiling}")

    @property
    def ledger(self) -> tuple[int, int, str]:
        """Return which ledger it is. While these three stay, what was committed stays."""
        return self.system, self.timeline, self.place

    def knowledge(self) -> Knowledge:
        """Return what a program knows before its first look: it distrusts every ledger but this one."""
        server = ServerIdentity(self.system, self.timeline, started="", position=0, place=self.place)
        return Knowledge(server=server, ceiling=Lease(self.ceiling))


class Promises(Struct, frozen=True):
    """The promise to wait for, and what may take its place.

    A settled ledger may lower its own promise. What another ledger says counts once the former promise was waited out.
    """

    kept: Promise | None = None
    found: Promise | None = None
    """What another ledger says."""
    since: float = 0.0
    """Arrival of the first answer that said so while that ledger was settled, CLOCK_BOOTTIME in seconds."""
    superseded: bool = False
    """Another ledger was settled meanwhile. Other nodes have waited for what they knew; the promise binds this node."""

    def after(self, found: Promise, at: float, *, settled: bool) -> Promises:
        """Return the promises after an answer that arrived ``at``."""
        if self.kept is None:
            return Promises(found)
        if settled and found.ledger == self.kept.ledger:
            return Promises(found)
        kept = replace(self.kept, ceiling=max(self.kept.ceiling, found.ceiling), lease=found.lease)
        superseded = self.superseded or settled
        if not settled or self.found is None or found.ledger != self.found.ledger:
            return Promises(kept, found, at, superseded)
        if at - self.since >= Lease(kept.ceiling).wait:
            return Promises(found)
        return Promises(kept, found, self.since, superseded)
