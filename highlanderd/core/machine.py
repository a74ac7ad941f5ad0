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

from highlanderd.core import words as w
from highlanderd.core.cells import draining, leading, resting, waiting
from highlanderd.core.cells.moment import ImpossibleEvent, Moment, Step, bug, stay
from highlanderd.core.lease import Knowledge, observe
from highlanderd.core.words import Link, Situation, Want

__all__ = ["TABLE", "ImpossibleEvent", "Step", "adopt", "begin", "deadline", "finished", "step"]

Cell = Callable[[Moment[Any, Any]], Step]

NOTHING_KNOWN: Final = Knowledge()


def step(situation: Situation, event: w.Event, now: float, policy: w.Policy) -> Step:
    """Give the situation after ``event`` and the effects to perform, in their order.

    ``now`` is CLOCK_BOOTTIME in seconds. The caller hands in ``Due`` first whenever ``deadline`` has passed.
    Raises ImpossibleEvent for a cell that is marked ``bug``.
    """
    link = _LINK_AFTER.get(type(event), situation.link)
    knowledge = situation.knowledge
    if isinstance(event, w.Looked):
        knowledge = observe(knowledge, event.sight, event.at)
    if isinstance(event, w.Granted):
        knowledge = replace(knowledge, epoch=max(knowledge.epoch, event.epoch))
    situation = replace(situation, link=link, knowledge=knowledge)
    cell = TABLE[type(situation.state)][type(event)]
    after, effects = cell(Moment(situation, situation.state, event, now, policy))
    if any(isinstance(effect, _REQUESTS) for effect in effects):
        after = replace(after, link=Link.ASKING)
    return after, effects


_ANSWERS: Final[tuple[type[w.Event], ...]] = (
    w.Looked,
    w.Settled,
    w.Granted,
    w.Refused,
    w.Renewed,
    w.Curtailed,
    w.Overruled,
    w.Contended,
    w.Unlocked,
)
_REQUESTS: Final = (w.Look, w.TakeOver, w.WriteSettled, w.Renew, w.Release, w.Disconnect)
_LINK_AFTER: Final[Mapping[type[w.Event], Link]] = {
    w.Attached: Link.IDLE,
    w.Detached: Link.AWAY,
    **dict.fromkeys(_ANSWERS, Link.IDLE),
}


def deadline(situation: Situation, policy: w.Policy) -> float | None:
    """Give the one moment at which time itself changes something, or None when only events can."""
    idle = situation.link is Link.IDLE
    match situation.state:
        case w.Waiting(look_at=look_at):
            moments = [look_at] if idle else []
        case w.Leading(term, child, renew_at):
            moments = [term.fence_at(policy.stop_timeout)]
            moments += [child.not_after] if isinstance(child, w.Spawning) else []
            moments += [renew_at] if idle else []
        case w.Draining(phase=w.Releasing(give_up_at)):
            moments = [] if give_up_at is None else [give_up_at]
        case w.Draining(phase=phase, renew_at=renew_at) as state:
            moments = [state.kill_at] if isinstance(phase, w.Stopping) else []
            moments += [renew_at] if idle else []
        case w.Backoff(until):
            moments = [until]
        case w.Stopped():
            moments = []
    moment = min(moments, default=inf)
    return None if moment == inf else moment


def finished(situation: Situation) -> bool:
    """Whether the program has left this daemon and nothing of it is under way."""
    over = situation.want is Want.END and isinstance(situation.state, w.Stopped)
    return over and situation.link is not Link.ASKING


def begin(want: Want, now: float, knowledge: Knowledge = NOTHING_KNOWN) -> Situation:
    """Return the situation of a program that has no child on this node."""
    state = w.Waiting(look_at=now) if want is Want.RUN else w.Stopped()
    return Situation(want, state, knowledge=knowledge)


def adopt(state: w.Leading | w.Draining, want: Want, knowledge: Knowledge = NOTHING_KNOWN) -> Situation:
    """Return the situation of a program whose child was found alive: leading or draining, and detached."""
    return Situation(want, state, Link.AWAY, knowledge)


TABLE: Final[Mapping[type[w.State], Mapping[type[w.Event], Cell]]] = {
    w.Waiting: {
        w.Due: waiting.due,
        w.Attached: waiting.attached,
        w.Detached: waiting.detached,
        w.Notified: waiting.notified,
        w.Looked: waiting.looked,
        w.Settled: waiting.settled,
        w.Granted: waiting.granted,
        w.Refused: waiting.refused,
        w.Renewed: bug,
        w.Curtailed: bug,
        w.Overruled: bug,
        w.Contended: bug,
        w.Unlocked: bug,
        w.Started: bug,
        w.SpawnFailed: bug,
        w.Exited: bug,
        w.Emptied: bug,
        w.StartOrdered: waiting.start_ordered,
        w.StopOrdered: resting.stop,
        w.RestartOrdered: stay,
        w.ReleaseOrdered: stay,
        w.EndOrdered: resting.end,
    },
    w.Leading: {
        w.Due: leading.due,
        w.Attached: leading.attached,
        w.Detached: leading.detached,
        w.Notified: stay,
        w.Looked: bug,
        w.Settled: bug,
        w.Granted: bug,
        w.Refused: bug,
        w.Renewed: leading.renewed,
        w.Curtailed: leading.curtailed,
        w.Overruled: leading.overruled,
        w.Contended: leading.contended,
        w.Unlocked: bug,
        w.Started: leading.started,
        w.SpawnFailed: leading.spawn_failed,
        w.Exited: leading.exited,
        w.Emptied: leading.emptied,
        w.StartOrdered: stay,
        w.StopOrdered: leading.stop_ordered,
        w.RestartOrdered: leading.restart_ordered,
        w.ReleaseOrdered: leading.release_ordered,
        w.EndOrdered: leading.end_ordered,
    },
    w.Draining: {
        w.Due: draining.due,
        w.Attached: draining.attached,
        w.Detached: stay,
        w.Notified: stay,
        w.Looked: bug,
        w.Settled: bug,
        w.Granted: bug,
        w.Refused: bug,
        w.Renewed: draining.renewed,
        w.Curtailed: draining.curtailed,
        w.Overruled: draining.overruled,
        w.Contended: draining.contended,
        w.Unlocked: draining.unlocked,
        w.Started: stay,
        w.SpawnFailed: draining.emptied,
        w.Exited: stay,
        w.Emptied: draining.emptied,
        w.StartOrdered: draining.start_ordered,
        w.StopOrdered: draining.stop_ordered,
        w.RestartOrdered: stay,
        w.ReleaseOrdered: stay,
        w.EndOrdered: draining.end_ordered,
    },
    w.Backoff: {
        w.Due: resting.wait,
        w.Attached: stay,
        w.Detached: stay,
        w.Notified: stay,
        w.Looked: bug,
        w.Settled: bug,
        w.Granted: bug,
        w.Refused: bug,
        w.Renewed: bug,
        w.Curtailed: bug,
        w.Overruled: bug,
        w.Contended: bug,
        w.Unlocked: bug,
        w.Started: bug,
        w.SpawnFailed: bug,
        w.Exited: bug,
        w.Emptied: bug,
        w.StartOrdered: resting.wait,
        w.StopOrdered: resting.stop,
        w.RestartOrdered: stay,
        w.ReleaseOrdered: stay,
        w.EndOrdered: resting.end,
    },
    w.Stopped: {
        w.Due: bug,
        w.Attached: stay,
        w.Detached: stay,
        w.Notified: stay,
        w.Looked: stay,
        w.Settled: stay,
        w.Granted: resting.granted,
        w.Refused: stay,
        w.Renewed: stay,
        w.Curtailed: stay,
        w.Overruled: stay,
        w.Contended: stay,
        w.Unlocked: stay,
        w.Started: bug,
        w.SpawnFailed: bug,
        w.Exited: bug,
        w.Emptied: bug,
        w.StartOrdered: resting.wait,
        w.StopOrdered: stay,
        w.RestartOrdered: stay,
        w.ReleaseOrdered: stay,
        w.EndOrdered: resting.end,
    },
}
