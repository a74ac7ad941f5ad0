"""Draining: bring the child to its end, renew the term meanwhile, and release the row once the tree is empty."""

from __future__ import annotations

from math import inf
from typing import Any

from highlanderd.core.effects import Kill, SetDeadline
from highlanderd.core.events import (
    Attached,
    Contended,
    Due,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    HookFinished,
    LeaseRefused,
    Overruled,
    Renewed,
    Resumed,
    SpawnFailed,
    StartOrdered,
    StopOrdered,
    Suspended,
    Unlocked,
)
from highlanderd.core.states import (
    FAILURES,
    UNRENEWED,
    Abstention,
    Backoff,
    Cause,
    Draining,
    Killing,
    Policy,
    Releasing,
    Stopped,
    Stopping,
    Waiting,
    Want,
)
from highlanderd.core.transitions.context import (
    LEFT_ALONE,
    Context,
    ImpossibleEvent,
    Step,
    look_when_idle,
    ordered_by,
    release_when_idle,
    renewing,
)
from highlanderd.core.transitions.leading import CONTENDED_RETRY
from highlanderd.core.transitions.resting import suspend
from highlanderd.structs import replace


def due(context: Context[Draining, Due]) -> Step:
    """Do what is due: SIGKILL to what did not stop, a renewal, or giving up a release that has no answer."""
    state, now = context.state, context.now
    match state.phase:
        case Stopping() if now >= state.kill_at:
            return replace(context.situation, state=replace(state, phase=Killing())), (Kill(),)
        case Releasing(give_up_at) if give_up_at is not None and now >= give_up_at:
            return _rest(context, "ended without its release acknowledged")
        case Releasing():
            return context.situation, ()
        case _:
            return _renew_when_trusted(context, state)


def _renew_when_trusted(context: Context[Draining, Event], state: Draining) -> Step:
    """Renew while the tree lives, so that no other node takes over meanwhile.

    A term is not renewed once its trust has run out, nor after the causes in ``UNRENEWED``.
    """
    situation = replace(context.situation, state=state)
    if context.now >= state.term.trusted_until or state.cause in UNRENEWED:
        return replace(situation, state=replace(state, renew_at=inf)), ()
    if not context.idle or context.now < state.renew_at:
        return situation, ()
    term, renew = renewing(state.term, context.now)
    if term == state.term:
        return situation, (renew,)
    state = replace(state, term=term)
    return replace(situation, state=state), (SetDeadline(state.keeper_deadline), renew)


def attached(context: Context[Draining, Attached]) -> Step:
    """Repeat the release, or take the lock back as in any term."""
    if isinstance(context.state.phase, Releasing):
        return release_when_idle(context.situation, context.state)
    return _renew_when_trusted(context, replace(context.state, renew_at=context.now))


def renewed(context: Context[Draining, Renewed]) -> Step:
    """Prolong the term. A fence that has begun keeps its SIGKILL."""
    state = context.state
    if isinstance(state.phase, Releasing):
        return release_when_idle(context.situation, state)
    term = state.term.renewed(context.event.sent, context.event.lengths)
    state = replace(state, term=term, renew_at=context.renewal_of(term))
    return replace(context.situation, state=state), (SetDeadline(state.keeper_deadline),)


def curtailed(context: Context[Draining, LeaseRefused]) -> Step:
    """Ask again at once, for the ledger's own lease: that answer leaves no doubt."""
    state = context.state
    if isinstance(state.phase, Releasing):
        return release_when_idle(context.situation, state)
    term = state.term.curtailed(context.event.pace)
    return _renew_when_trusted(context, replace(state, term=term, renew_at=context.now))


def exited(context: Context[Draining, Exited]) -> Step:
    """Note how the main process has ended, for the history."""
    return replace(context.situation, state=replace(context.state, status=context.event.status)), ()


def hook_finished(context: Context[Draining, HookFinished]) -> Step:
    """Give the child its time to stop from the end of ``before_stop`` on: it gets the stop signal now."""
    state = context.state
    if context.event.hook != "before_stop" or not isinstance(state.phase, Stopping):
        return context.situation, ()
    kill_at = min(state.phase.kill_at, context.now + context.policy.stop_timeout)
    return replace(context.situation, state=replace(state, phase=Stopping(kill_at))), ()


def overruled(context: Context[Draining, Overruled]) -> Step:
    """Kill at once: the term is over, and another node may lead."""
    if isinstance(context.state.phase, Releasing):
        return release_when_idle(context.situation, context.state)
    state = replace(context.state, phase=Killing(), cause=Cause.OVERRULED, renew_at=inf)
    return replace(context.situation, state=state), (Kill(),)


def contended(context: Context[Draining, Contended]) -> Step:
    """Try again soon: the program's lost session still holds the lock, and is being terminated."""
    if isinstance(context.state.phase, Releasing):
        return release_when_idle(context.situation, context.state)
    state = replace(context.state, renew_at=context.now + CONTENDED_RETRY)
    return replace(context.situation, state=state), ()


def emptied(context: Context[Draining, Emptied | SpawnFailed]) -> Step:
    """Release: the tree is proven empty, and only now may the row say so."""
    if isinstance(context.state.phase, Releasing):
        raise ImpossibleEvent(f"a tree was emptied twice: {context.situation}")
    phase = Releasing(_give_up_at(context) if context.situation.want is Want.END else None)
    return release_when_idle(context.situation, replace(context.state, phase=phase, renew_at=inf))


def _give_up_at(context: Context[Draining, Event]) -> float:
    return context.now + context.state.term.lengths.pace.release_within


def unlocked(context: Context[Draining, Unlocked]) -> Step:
    """Rest: the term is over."""
    return _rest(context, context.situation.reason)


def _rest(context: Context[Draining, Event], reason: str) -> Step:
    """Go to stopped, backoff or waiting, as the operator's wish and the cause of the term's end say."""
    situation, state = replace(context.situation, reason=reason), context.state
    if situation.suspension is not None:
        return suspend(situation, situation.suspension), ()
    if situation.want is not Want.RUN:
        return replace(situation, state=Stopped()), ()
    if state.cause in FAILURES:
        return replace(situation, state=Backoff(context.now + backoff_delay(situation.failures, context.policy))), ()
    if state.abstain_for:
        abstention = Abstention(state.term.epoch, context.now + state.abstain_for)
        return replace(situation, state=Waiting(context.now + LEFT_ALONE, abstention=abstention)), ()
    return look_when_idle(replace(situation, state=Waiting(look_at=context.now, insistent=state.insistent)))


def backoff_delay(failures: int, policy: Policy) -> float:
    """Return the seconds to sit out after so many failures in a row: doubled each time, bounded, spread by a tenth."""
    doubled: float = policy.backoff * 2.0 ** min(max(failures - 1, 0), 32)
    return min(doubled, policy.backoff_max) * (0.9 + 0.2 * policy.jitter)


def start_ordered(context: Context[Draining, StartOrdered]) -> Step:
    """Want the program again. The term still ends, but this node does not stay out afterwards."""
    return _wish(context, Want.RUN, replace(context.state, abstain_for=0.0, insistent=True))


def stop_ordered(context: Context[Draining, StopOrdered]) -> Step:
    """Stay stopped afterwards. Why it is stopped counts from now on, and no longer why the term ends."""
    situation, effects = _wish(context, Want.STOP, _unreserved(context.state))
    if situation.want is not Want.STOP:
        return situation, effects
    return replace(situation, reason=f"stopped{ordered_by(context.event.by)}"), effects


def _wish(context: Context[Draining, Any], want: Want, state: Draining) -> Step:
    """Change the wish. The keeper gets it together with a deadline, and carries it to the next worker."""
    keeper = not isinstance(state.phase, Releasing)
    effects = (SetDeadline(state.keeper_deadline),) if keeper else ()
    return replace(context.situation, state=state, want=context.wish(want)), effects


def suspended(context: Context[Draining, Suspended]) -> Step:
    """Stay stopped afterwards, until the order in the ledger is lifted."""
    situation = replace(context.situation, suspension=context.event.suspension)
    return replace(situation, state=_unreserved(context.state)), ()


def resumed(context: Context[Draining, Resumed]) -> Step:
    """Be a candidate again afterwards."""
    return replace(context.situation, suspension=None), ()


def end_ordered(context: Context[Draining, EndOrdered]) -> Step:
    """Leave the daemon afterwards."""
    state = context.state
    if isinstance(state.phase, Releasing):
        state = replace(state, phase=Releasing(_give_up_at(context)))
    return _wish(context, Want.END, state if context.event.cause is Cause.CHANGED else _unreserved(state))


def _unreserved(state: Draining) -> Draining:
    """Return the state without a reservation for this node, which now leaves."""
    return replace(state, reservation=None) if state.cause in (Cause.RESTARTED, Cause.CHANGED) else state
