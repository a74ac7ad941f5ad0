"""What the machine asks for: ``worker/program.py`` performs each effect, and what comes of it is an event.

Effects are named by imperatives, and frozen. Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from highlanderd.core.lease import Lease
from highlanderd.core.schedule import Change
from highlanderd.core.states import NOBODY, Author, Cause, Reservation
from highlanderd.core.verdict import Claim, Settle


class Look(Struct, frozen=True):
    """Ask the session what the ledger shows."""


class TakeOver(Struct, frozen=True):
    """Ask the session to take over: the claimed term begins, if the ledger still shows what was judged."""

    claim: Claim


class WriteSettled(Struct, frozen=True):
    """Ask the session to write into the ledger that it is settled."""

    settle: Settle


class WriteTimetable(Struct, frozen=True):
    """Ask the session to write what becomes of scheduled times, if the ledger still shows what was judged."""

    change: Change


class CloseTerms(Struct, frozen=True):
    """Ask the session to close the terms that the claim found to be over, and to begin none."""

    claim: Claim


class Renew(Struct, frozen=True):
    """Ask the session to renew the term. A new session takes the lock back in the same statement."""

    epoch: int
    lease: Lease
    """The lease under which the row is to be written."""


class Release(Struct, frozen=True):
    """Ask the session to mark the row released, to unlock and to notify, in this order.

    The machine returns it only after the child's tree was proven empty.
    """

    epoch: int
    cause: Cause
    reservation: Reservation | None
    status: int | None = None
    """The wait status of the main process, for the history."""
    by: Author = NOBODY
    """Who has ordered it, for the history."""


class Disconnect(Struct, frozen=True):
    """Drop the session, because its server must not be used."""

    why: str


class Spawn(Struct, frozen=True):
    """Ask the guardian for the term's one child."""

    epoch: int
    not_after: float
    """From this moment on the child must not be started."""
    deadline: float
    """When its keeper kills it unless a later deadline arrives before."""
    scheduled: int | None = None
    """The scheduled time that the term is for, in seconds of the epoch."""


Occasion = Literal["hint", "takeover"]
"""What a child is prepared at: a notification says that its term may be free, or that term is being asked for."""


class RunHook(Struct, frozen=True):
    """Have the child's keeper run the hook ``after_ready``."""


class SetDeadline(Struct, frozen=True):
    """Send the keeper the deadline at which it kills the tree on its own."""

    deadline: float


class Signal(Struct, frozen=True):
    """Send the program's stop signal to the child."""


class Kill(Struct, frozen=True):
    """Send SIGKILL to the child's whole tree until it is empty."""


Effect = (
    Look
    | TakeOver
    | WriteSettled
    | WriteTimetable
    | CloseTerms
    | Renew
    | Release
    | Disconnect
    | Spawn
    | RunHook
    | SetDeadline
    | Signal
    | Kill
)
