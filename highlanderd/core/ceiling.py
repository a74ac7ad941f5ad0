"""When the ceiling may be lowered: once no leader can still lead under a longer lease than the ledger's.

The ceiling is the longest lease that any leader may have been promised; a node that cannot see a row waits that long.
It is not enough that no row shows a longer lease now: a failover may have lost the renewal that wrote one. So a node
watches for 1.05 of the ceiling, on one timeline of the server, that no row uses a longer lease and that nothing asks
for one; then it lowers the ceiling. A restart of the server does not begin the watch again, because what was committed
stays.
"""

from __future__ import annotations

from math import inf

from msgspec import Struct

from highlanderd.core.lease import Lease


class LeaseUse(Struct, frozen=True):
    """Which leases one survey of the ledger found in use. Lengths are seconds."""

    where: tuple[int, int, str]
    """System, timeline and place. While they stay, nothing that was committed is lost."""
    lease: float
    ceiling: float
    wanted: float
    """The lease under which leaders write their rows at present."""
    longest: float
    """The longest lease of an unreleased row; 0 without one."""

    @property
    def subject(self) -> tuple[object, ...]:
        """Return what is watched: another ledger, lease or ceiling needs a watch of its own."""
        return self.where, self.lease, self.ceiling


class CeilingWatch(Struct, frozen=True):
    """Since when nothing has used a longer lease than the ledger's."""

    use: LeaseUse | None = None
    since: float = inf
    """Arrival of the first such survey, CLOCK_BOOTTIME in seconds; infinity while a longer lease is in use."""

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
