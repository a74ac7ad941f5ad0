"""The life of one program on one node, as a table: every pair of state and event has its cell.

``step`` is pure: time is an argument, effects are values that somebody else performs. ``stay`` in a cell means that the
event may happen there and changes nothing; ``bug`` that it cannot happen, and raises.

Three things hold on every path, and the tests explore them: a child exists only in leading and draining; ``Release`` is
emitted only after the tree was proven empty; a term spawns once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any, Final

from highlanderd.core.effects import Disconnect, Look, Release, Renew, TakeOver, WriteSettled
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Due,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    Granted,
    LeaseRefused,
    Looked,
    Notified,
    Overruled,
    Refused,
    ReleaseOrdered,
    Renewed,
    RestartOrdered,
    Settled,
    SpawnFailed,
    Started,
    StartOrdered,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.states import (
    Backoff,
    Draining,
    Leading,
    Policy,
    Releasing,
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
from highlanderd.core.verdict import Knowledge, observe

__all__ = ["TABLE", "ImpossibleEvent", "Step", "adopt", "begin", "deadline", "finished", "step"]

Cell = Callable[[Context[Any, Any]], Step]

NOTHING_KNOWN: Final = Knowledge()


def step(situation: Situation, event: Event, now: float, policy: Policy) -> Step:
    """Return the situation after ``event`` and the effects to perform, in their order.

    ``now`` is CLOCK_BOOTTIME in seconds. The caller hands in ``Due`` first whenever ``deadline`` has passed.
    Raises ImpossibleEvent for a cell that is marked ``bug``.
    """
    link = _LINK_AFTER.get(type(event), situation.link)
    knowledge = situation.knowledge
    if isinstance(event, Looked):
        knowledge = observe(knowledge, event.observation, event.at)
    if isinstance(event, Granted):
        knowledge = replace(knowledge, epoch=max(knowledge.epoch, event.epoch))
    situation = replace(situation, link=link, knowledge=knowledge)
    cell = TABLE[type(situation.state)][type(event)]
    after, effects = cell(Context(situation, situation.state, event, now, policy))
    if any(isinstance(effect, _REQUESTS) for effect in effects):
        after = replace(after, link=SessionState.BUSY)
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
_REQUESTS: Final = (Look, TakeOver, WriteSettled, Renew, Release, Disconnect)
_LINK_AFTER: Final[Mapping[type[Event], SessionState]] = {
    Attached: SessionState.IDLE,
    Detached: SessionState.DISCONNECTED,
    **dict.fromkeys(_ANSWERS, SessionState.IDLE),
}


def deadline(situation: Situation, policy: Policy) -> float | None:
    """Return the one moment at which time itself changes something, or None when only events can."""
    idle = situation.link is SessionState.IDLE
    match situation.state:
        case Waiting(look_at=look_at):
            moments = [look_at] if idle else []
        case Leading(term, child, renew_at):
            moments = [term.fence_at(policy.stop_timeout)]
            moments += [child.not_after] if isinstance(child, Spawning) else []
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


def finished(situation: Situation) -> bool:
    """Whether the program has left this daemon and nothing of it is under way."""
    over = situation.want is Want.END and isinstance(situation.state, Stopped)
    return over and situation.link is not SessionState.BUSY


def begin(want: Want, now: float, knowledge: Knowledge = NOTHING_KNOWN) -> Situation:
    """Return the situation of a program that has no child on this node."""
    state = Waiting(look_at=now) if want is Want.RUN else Stopped()
    return Situation(want, state, knowledge=knowledge)


def adopt(state: Leading | Draining, want: Want, knowledge: Knowledge = NOTHING_KNOWN) -> Situation:
    """Return the situation of a program whose child was found alive: leading or draining, and detached."""
    return Situation(want, state, SessionState.DISCONNECTED, knowledge)


TABLE: Final[Mapping[type[State], Mapping[type[Event], Cell]]] = {
    Waiting: {
        Due: waiting.due,
        Attached: waiting.attached,
        Detached: waiting.detached,
        Notified: waiting.notified,
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
        SpawnFailed: bug,
        Exited: bug,
        Emptied: bug,
        StartOrdered: waiting.start_ordered,
        StopOrdered: resting.stop,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        EndOrdered: resting.end,
    },
    Leading: {
        Due: leading.due,
        Attached: leading.attached,
        Detached: leading.detached,
        Notified: stay,
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
        SpawnFailed: leading.spawn_failed,
        Exited: leading.exited,
        Emptied: leading.emptied,
        StartOrdered: stay,
        StopOrdered: leading.stop_ordered,
        RestartOrdered: leading.restart_ordered,
        ReleaseOrdered: leading.release_ordered,
        EndOrdered: leading.end_ordered,
    },
    Draining: {
        Due: draining.due,
        Attached: draining.attached,
        Detached: stay,
        Notified: stay,
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
        SpawnFailed: draining.emptied,
        Exited: stay,
        Emptied: draining.emptied,
        StartOrdered: draining.start_ordered,
        StopOrdered: draining.stop_ordered,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        EndOrdered: draining.end_ordered,
    },
    Backoff: {
        Due: resting.wait,
        Attached: stay,
        Detached: stay,
        Notified: stay,
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
        SpawnFailed: bug,
        Exited: bug,
        Emptied: bug,
        StartOrdered: resting.wait,
        StopOrdered: resting.stop,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        EndOrdered: resting.end,
    },
    Stopped: {
        Due: bug,
        Attached: stay,
        Detached: stay,
        Notified: stay,
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
        SpawnFailed: bug,
        Exited: bug,
        Emptied: bug,
        StartOrdered: resting.wait,
        StopOrdered: stay,
        RestartOrdered: stay,
        ReleaseOrdered: stay,
        EndOrdered: resting.end,
    },
}
