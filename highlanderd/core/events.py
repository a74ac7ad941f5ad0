"""What happens to a program: answers of PostgreSQL, reports of its keeper, orders, and time.

Events are named by past participles, and frozen. Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.observation import Glimpse, Observation, Suspension
from highlanderd.core.placement import Peers
from highlanderd.core.schedule import Skipped
from highlanderd.core.states import NOBODY, Author, Cause


class Due(Struct, frozen=True):
    """The situation's deadline has passed. It is handled before anything that is queued."""


class Attached(Struct, frozen=True):
    """A new session is up. It holds no lock yet."""

    number: int = 0
    """The session's number: a request that was meant for a lost session must not reach its successor."""


class Detached(Struct, frozen=True):
    """The session is lost, and with it the answer to what was asked."""

    why: str


class Notified(Struct, frozen=True):
    """A notification says that the row changed. It is a hint, and never evidence."""


class LookAdvised(Struct, frozen=True):
    """The surveys of this node show more of the program's row than renewals, or none for a while. It is a hint, too."""


class Looked(Struct, frozen=True):
    """A look was answered."""

    observation: Observation
    at: float
    """Arrival of the answer."""
    keeperless: bool
    """Whether the guardian held no keeper for this lock id nor for this program."""
    peers: Peers = field(default_factory=Peers)
    """The other nodes that wait for the program, for placement."""
    glimpse: Glimpse | None = None
    """What a survey had shown of the row when the look was sent."""
    watched: bool = False
    """Another node leads, and LookAdvised will say when surveys show anything but its renewals."""


class Settled(Struct, frozen=True):
    """A request to write something that begins no term was answered. The next look shows what the ledger says."""

    skipped: tuple[Skipped, ...] = ()
    """The scheduled times that this node has written to be skipped."""


class Granted(Struct, frozen=True):
    """A takeover was acknowledged: the term has begun."""

    epoch: int
    lengths: Lengths
    sent: float
    scheduled: int | None = None
    """The scheduled time that it is for, in seconds of the epoch."""


class Refused(Struct, frozen=True):
    """A takeover changed nothing, and the session holds no lock. The next look is due in ``again_in`` seconds."""

    again_in: float
    why: str


class Renewed(Struct, frozen=True):
    """A renewal was acknowledged. On a new session it has also taken the lock back."""

    sent: float
    lengths: Lengths
    """The lease under which the row was written, and what the ledger wants next."""


class LeaseRefused(Struct, frozen=True):
    """A renewal changed nothing. It may have asked for a longer lease than the ledger promises to any leader."""

    pace: Lease
    """The ledger's lease as the session knows it. It is shorter than what was asked for."""


class Overruled(Struct, frozen=True):
    """A renewal met no row of this term: the term is over, and another node may lead."""


class Contended(Struct, frozen=True):
    """The lock could not be taken back yet. Another session still holds it, perhaps this program's lost one."""


class Unlocked(Struct, frozen=True):
    """The release was answered: the row is released, or another node has overruled the term before."""


class Started(Struct, frozen=True):
    """The child's program was executed."""

    pid: int
    at: float


class HookStarted(Struct, frozen=True):
    """The hook ``before_start`` was executed, in the child's place: the order to start it has arrived in time."""


class HookFinished(Struct, frozen=True):
    """A hook has ended. ``why`` it has failed is a sentence for operators, empty when it has not."""

    hook: str
    why: str


class FoundReady(Struct, frozen=True):
    """The child is ready, as the program's ``ready`` says it."""

    at: float


class FoundUnready(Struct, frozen=True):
    """The child is not ready yet. ``why`` is a sentence for operators, empty where nothing is known."""

    why: str
    until: float = 0.0
    """The child has asked for time until then, if that is longer than it has anyway."""


class FoundUnhealthy(Struct, frozen=True):
    """The child does not answer any more, as the program's ``alive`` says it. ``why`` is a sentence for operators."""

    why: str
    at: float


class SpawnFailed(Struct, frozen=True):
    """There is no child, and there will be none in this term. ``why`` is a sentence for operators."""

    why: str


class Exited(Struct, frozen=True):
    """The child's main process ended with this wait status. Other processes of its tree may live on."""

    status: int
    at: float
    alone: bool = True
    """Whether nothing of its tree was left."""
    starved: str = ""
    """Why the kernel killed it for want of memory, in words for operators; empty if it did not."""


class Emptied(Struct, frozen=True):
    """The child's tree is proven empty."""


class StartOrdered(Struct, frozen=True):
    """An operator wants the program to run."""

    by: Author = NOBODY


class StopOrdered(Struct, frozen=True):
    """An operator wants the program not to run on this node."""

    by: Author = NOBODY


class RestartOrdered(Struct, frozen=True):
    """An operator wants a new child on this node."""

    by: Author = NOBODY


class ReleaseOrdered(Struct, frozen=True):
    """An operator wants another node to lead."""

    to: str | None
    stay_out: float
    """Seconds for which this node stays out, unless another one leads before they are over."""
    by: Author = NOBODY


class Suspended(Struct, frozen=True):
    """The ledger shows an order that keeps the program from being led on this node."""

    suspension: Suspension


class Resumed(Struct, frozen=True):
    """The ledger shows no such order any more."""


class EndOrdered(Struct, frozen=True):
    """The program leaves this daemon: that shuts down, or the program is no longer in the configuration.

    With ``CHANGED`` it comes back at once, with other keys.
    """

    cause: Literal[Cause.SHUTDOWN, Cause.REMOVED, Cause.CHANGED]
    by: Author = NOBODY


Event = (
    Due
    | Attached
    | Detached
    | Notified
    | LookAdvised
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
    | HookStarted
    | HookFinished
    | FoundReady
    | FoundUnready
    | FoundUnhealthy
    | SpawnFailed
    | Exited
    | Emptied
    | StartOrdered
    | StopOrdered
    | RestartOrdered
    | ReleaseOrdered
    | Suspended
    | Resumed
    | EndOrdered
)
