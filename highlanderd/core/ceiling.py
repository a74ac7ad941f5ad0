"""When the ceiling of leases may be lowered: once nobody can rest on a longer lease than the ledger's any more.

A node that cannot see a row waits for the ceiling. A failover may have lost the last renewal of a row, and with it that
a longer lease was written; so it is not enough that no row shows one now. A node lowers the ceiling only after it has
watched for 1.05 of the ceiling, on one timeline of the server, that no row used a longer lease and nothing asked for
one. A restart of the server in between is none: what it has committed stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from highlanderd.core.lease import Lease


@dataclass(frozen=True, slots=True)
class LeaseUse:
    """What one survey showed. Lengths are seconds."""

    where: tuple[int, int, str]
    """System, timeline and place: while they stay, nothing that was committed is lost."""
    lease: float
    ceiling: float
    wanted: float
    """What leaders are to write into their rows at present."""
    longest: float
    """The longest lease of an unreleased row; 0 without one."""

    @property
    def subject(self) -> tuple[object, ...]:
        """What is watched: another ledger, lease or ceiling needs a watch of its own."""
        return self.where, self.lease, self.ceiling


@dataclass(frozen=True, slots=True)
class CeilingWatch:
    """How long nothing has used a longer lease than the ledger's."""

    use: LeaseUse | None = None
    since: float = inf
    """Arrival of the first survey that showed so, CLOCK_BOOTTIME in seconds; infinity while something uses one."""

    def after(self, use: LeaseUse, at: float) -> CeilingWatch:
        """Return the watch after a survey that arrived ``at``."""
        if max(use.wanted, use.longest) > use.lease:
            return CeilingWatch(use)
        same = self.use is not None and self.use.subject == use.subject
        return CeilingWatch(use, min(self.since, at) if same else at)

    def may_lower(self, at: float) -> bool:
        """Return whether the ceiling may come down to the ledger's lease at ``at``."""
        use = self.use
        return use is not None and use.ceiling > use.lease and at - self.since >= Lease(use.ceiling).wait
