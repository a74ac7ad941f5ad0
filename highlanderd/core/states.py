"""The states of a program on one node, and what they are made of.

Each state is frozen and holds only the facts that are true in it. ``Situation`` puts the state together with what
outlives every state: the operator's wish, the session, and what the ledger has shown. Times are CLOCK_BOOTTIME in
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from math import inf
from typing import Final, Literal

from msgspec import Struct, field

from highlanderd.core.knowledge import Knowledge
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.observation import Suspension
from highlanderd.core.schedule import Schedule
from highlanderd.structs import replace


class Policy(Struct, frozen=True):
    """What the configuration says about one program's life. Durations are seconds."""

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
    ready_timeout: float = 90.0
    hooks: frozenset[str] = frozenset()
    """Which of them the program has."""
    hook_timeout: float = 30.0
    on_connection_loss: Literal["hold", "stop"] = "hold"
    jitter: float = 0.5
    """A number in [0, 1), drawn once per instance and program. It spreads the looks and backoffs of many nodes."""
    prefer: tuple[str, ...] = ()
    """Nodes that are to lead rather than others, in this order."""
    spread: bool = False
    """Whether a node that leads many programs leaves the next one to others."""
    schedule: Schedule | None = None
    """When it is to run; ``None`` for all the time."""
    grid: float = 0.0
    """Share of a lease. Looks and renewals are moved back to its multiples, so that many programs share one wake-up."""

    def succeeds(self, status: int) -> bool:
        """Return whether a main process that ended with this wait status has done its work.

        >>> policy = Policy("n1", "i1", success_exit_codes=frozenset({0, 3}))
        >>> policy.succeeds(3 << 8), policy.succeeds(1 << 8), policy.succeeds(3)
        (True, False, False)
        """
        return not status & 0x7F and status >> 8 in self.success_exit_codes

    def shared(self, moment: float, lease: Lease) -> float:
        """Return the last moment on the grid, at or before ``moment``.

        >>> Policy("n1", "i1", grid=0.02).shared(7.3, Lease(10.0)), Policy("n1", "i1").shared(7.3, Lease(10.0))
        (7.2, 7.3)
        """
        step = self.grid * lease.length
        return moment if not step else round(moment // step * step, 6)


class Author(Struct, frozen=True):
    """Who has ordered something, and the reason that was given. Both are shown, and decide nothing."""

    name: str = ""
    """Such as ``uid 1000 (ann) on node a``; empty where it is not known."""
    remark: str = ""

    def about(self, what: str) -> Author:
        """Return the same author, whose remark begins with what was ordered.

        >>> Author("ann", "a leak").about("HUP").remark, Author("ann").about("HUP").remark
        ('HUP: a leak', 'HUP')
        """
        return replace(self, remark=f"{what}: {self.remark}" if self.remark else what)


NOBODY: Final = Author()
"""The author of what was not ordered, or was ordered through an earlier worker."""


class Want(Enum):
    """The operator's wish, kept apart from what is."""

    RUN = "run"
    STOP = "stop"
    END = "end"
    """The program leaves this daemon: it was removed from the file, or the daemon shuts down."""


class SessionState(Enum):
    """Whether the program's one session can be asked something."""

    DISCONNECTED = "disconnected"
    IDLE = "idle"
    BUSY = "busy"
    """One request is under way. There is never a second one."""


class Shortening(Struct, frozen=True):
    """A renewal under way that shortens the lease. Other nodes may go by it already, even if no answer ever comes."""

    sent: float
    """When the renewal was sent, read before that."""
    lease: Lease


class Term(Struct, frozen=True):
    """One stretch of leadership, and how long it may be trusted."""

    epoch: int
    lengths: Lengths
    began: float
    """When the takeover's acknowledgement arrived."""
    sent: float
    """When the last acknowledged takeover or renewal was sent, read *before* that. Trust counts from here."""
    shortening: Shortening | None = None

    @property
    def trusted_until(self) -> float:
        """Return when this term ends unless it is renewed."""
        at, shorter = self.lengths.trusted.trusted_until(self.sent), self.shortening
        return at if shorter is None else min(at, shorter.lease.trusted_until(shorter.sent))

    @property
    def kill_at(self) -> float:
        """Return when the child's tree must be killed unless the term is renewed."""
        at, shorter = self.lengths.trusted.kill_at(self.sent), self.shortening
        return at if shorter is None else min(at, shorter.lease.kill_at(shorter.sent))

    def fence_at(self, stop_timeout: float) -> float:
        """Return when to ask the child to stop unless the term is renewed; it takes up to ``stop_timeout`` seconds."""
        at, shorter = self.lengths.trusted.fence_at(self.sent, stop_timeout), self.shortening
        return at if shorter is None else min(at, shorter.lease.fence_at(shorter.sent, stop_timeout))

    def asking(self, now: float) -> Term:
        """Return the term once a renewal is sent, which happens at ``now`` or later.

        A renewal that shortens the lease counts from its sending, not from its answer.
        """
        wanted, before = self.lengths.wanted, self.shortening
        if wanted.length >= self.lengths.trusted.length and before is None:
            return self
        shortening = Shortening(now, wanted)
        if before is not None and wanted.trusted_until(now) > before.lease.trusted_until(before.sent):
            shortening = before  # no answer to it came, so it may be what the row says now
        return replace(self, shortening=shortening)

    def renewed(self, sent: float, lengths: Lengths) -> Term:
        """Return the term after an acknowledged renewal: ``lengths`` is what the row says now."""
        return replace(self, sent=sent, lengths=lengths, shortening=None)

    def curtailed(self, pace: Lease) -> Term:
        """Return the term after the ledger refused the lease that it wanted: it asks for the ledger's own instead."""
        return replace(self, lengths=replace(self.lengths, wanted=pace, pace=pace))


class Abstention(Struct, frozen=True):
    """This node stays out until another one has led under a later epoch than ``epoch``, or until ``until``."""

    epoch: int
    until: float


class Vacancy(Struct, frozen=True):
    """The verdict has let this node take over, after the term of ``epoch``, since a moment."""

    epoch: int
    since: float


class Reservation(Struct, frozen=True):
    """A released row waits for ``node``, so long and no longer."""

    node: str
    seconds: float


class Waiting(Struct, frozen=True):
    """The program wants to lead: it looks at the ledger until a verdict lets it take over."""

    look_at: float
    """When the next look is due. It only counts while the session is idle."""
    hinted: bool = False
    """A notification came while a question was under way. The answer may be older, so the program looks again."""
    abstention: Abstention | None = None
    insistent: bool = False
    """An operator ordered ``start``: if the next look shows that the program has finished, or that it is reserved for
    another node, it runs all the same."""
    overridden: int = -1
    """The epoch of the released term that such a ``start`` has overridden; 0 where there was none yet."""
    finished: bool = False
    """The last look has shown that the program has finished: an operator has to start it again."""
    next_run: float | None = None
    """When its schedule wants it to run next, in seconds of the epoch, once the last look has shown that it is not now;
    infinity for never."""
    vacancy: Vacancy | None = None
    """Set while this node may take over, and leaves it to another one."""
    superseded: tuple[float, float] | None = None
    """When this node took up its schedule, and when another one was brought that counts instead, as the last look has
    shown it. That stays so however the server's clock is set, until either changes."""
    recalled: float = -inf
    """When the order was lifted that had stopped the program everywhere: other nodes come back as this one does."""


class Spawning(Struct, frozen=True):
    """The guardian was asked for a child. Until it answers, the child counts as running."""

    not_after: float
    """Nothing is executed from this moment on."""


class Preparing(Struct, frozen=True):
    """The hook ``before_start`` runs. Its keeper ends it in time, and then executes the program, or does not."""


class Running(Struct, frozen=True):
    """The child's program was executed, and is not ready yet."""

    pid: int
    since: float
    ready_by: float
    """When the term ends unless the child is ready."""
    lack: str = ""
    """Why it was not found ready when it was asked last, for operators."""


class Ready(Struct, frozen=True):
    """The child's program was executed, and was found ready."""

    pid: int
    since: float
    """When it was executed."""
    at: float
    """When it was found ready."""


class Leading(Struct, frozen=True):
    """The term has begun and a child is wanted."""

    term: Term
    child: Spawning | Preparing | Running | Ready
    renew_at: float


class Stopping(Struct, frozen=True):
    """The child was asked to stop. It gets SIGKILL at ``kill_at``, or earlier when the lease says so."""

    kill_at: float


class Killing(Struct, frozen=True):
    """SIGKILL was ordered. The program waits for the proof that the tree is empty."""


class Releasing(Struct, frozen=True):
    """The tree is proven empty. The release is not acknowledged yet."""

    give_up_at: float | None = None
    """When the daemon ends without the acknowledgement. The other nodes then wait for the lease."""


class Cause(Enum):
    """Why a term ends. The value is what the ledger and the metrics say."""

    RELEASED = "released"
    """An operator ordered a release: another node is to lead."""
    STOPPED = "stopped"
    """An operator ordered a stop on this node, or everywhere."""
    DRAINED = "drained"
    """An operator drained this node."""
    RESTARTED = "restarted"
    """An operator ordered a restart on this node."""
    SHUTDOWN = "shutdown"
    """The daemon ends."""
    REMOVED = "removed"
    """The program is no longer in the configuration."""
    CHANGED = "changed"
    """A key has changed that needs a new child, which this node starts."""
    FENCED = "fenced"
    """The lease could not be renewed in time."""
    DISCONNECTED = "disconnected"
    """The session broke, and ``on_connection_loss`` is ``stop``."""
    OVERRULED = "overruled"
    """A renewal met no row of this term."""
    EXITED = "exited"
    """The child ended, and is to be started again."""
    OUT_OF_MEMORY = "out_of_memory"
    """The kernel killed the child for want of memory, and it is to be started again."""
    FINISHED = "finished"
    """The child ended, and ``restart`` says that it is not started again."""
    SPAWN_FAILED = "spawn-failed"
    """The child could not be started, or the guardian did not confirm its start in time."""
    KEEPER_LOST = "keeper-lost"
    """The keeper was killed, and the child with it."""
    NOT_READY = "not_ready"
    """The child was not ready within ``ready_timeout``."""
    UNHEALTHY = "unhealthy"
    """The child was ready, and no longer answered as ``alive`` wants it."""
    HOOK_FAILED = "hook_failed"
    """The hook ``before_start`` failed, so no program was executed."""
    UNWANTED = "unwanted"
    """An operator's stop came while the takeover was under way, so no child was started."""


LAPSED: Final = "lapsed"
"""What the ledger says of a term whose leader was lost: no cause, because nobody knows."""

UNRENEWED: Final = frozenset({Cause.OVERRULED, Cause.SPAWN_FAILED})
"""Causes after which a draining term is not renewed: the term is another node's; or the guardian never confirmed a
child, and the deadline of such a child lies inside the present lease."""

FAILURES: Final = frozenset(
    {
        *(Cause.EXITED, Cause.OUT_OF_MEMORY, Cause.SPAWN_FAILED, Cause.KEEPER_LOST, Cause.NOT_READY, Cause.UNHEALTHY),
        Cause.HOOK_FAILED,
    }
)
"""Causes that count as a failure of the program on this node: backoff follows."""

UNANNOUNCED: Final = frozenset({Cause.EXITED, Cause.OUT_OF_MEMORY, Cause.FINISHED, Cause.FENCED, Cause.DISCONNECTED})
"""Causes after which ``before_stop`` does not run: the program has ended by itself, or there is no time."""

ORDERED: Final = frozenset(
    {
        *(Cause.RELEASED, Cause.STOPPED, Cause.DRAINED, Cause.RESTARTED),
        *(Cause.SHUTDOWN, Cause.REMOVED, Cause.CHANGED, Cause.UNWANTED),
    }
)
"""Causes that an operator, or a placement, has brought about: how the child ends then says nothing about its work."""

HANDED_OVER: Final = frozenset(cause.value for cause in (Cause.RELEASED, Cause.DRAINED, Cause.SHUTDOWN))
"""What the ledger says of terms that were given up by order, for another node to lead."""

OUTLAWED: Final = frozenset({Cause.OVERRULED, Cause.FENCED, Cause.SPAWN_FAILED, Cause.KEEPER_LOST, Cause.HOOK_FAILED})
"""Causes after which a tree that has to be killed is not followed by ``after_stop``."""


class Draining(Struct, frozen=True):
    """The term ends: the child is leaving, or it is gone and the release is not acknowledged yet.

    This node still holds the term, and renews it while the child leaves.
    """

    term: Term
    phase: Stopping | Killing | Releasing
    cause: Cause
    renew_at: float
    abstain_for: float = 0.0
    """Seconds for which this node stays out after the release, unless another one leads before they are over."""
    reservation: Reservation | None = None
    insistent: bool = False
    """An operator ordered ``start`` meanwhile: the program runs again even if it has just finished."""
    status: int | None = None
    """The wait status of the main process, once it has ended."""
    by: Author = NOBODY
    """Who has ordered the end of the term."""

    @property
    def kill_at(self) -> float:
        """Return when SIGKILL is due: after the stop timeout, or earlier when the lease says so."""
        lease = self.term.kill_at
        return min(self.phase.kill_at, lease) if isinstance(self.phase, Stopping) else lease

    @property
    def keeper_deadline(self) -> float:
        """Return when the keeper kills on its own: when the lease says so.

        A fence that has begun keeps its SIGKILL even when the term is renewed.
        """
        return self.kill_at if self.cause is Cause.FENCED else self.term.kill_at


class Backoff(Struct, frozen=True):
    """The program has crashed or could not be started here. This node sits out; other nodes may lead."""

    until: float


class Stopped(Struct, frozen=True):
    """The program does not contend on this node: an operator stopped it, or it was not started yet, or it leaves."""


State = Waiting | Leading | Draining | Backoff | Stopped

STATE_NAMES: Final[Mapping[type[State], str]] = {
    Leading: "leading",
    Draining: "draining",
    Waiting: "waiting",
    Backoff: "backoff",
    Stopped: "stopped",
}
"""What log, metrics and commands call each state, in the order in which an operator looks for them."""


class Situation(Struct, frozen=True):
    """All that decides about one program on this node: wish, state, session, knowledge and reason, kept apart."""

    want: Want
    state: State
    session: SessionState = SessionState.DISCONNECTED
    knowledge: Knowledge = field(default_factory=Knowledge)
    suspension: Suspension | None = None
    """The order in the ledger that keeps the program from being led on this node."""
    failures: int = 0
    """Crashes and failed starts in a row."""
    reason: str = ""
    """Why the program is where it is, as a sentence for operators."""


def alike(before: Situation, after: Situation) -> bool:
    """Return whether nobody who asks sees a difference: times have moved at most, by a renewal or a look.

    A program is renewed or looked at several times a lease, and nobody who follows changes wants to hear of that.
    """
    if before.reason != after.reason:
        return False
    if before.state is after.state:
        return True
    match before.state, after.state:
        case Leading(term, child), Leading(renewed, the_same):
            return child == the_same and (term.epoch, term.lengths) == (renewed.epoch, renewed.lengths)
        case Waiting() as waiting, Waiting() as looked:
            return replace(waiting, look_at=looked.look_at, hinted=looked.hinted) == looked
    return before.state == after.state
