"""The arithmetic of leases: when a child is stopped and killed, and how long others wait.

No server wall clock takes part. All times are seconds of our own CLOCK_BOOTTIME.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

SHORTEST, LONGEST, DEFAULT = 2.0, 60.0, 10.0
"""Bounds of a ledger's lease, in seconds."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The clocks of one lease of ``length`` seconds.

    The child is dead at 9/10, the leader stops trusting at 1, everybody else waits 1.05: rates of clocks may
    differ by a few per cent, and SIGKILL needs a moment. Each version of a row carries the length that it was written
    under, and both sides go by that one.
    """

    length: float

    @property
    def renew_every(self) -> float:
        """Between two renewals; also between two looks of a waiting node."""
        return self.length / 5

    @property
    def answer_within(self) -> float:
        """How long a statement may take before its session is dropped: a lost renewal leaves time to try another."""
        return self.length * 0.3

    @property
    def spawn_within(self) -> float:
        """After sending the takeover; a child that was not started by then is not started in this term."""
        return self.length / 2

    @property
    def release_within(self) -> float:
        """A release that nobody answers must not keep the daemon from ending: this allows a reconnection."""
        return self.length / 2

    @property
    def wait(self) -> float:
        """How long a silent version of a row must have been known before its leader is certainly without a child."""
        return self.length * 1.05

    @property
    def outage_borne(self) -> float:
        """An outage of PostgreSQL that is over by then costs no child.

        The fence begins 7/10 after the last renewal; 2/10 of that may have passed before the outage began, and 1/10 is
        for the reconnection.
        """
        return self.length * 0.4

    @property
    def replaced_within(self) -> float:
        """After the last renewal of a leader that fell silent, another node leads: ``wait``, from a look on that may be
        a fifth of a lease late, with its jitter.
        """
        return self.length * 1.3

    @property
    def resumed_within(self) -> float:
        """After the reconnection to a server that was restarted or promoted, a term begins: ``wait``, and answers."""
        return self.length * 1.1

    def trusted_until(self, sent: float) -> float:
        """The leader's trust runs out here; ``sent`` was read before the acknowledged statement was sent."""
        return sent + self.length

    def kill_at(self, sent: float) -> float:
        """SIGKILL to the whole tree; the last tenth is the kernel's to deliver it."""
        return sent + 0.9 * self.length

    def fence_at(self, sent: float, stop_timeout: float) -> float:
        """SIGTERM to the tree: at 7/10, later when the program needs less time to stop than there would be.

        >>> Lease(10).fence_at(0, stop_timeout=10)
        7.0
        >>> Lease(10).fence_at(0, stop_timeout=0.5)
        8.5
        """
        return self.kill_at(sent) - min(stop_timeout, 0.2 * self.length)


def maintenance_lease(lease: float, outage: float) -> float:
    """Return the length of a row's lease that bears an outage of ``outage`` seconds; all in seconds.

    ``lease`` is the ledger's, at whose pace renewals go on: 2/10 of it may have passed since the last one when the
    outage begins, and 1/10 is for the reconnection. The fence begins at 7/10 of the result.

    >>> maintenance_lease(10, 60)
    90
    """
    return max(lease, ceil(round((outage + 0.3 * lease) / 0.7, 6)))


def replaced_within(trusted_for: float, lease: float) -> float:
    """Return the seconds after its last renewal within which a silent leader's node is replaced.

    ``trusted_for`` is the length that its row carries, ``lease`` the ledger's, at whose pace others look.
    """
    return 1.05 * trusted_for + 0.25 * lease


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths that rule one term."""

    trusted: Lease
    """What the last acknowledged version of its row was written under."""
    wanted: Lease
    """What the ledger wants the next version to be written under."""
    pace: Lease
    """The ledger's lease: renewals, looks and time limits go by it."""

    @classmethod
    def alike(cls, length: float) -> Lengths:
        """Return the lengths of a term while the ledger's lease rules everything."""
        lease = Lease(length)
        return cls(lease, lease, lease)

    @property
    def renew_every(self) -> float:
        """Seconds between two renewals: at the ledger's pace, and faster while the term's own lease is shorter."""
        return min(self.pace.renew_every, self.trusted.renew_every)

    @property
    def spawn_within(self) -> float:
        """Seconds after sending the takeover within which its child is started, or never."""
        return min(self.pace.spawn_within, self.trusted.spawn_within)
