"""What the machine asks for: its shell performs each of them, and tells how it ended as an event.

Effects are imperatives, and frozen. Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from highlanderd.core.lease import Lease
from highlanderd.core.states import Cause, Reservation
from highlanderd.core.verdict import Claim, Settle


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the session what the ledger shows."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Ask the session to begin the claimed term."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class WriteSettled:
    """Ask the session to write that the ledger is settled."""

    settle: Settle


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask the session to prolong the term; a new session takes the lock back in the same statement."""

    epoch: int
    lease: Lease
    """What the row is to be written under."""


@dataclass(frozen=True, slots=True)
class Release:
    """Ask the session to mark the row released, unlock and notify, in this order. Only ever with an empty tree."""

    epoch: int
    cause: Cause
    reservation: Reservation | None


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Drop the session: its server must not be used."""

    why: str


@dataclass(frozen=True, slots=True)
class Spawn:
    """Ask the guardian for the term's one child."""

    epoch: int
    not_after: float
    deadline: float


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Tell the keeper the deadline at which it kills on its own."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Signal:
    """Send the program's stop signal."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the whole tree, until it is empty."""


Effect = Look | TakeOver | WriteSettled | Renew | Release | Disconnect | Spawn | SetDeadline | Signal | Kill
