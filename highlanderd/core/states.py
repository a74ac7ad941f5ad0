"""The states of a program on one node, and what they are made of.

Each of them is frozen and holds just the facts that are true in it. Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Literal

from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.verdict import Knowledge


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says about one program's life. Durations in seconds."""

    node: str
    instance: str
    stop_signal: int = 15
    stop_timeout: float = 10.0
    stop_to: Literal["tree", "main"] = "tree"
    restart: Literal["always", "on-failure", "never"] = "always"
    success_exit_codes: frozenset[int] = frozenset({0})
    backoff: float = 1.0
    backoff_max: float = 60.0
    backoff_reset: float = 60.0
    on_connection_loss: Literal["hold", "stop"] = "hold"
    spread: float = 0.5
    """A number in [0, 1), drawn once per instance and program: spreads looks and backoffs of many nodes."""
    grid: float = 0.0
    """Share of a lease onto whose multiples looks and renewals are moved back, so that many share one wake-up."""

    def shared(self, moment: float, lease: Lease) -> float:
        """Return the last moment on the grid, at or before ``moment``.

        >>> Policy("n1", "i1", grid=0.02).shared(7.3, Lease(10.0)), Policy("n1", "i1").shared(7.3, Lease(10.0))
        (7.2, 7.3)
        """
        step = self.grid * lease.length
        return moment if not step else round(moment // step * step, 6)


class Want(Enum):
    """The operator's wish, kept apart from what is."""

    RUN = "run"
    STOP = "stop"
    END = "end"
    """The program leaves this daemon: it was removed from the file, or the daemon shuts down."""


class SessionState(Enum):
    """The program's one session."""

    DISCONNECTED = "away"
    IDLE = "idle"
    BUSY = "asking"
    """One request is under way; there is never a second one."""


@dataclass(frozen=True, slots=True)
class Shortening:
    """A renewal under way that shortens the lease: others may go by it already, whether its answer comes or not."""

    sent: float
    """Read before it was sent."""
    lease: Lease


@dataclass(frozen=True, slots=True)
class Term:
    """One stretch of leadership, and how long it may be trusted."""

    epoch: int
    lengths: Lengths
    began: float
    """When the takeover's acknowledgement arrived."""
    sent: float
    """Read *before* the last acknowledged takeover or renewal was sent. Trust counts from here."""
    shortening: Shortening | None = None

    @property
    def trusted_until(self) -> float:
        """End of this term unless it is renewed."""
        return min(lease.trusted_until(sent) for sent, lease in self._promises())

    @property
    def kill_at(self) -> float:
        """When the child's tree must be killed unless the term is renewed."""
        return min(lease.kill_at(sent) for sent, lease in self._promises())

    def fence_at(self, stop_timeout: float) -> float:
        """When the child is told to stop unless the term is renewed; it needs ``stop_timeout`` seconds at most."""
        return min(lease.fence_at(sent, stop_timeout) for sent, lease in self._promises())

    def _promises(self) -> Iterator[tuple[float, Lease]]:
        """What the row may say at this moment: each is a lease, and when it was sent."""
        yield self.sent, self.lengths.trusted
        if self.shortening is not None:
            yield self.shortening.sent, self.shortening.lease

    def asking(self, now: float) -> Term:
        """Return the term once a renewal is sent, not before ``now``: a shorter lease counts from its sending."""
        wanted, before = self.lengths.wanted, self.shortening
        if wanted.length >= self.lengths.trusted.length and before is None:
            return self
        shortening = Shortening(now, wanted)
        if before is not None and wanted.trusted_until(now) > before.lease.trusted_until(before.sent):
            shortening = before  # its answer never came: it may be the last one that was applied
        return replace(self, shortening=shortening)

    def renewed(self, sent: float, lengths: Lengths) -> Term:
        """Return the term after an acknowledged renewal, which says what the row holds now."""
        return replace(self, sent=sent, lengths=lengths, shortening=None)

    def curtailed(self, pace: Lease) -> Term:
        """Return the term when no lease as long as it wants is to be had: it asks for the ledger's own."""
        return replace(self, lengths=replace(self.lengths, wanted=pace, pace=pace))


@dataclass(frozen=True, slots=True)
class Abstention:
    """This node stays out until another one has led after ``epoch``, or until ``until``."""

    epoch: int
    until: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """A released row waits this long for ``node``."""

    node: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Wants to lead."""

    look_at: float
    """The next look. It only counts while the session is idle."""
    hinted: bool = False
    """A notification came while a question was under way: the answer may be stale, so look again."""
    abstention: Abstention | None = None
    insistent: bool = False
    """An operator's ``start``: if the next look shows that the program has finished, run it all the same."""
    overridden: int = 0
    """The epoch of the finished term that such a ``start`` has overridden."""


@dataclass(frozen=True, slots=True)
class Spawning:
    """The guardian was asked for a child; unanswered it counts as running."""

    not_after: float


@dataclass(frozen=True, slots=True)
class Running:
    """The child's program was executed."""

    pid: int
    since: float


@dataclass(frozen=True, slots=True)
class Leading:
    """The term has begun and a child is wanted."""

    term: Term
    child: Spawning | Running
    renew_at: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """The child was told to stop; SIGKILL at ``kill_at``, and earlier when the lease says so."""

    kill_at: float


@dataclass(frozen=True, slots=True)
class Killing:
    """SIGKILL was ordered; now only the proof counts that the tree is empty."""


@dataclass(frozen=True, slots=True)
class Releasing:
    """The tree is proven empty; the release is not acknowledged yet."""

    give_up_at: float | None = None
    """When the daemon ends all the same; the others then wait for the lease."""


class Cause(Enum):
    """Why a term ends; its value is what the ledger and the metrics say."""

    RELEASED = "released"
    STOPPED = "stopped"
    RESTARTED = "restarted"
    SHUTDOWN = "shutdown"
    REMOVED = "removed"
    FENCED = "fenced"
    DISCONNECTED = "disconnected"
    OVERRULED = "overruled"
    EXITED = "exited"
    FINISHED = "finished"
    SPAWN_FAILED = "spawn-failed"
    KEEPER_LOST = "keeper-lost"
    UNWANTED = "unwanted"


UNRENEWED: Final = frozenset({Cause.OVERRULED, Cause.SPAWN_FAILED})
"""Ends whose term is not prolonged while they last: it is another's; or nobody knows of a child, and its first deadline
lies inside this very lease."""

FAILURES: Final = frozenset({Cause.EXITED, Cause.SPAWN_FAILED, Cause.KEEPER_LOST})
"""Ends that count as a failure of the program on this node: it then sits in backoff."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The child is leaving, or gone and the release not acknowledged yet. The term is still ours."""

    term: Term
    phase: Stopping | Killing | Releasing
    cause: Cause
    renew_at: float
    abstain_for: float = 0.0
    """How long this node stays out after the release, unless another one has led before."""
    reservation: Reservation | None = None
    insistent: bool = False
    """An operator's ``start`` came meanwhile: run it again even if this term was its last."""

    @property
    def kill_at(self) -> float:
        """SIGKILL: after the stop timeout, and earlier when the lease says so."""
        lease = self.term.kill_at
        return min(self.phase.kill_at, lease) if isinstance(self.phase, Stopping) else lease

    @property
    def keeper_deadline(self) -> float:
        """What the keeper is told: the lease's, but a fence that has begun keeps its SIGKILL when renewed."""
        return self.kill_at if self.cause is Cause.FENCED else self.term.kill_at


@dataclass(frozen=True, slots=True)
class Backoff:
    """Let go after a crash or a failed start; sits out."""

    until: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """An operator said so."""


State = Waiting | Leading | Draining | Backoff | Stopped


@dataclass(frozen=True, slots=True)
class Situation:
    """All there is to know about one program on this node: wish, state and reason, kept apart."""

    want: Want
    state: State
    link: SessionState = SessionState.DISCONNECTED
    knowledge: Knowledge = field(default_factory=Knowledge)
    failures: int = 0
    """Crashes and failed starts in a row."""
    reason: str = ""
