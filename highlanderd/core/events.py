"""What happens to a program: answers of PostgreSQL, reports of its keeper, orders, and time.

Events are past participles, and frozen. Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.states import Cause
from highlanderd.core.verdict import Observation


@dataclass(frozen=True, slots=True)
class Due:
    """The situation's deadline has passed. Always handled before anything that is queued."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A new session is up. It holds no lock yet."""

    number: int = 0
    """Which one: what is asked of a session that was lost meanwhile must not reach its successor."""


@dataclass(frozen=True, slots=True)
class Detached:
    """The session is lost, and with it whatever was asked."""

    why: str


@dataclass(frozen=True, slots=True)
class Notified:
    """Somebody says that the row changed: a hint, never evidence."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A look was answered."""

    observation: Observation
    at: float
    """Arrival of the answer."""
    keeperless: bool
    """Whether the guardian held no keeper for this lock id nor for this program."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The ledger says, or refused to say, that it is settled. The next look shows which."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A takeover was acknowledged: the term has begun."""

    epoch: int
    lengths: Lengths
    sent: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A takeover changed nothing, and the session holds no lock. Look again after ``again_in`` seconds."""

    again_in: float
    why: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """A renewal, or the reattachment that a renewal is on a new session, was acknowledged."""

    sent: float
    lengths: Lengths
    """What the row was written under, and what the ledger wants next."""


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """A renewal changed nothing, and may have asked for a longer lease than the ledger promises to anybody."""

    pace: Lease
    """The ledger's lease as the session knows it: shorter than what was asked for."""


@dataclass(frozen=True, slots=True)
class Overruled:
    """A renewal met no row: the term is no longer ours."""


@dataclass(frozen=True, slots=True)
class Contended:
    """The lock could not be taken back yet: another session, perhaps our own old one, still holds it."""


@dataclass(frozen=True, slots=True)
class Unlocked:
    """The release was answered: the row is released, or was overtaken."""


@dataclass(frozen=True, slots=True)
class Started:
    """The child's program was executed."""

    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """There is no child, and there will be none in this term. ``why`` is a sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The child's main process ended with this wait status; its tree may live on."""

    status: int
    at: float


@dataclass(frozen=True, slots=True)
class Emptied:
    """The child's tree is proven empty."""


@dataclass(frozen=True, slots=True)
class StartOrdered:
    """An operator wants the program to run."""


@dataclass(frozen=True, slots=True)
class StopOrdered:
    """An operator wants it not to run on this node."""


@dataclass(frozen=True, slots=True)
class RestartOrdered:
    """An operator wants a new child on this node."""


@dataclass(frozen=True, slots=True)
class ReleaseOrdered:
    """An operator wants another node to lead."""

    to: str | None
    stay_out: float
    """Seconds for which this node abstains unless another one has led before."""


@dataclass(frozen=True, slots=True)
class EndOrdered:
    """The program leaves this daemon."""

    cause: Literal[Cause.SHUTDOWN, Cause.REMOVED]


Event = (
    Due
    | Attached
    | Detached
    | Notified
    | Looked
    | Settled
    | Granted
    | Refused
    | Renewed
    | LeaseRefused
    | Overruled
    | Contended
    | Unlocked
    | Started
    | SpawnFailed
    | Exited
    | Emptied
    | StartOrdered
    | StopOrdered
    | RestartOrdered
    | ReleaseOrdered
    | EndOrdered
)
