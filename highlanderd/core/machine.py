"""The life of one program on one node, as a table: every pair of state and event has its cell.

**Five states.** *Waiting*: the program wants to lead, and looks at the ledger. *Leading*: a term has begun, and its one
child runs or is being started. *Draining*: the term ends; the child is leaving, or it is gone and the row is not
released yet. *Backoff*: the child crashed or could not be started, so this node sits out and others may lead.
*Stopped*: nobody wants the program to run on this node. The usual way is waiting, leading, draining, and waiting again.

**Who asks, and who answers.** The machine decides and does nothing else. ``worker/program.py`` runs one machine for
each program: it takes one event after the other from an inbox, calls ``step``, and performs the effects that come back,
in their order. Events come from four sides. PostgreSQL answers what the program's session asked. The child's keeper and
the guardian report facts about the child. Operators, a reload or the daemon's end give orders. And time passes:
``deadline`` says when, and the caller then hands in ``Due`` before anything that is queued. An answer may never come;
every state can live without it.

**One question at a time.** A program has one session, which is disconnected, idle or busy. An effect that asks
PostgreSQL something (``_REQUESTS`` below) is returned only while the session is idle, and makes it busy until the
answer or ``Detached`` arrives. A cell that must ask later leaves a moment in its state, such as ``renew_at`` or
``look_at``; it counts once the session is idle again.

**How a term begins.** ``Look`` brings ``Looked``; ``core/verdict.py`` judges it. A claim becomes ``TakeOver``, and
``Granted`` is the only way into a term. Before a node claims, it may leave the program to another one for a moment
(``core/placement.py``), which delays a term and never begins one. A program with a schedule needs one of its times for
a claim (``core/planning.py``): ``WriteTimetable`` notes those that are skipped, and the takeover its own.
The cell of ``Granted`` returns ``Spawn``, the only one of that term. ``Started`` or ``SpawnFailed`` says whether the
child was started; while neither has come, the child counts as running, because the guardian may have forked it.
``HookStarted`` says that ``before_start`` runs in the child's tree: the start is in doubt no more, and takes as long as
that hook may. ``FoundReady`` says that the child does its work, as the program's ``ready`` defines it; when that does
not come in time, or ``FoundUnhealthy`` comes later, the term ends, and another node has its turn.

**How long a term may be trusted.** Trust counts from the moment *before* the last acknowledged statement was sent
(``core/lease.py``). Each acknowledged renewal moves three moments on: the fence, SIGKILL, and the end of trust. The
keeper gets the deadline of SIGKILL with every ``SetDeadline`` and kills on its own, so a worker that hangs or dies
changes nothing about it. When no renewal is acknowledged in time, ``Due`` finds the fence's moment passed, and the term
drains for the cause ``FENCED``. That is why a fence comes when it does: look for the last ``Renewed``, not for the
moment at which the connection broke.

**How a term ends.** Whatever ends it becomes a ``Cause``, and the state becomes draining: ``Stopping`` after the stop
signal, ``Killing`` after SIGKILL, ``Releasing`` once the tree is proven empty (``Emptied``, or ``SpawnFailed``). Only
``Releasing`` returns ``Release``. Its answer, ``Unlocked``, leads to where the operator's wish and the cause say.

**What holds on every path**, and what ``tests/exploration`` searches every path for:

* a child exists only in leading and draining;
* a child never outlives the trust in its term: its keeper's deadline lies before the end of trust;
* ``Release`` is returned only after the tree was proven empty;
* a term spawns once;
* a stopped program starts nothing: a grant that arrives too late for the wish goes straight to draining;
* nor does one that the ledger shows as suspended: its node is drained, or it is stopped everywhere.

``stay`` in a cell means that the event may happen there and changes nothing. ``bug`` means that it cannot happen; it
raises ``ImpossibleEvent``, which ends the program's task: its child is killed, and it sits out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

from highlanderd.core.effects import (
    CloseTerms,
    Disconnect,
    Look,
    Release,
    Renew,
    TakeOver,
    WriteSettled,
    WriteTimetable,
)
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Due,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    FoundReady,
    FoundUnhealthy,
    FoundUnready,
    Granted,
    HookFinished,
    HookStarted,
    LeaseRefused,
    LookAdvised,
    Looked,
    Notified,
    Overruled,
    Refused,
    ReleaseOrdered,
    Renewed,
    RestartOrdered,
    Resumed,
    Settled,
    SpawnFailed,
    Started,
    StartOrdered,
    StopOrdered,
    Suspended,
    Unlocked,
)
from highlanderd.core.knowledge import Knowledge, glimpsed, observe
from highlanderd.core.states import (
    Backoff,
    Draining,
    Leading,
    Policy,
    Releasing,
    Running,
    SessionState,
    Situation,
    Spawning,
    State,
    Stopped,
    Stopping,
    Waiting,
    Want,
)
from highlanderd.core.transitions import draining, leading, resting, waiting
from highlanderd.core.transitions.context import Context, ImpossibleEvent, Step, bug, stay
from highlanderd.structs import replace

__all__ = ["TABLE", "ImpossibleEvent", "Step", "adopt", "begin", "deadline", "finished", "step"]

Cell = Callable[[Context[Any, Any]], Step]

NOTHING_KNOWN: Final = Knowledge()


def step(situation: Situation, event: Event, now: float, policy: Policy) -> Step:
    """Return the situation after ``event`` and the effects to perform, in their order.

    ``now`` is CLOCK_BOOTTIME in seconds. The caller hands in ``Due`` first whenever ``deadline`` has passed.

    Raises ImpossibleEvent for a cell that says ``bug``.
    """
    session = _SESSION_AFTER.get(type(event), situation.session)
    knowledge = situation.knowledge
    if isinstance(event, Looked):
        knowledge = observe(glimpsed(knowledge, event.glimpse), event.observation, event.at)
    if isinstance(event, Granted):
        knowledge = replace(knowledge, epoch=max(knowledge.epoch, event.epoch))
    situation = replace(situation, session=session, knowledge=knowledge)
    cell = TABLE[type(situation.state)][type(event)]
    after, effects = cell(Context(situation, situation.state, event, now, policy))
    if not _REQUESTS.isdisjoint(map(type, effects)):
        after = replace(after, session=SessionState.BUSY)
    return after, effects


_ANSWERS: Final[tuple[type[Event], ...]] = (
    Looked,
    Settled,
    Granted,
    Refused,
    Renewed,
    LeaseRefused,
    Overruled,
    Contended,
    Unlocked,
)
_REQUESTS: Final = frozenset({Look, TakeOver, WriteSettled, WriteTimetable, CloseTerms, Renew, Release, Disconnect})
_SESSION_AFTER: Final[Mapping[type[Event], SessionState]] = {
    Attached: SessionState.IDLE,
    Detached: SessionState.DISCONNECTED,
    **dict.fromkeys(_ANSWERS, SessionState.IDLE),
}


def deadline(situation: Situation, policy: Policy) -> float | None:
    """Return the one moment at which time itself changes something, or None when only events can."""
    idle = situation.session is SessionState.IDLE
    match situation.state:
        case Waiting(look_at=look_at):
            moments = [look_at] if idle else []
        case Leading(term, child, renew_at):
            moments = [term.fence_at(policy.stop_timeout)]
            moments += [child.not_after] if isinstance(child, Spawning) else []
            moments += [child.ready_by] if isinstance(child, Running) else []
            moments += [renew_at] if idle else []
        case Draining(phase=Releasing(give_up_at)):
            moments = [] if give_up_at is None else [give_up_at]
        case Draining(phase=phase, renew_at=renew_at) as state:
            moments = [state.kill_at] if isinstance(phase, Stopping) else []
            moments += [renew_at] if idle else []
        case Backoff(until):
            moments = [until]
        case Stopped():
            moments = []
    moment = min(moments, default=inf)
    return None if moment == inf else moment


def turns_at(situation: Situation, look: Looked | None, now: float, policy: Policy) -> float | None:
    """Return when time alone ends what keeps a program from being led here, or ends its term, as far as is known."""
    match situation.state:
        case Waiting() as state if look is not None:
            return waiting.turns_at(situation, state, look, now, policy)
        case Leading(term, child):
            ready_by = child.ready_by if isinstance(child, Running) else inf
            lost = situation.session is SessionState.DISCONNECTED
            moment = min(ready_by, term.fence_at(policy.stop_timeout)) if lost else ready_by
            return None if moment == inf else moment
        case Backoff(until):
            return until
        case Draining(phase=Stopping()) as state:
            return state.kill_at
        case _:
            return None


def finished(situation: Situation) -> bool:
    """Return whether the program has left this daemon and nothing of it is under way."""
    over = situation.want is Want.END and isinstance(situation.state, Stopped)
    return over and situation.session is not SessionState.BUSY


def begin(want: Want, now: float, knowledge: Knowledge = NOTHING_KNOWN) -> Situation:
    """Return the situation of a program that has no child on this node."""
    state = Waiting(look_at=now) if want is Want.RUN else Stopped()
    return Situation(want, state, knowledge=knowledge)


def adopt(state: Leading | Draining, want: Want, knowledge: Knowledge = NOTHING_KNOWN) -> Situation:
    """Return the situation of a program whose child an earlier worker left alive: there is no session yet."""
    return Situation(want, state, SessionState.DISCONNECTED, knowledge)


TABLE: Final[Mapping[type[State], Mapping[type[Event], Cell]]] = {
    Waiting: {
        Due: waiting.due,
        Attached: waiting.attached,
        Detached: waiting.detached,
        Notified: waiting.notified,
        LookAdvised: waiting.notified,
        Looked: waiting.looked,
        Settled: waiting.settled,
        Granted: waiting.granted,
        Refused: waiting.refused,
        Renewed: bug,
        LeaseRefused: bug,
        Overruled: bug,
        Contended: bug,
        Unlocked: bug,
        Started: bug,
        HookStarted: bug,
        HookFinished: bug,
        FoundReady: bug,
        FoundUnready: bug,
        FoundUnhealthy: bug,
        SpawnFailed: bug,
        Exited: bug,
        Emptied: bug,
        StartOrdered: waiting.start_ordered,
        StopOrdered: resting.stop,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        Suspended: resting.suspended,
        Resumed: stay,
        EndOrdered: resting.end,
    },
    Leading: {
        Due: leading.due,
        Attached: leading.attached,
        Detached: leading.detached,
        Notified: stay,
        LookAdvised: stay,
        Looked: bug,
        Settled: bug,
        Granted: bug,
        Refused: bug,
        Renewed: leading.renewed,
        LeaseRefused: leading.curtailed,
        Overruled: leading.overruled,
        Contended: leading.contended,
        Unlocked: bug,
        Started: leading.started,
        HookStarted: leading.hook_started,
        HookFinished: leading.hook_finished,
        FoundReady: leading.found_ready,
        FoundUnready: leading.found_unready,
        FoundUnhealthy: leading.found_unhealthy,
        SpawnFailed: leading.spawn_failed,
        Exited: leading.exited,
        Emptied: leading.emptied,
        StartOrdered: stay,
        StopOrdered: leading.stop_ordered,
        RestartOrdered: leading.restart_ordered,
        ReleaseOrdered: leading.release_ordered,
        Suspended: leading.suspended,
        Resumed: stay,
        EndOrdered: leading.end_ordered,
    },
    Draining: {
        Due: draining.due,
        Attached: draining.attached,
        Detached: stay,
        Notified: stay,
        LookAdvised: stay,
        Looked: bug,
        Settled: bug,
        Granted: bug,
        Refused: bug,
        Renewed: draining.renewed,
        LeaseRefused: draining.curtailed,
        Overruled: draining.overruled,
        Contended: draining.contended,
        Unlocked: draining.unlocked,
        Started: stay,
        HookStarted: stay,
        HookFinished: draining.hook_finished,
        FoundReady: stay,
        FoundUnready: stay,
        FoundUnhealthy: stay,
        SpawnFailed: draining.emptied,
        Exited: draining.exited,
        Emptied: draining.emptied,
        StartOrdered: draining.start_ordered,
        StopOrdered: draining.stop_ordered,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        Suspended: draining.suspended,
        Resumed: draining.resumed,
        EndOrdered: draining.end_ordered,
    },
    Backoff: {
        Due: resting.wait,
        Attached: stay,
        Detached: stay,
        Notified: stay,
        LookAdvised: stay,
        Looked: bug,
        Settled: bug,
        Granted: bug,
        Refused: bug,
        Renewed: bug,
        LeaseRefused: bug,
        Overruled: bug,
        Contended: bug,
        Unlocked: bug,
        Started: bug,
        HookStarted: bug,
        HookFinished: bug,
        FoundReady: bug,
        FoundUnready: bug,
        FoundUnhealthy: bug,
        SpawnFailed: bug,
        Exited: bug,
        Emptied: bug,
        StartOrdered: resting.wait,
        StopOrdered: resting.stop,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        Suspended: resting.suspended,
        Resumed: stay,
        EndOrdered: resting.end,
    },
    Stopped: {
        Due: bug,
        Attached: stay,
        Detached: stay,
        Notified: stay,
        LookAdvised: stay,
        Looked: stay,
        Settled: stay,
        Granted: resting.granted,
        Refused: stay,
        Renewed: stay,
        LeaseRefused: stay,
        Overruled: stay,
        Contended: stay,
        Unlocked: stay,
        Started: bug,
        HookStarted: bug,
        HookFinished: bug,
        FoundReady: bug,
        FoundUnready: bug,
        FoundUnhealthy: bug,
        SpawnFailed: bug,
        Exited: bug,
        Emptied: bug,
        StartOrdered: resting.start_ordered,
        StopOrdered: resting.stop,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        Suspended: resting.suspended,
        Resumed: resting.resumed,
        EndOrdered: resting.end,
    },
}
