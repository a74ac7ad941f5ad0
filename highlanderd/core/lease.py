"""The arithmetic of leases: when a child is stopped and killed, and how long others wait.

No clock of a server takes part. All times are seconds of this host's CLOCK_BOOTTIME.
"""

from __future__ import annotations

from math import ceil

from msgspec import Struct

SHORTEST, LONGEST, DEFAULT = 2.0, 60.0, 10.0
"""Bounds of a ledger's lease, in seconds."""


class Lease(Struct, frozen=True):
    """The clocks of one lease of ``length`` seconds.

    The child's tree gets SIGKILL at 9/10 of it, the leader stops trusting its term at 1, and every other node waits for
    1.05: rates of clocks differ by up to a few per cent, and SIGKILL needs a moment. Each version of a row carries the
    length under which it was written, and both sides go by that length.
    """

    length: float

    @property
    def renew_every(self) -> float:
        """Return the time between two renewals, and between two looks of a waiting node."""
        return self.length / 5

    @property
    def answer_within(self) -> float:
        """Return how long a statement may take before its session is dropped: there is time for another renewal."""
        return self.length * 0.3

    @property
    def together_within(self) -> float:
        """Return how long a renewal waits for a statement that renews many, before its own session asks.

        Its own question has the rest of ``answer_within``, so a session is given up when it would be without the other
        statement. That rest is longer than ``lock_timeout``, 2/10: the server still says that a row is locked.
        """
        return self.length * 0.06

    @property
    def history_within(self) -> float:
        """Return how long the history may wait until many handovers are over."""
        return self.length * 0.05

    @property
    def spawn_within(self) -> float:
        """Return how long after sending the takeover its child may be started; later it is not started in this term."""
        return self.length / 2

    @property
    def release_within(self) -> float:
        """Return how long a daemon that ends waits for a release to be acknowledged: there is time to reconnect."""
        return self.length / 2

    @property
    def wait(self) -> float:
        """Return how long a version of a row must have stood still before its leader is certainly without a child."""
        return self.length * 1.05

    @property
    def outage_borne(self) -> float:
        """Return how long an outage of PostgreSQL may take that costs no child.

        The fence begins 7/10 after the last renewal; 2/10 of that may have passed before the outage began, and 1/10 is
        for the reconnection.
        """
        return self.length * 0.4

    @property
    def replaced_within(self) -> float:
        """Return how long after the last renewal of a silent leader another node leads, at the latest.

        That is ``wait``, counted from a look that may be a fifth of a lease late, with its jitter.
        """
        return self.length * 1.3

    @property
    def resumed_within(self) -> float:
        """Return how long after reconnecting to a restarted or promoted server a term begins: ``wait``, and answers."""
        return self.length * 1.1

    def trusted_until(self, sent: float) -> float:
        """Return when the leader's trust runs out; ``sent`` was read before the acknowledged statement was sent."""
        return sent + self.length

    def kill_at(self, sent: float) -> float:
        """Return when the whole tree gets SIGKILL. The last tenth is left to the kernel, to deliver it."""
        return sent + 0.9 * self.length

    def fence_at(self, sent: float, stop_timeout: float) -> float:
        """Return when the tree gets its stop signal: at 7/10, or later if the program needs less than the 2/10 to stop.

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


class Lengths(Struct, frozen=True):
    """The lengths that rule one term."""

    trusted: Lease
    """The lease under which the last acknowledged version of its row was written."""
    wanted: Lease
    """The lease under which the ledger wants the next version to be written."""
    pace: Lease
    """The ledger's lease: renewals, looks and time limits go at its pace."""

    @classmethod
    def alike(cls, length: float) -> Lengths:
        """Return the lengths of a term while the ledger's lease rules everything."""
        lease = Lease(length)
        return cls(lease, lease, lease)

    @property
    def renew_every(self) -> float:
        """Return the seconds between two renewals: the ledger's pace, or less while the term's lease is shorter."""
        return min(self.pace.renew_every, self.trusted.renew_every)

    @property
    def spawn_within(self) -> float:
        """Return the seconds after sending the takeover within which its child may be started."""
        return min(self.pace.spawn_within, self.trusted.spawn_within)
