"""Draining: the child is leaving, or gone and the release not acknowledged yet. The term is still ours."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from highlanderd.core.cells.leading import CONTENDED_RETRY
from highlanderd.core.cells.moment import ImpossibleEvent, Moment, Step, look_when_idle, release_when_idle, renewing
from highlanderd.core.words import (
    FAILURES,
    UNRENEWED,
    Abstention,
    Attached,
    Backoff,
    Cause,
    Contended,
    Curtailed,
    Draining,
    Due,
    Emptied,
    EndOrdered,
    Entrust,
    Event,
    Kill,
    Killing,
    Overruled,
    Policy,
    Releasing,
    Renewed,
    SpawnFailed,
    StartOrdered,
    StopOrdered,
    Stopped,
    Stopping,
    Unlocked,
    Waiting,
    Want,
)


def due(moment: Moment[Draining, Due]) -> Step:
    """SIGKILL to those who did not stop, a renewal while they live, an end to a release that nobody answers."""
    state, now = moment.state, moment.now
    match state.phase:
        case Stopping() if now >= state.kill_at:
            return replace(moment.situation, state=replace(state, phase=Killing())), (Kill(),)
        case Releasing(give_up_at) if give_up_at is not None and now >= give_up_at:
            return _rest(moment, "ended without its release acknowledged")
        case Releasing():
            return moment.situation, ()
        case _:
            return _renew_when_trusted(moment, state)


def _renew_when_trusted(moment: Moment[Draining, Event], state: Draining) -> Step:
    """Renew while the tree lives, so that nobody takes over beside it; never what cannot be trusted or is not ours."""
    situation = replace(moment.situation, state=state)
    if moment.now >= state.term.trusted_until or state.cause in UNRENEWED:
        return replace(situation, state=replace(state, renew_at=inf)), ()
    if not moment.idle or moment.now < state.renew_at:
        return situation, ()
    term, renew = renewing(state.term, moment.now)
    if term == state.term:
        return situation, (renew,)
    state = replace(state, term=term)
    return replace(situation, state=state), (Entrust(state.keeper_deadline), renew)


def attached(moment: Moment[Draining, Attached]) -> Step:
    """Repeat the release, or take the lock back as in any term."""
    if isinstance(moment.state.phase, Releasing):
        return release_when_idle(moment.situation, moment.state)
    return _renew_when_trusted(moment, replace(moment.state, renew_at=moment.now))


def renewed(moment: Moment[Draining, Renewed]) -> Step:
    """Prolong the term; a fence that has begun keeps its SIGKILL."""
    state = moment.state
    if isinstance(state.phase, Releasing):
        return release_when_idle(moment.situation, state)
    term = state.term.renewed(moment.event.sent, moment.event.lengths)
    state = replace(state, term=term, renew_at=moment.renewal_of(term))
    return replace(moment.situation, state=state), (Entrust(state.keeper_deadline),)


def curtailed(moment: Moment[Draining, Curtailed]) -> Step:
    """Ask again at once, for the ledger's own lease: that answer leaves no doubt."""
    state = moment.state
    if isinstance(state.phase, Releasing):
        return release_when_idle(moment.situation, state)
    term = state.term.curtailed(moment.event.pace)
    return _renew_when_trusted(moment, replace(state, term=term, renew_at=moment.now))


def overruled(moment: Moment[Draining, Overruled]) -> Step:
    """The term is no longer ours: SIGKILL at once."""
    if isinstance(moment.state.phase, Releasing):
        return release_when_idle(moment.situation, moment.state)
    state = replace(moment.state, phase=Killing(), cause=Cause.OVERRULED, renew_at=inf)
    return replace(moment.situation, state=state), (Kill(),)


def contended(moment: Moment[Draining, Contended]) -> Step:
    """Our old session still holds the lock and is being terminated."""
    if isinstance(moment.state.phase, Releasing):
        return release_when_idle(moment.situation, moment.state)
    state = replace(moment.state, renew_at=moment.now + CONTENDED_RETRY)
    return replace(moment.situation, state=state), ()


def emptied(moment: Moment[Draining, Emptied | SpawnFailed]) -> Step:
    """The proof is here: only now may the row be released."""
    if isinstance(moment.state.phase, Releasing):
        raise ImpossibleEvent(f"a tree was emptied twice: {moment.situation}")
    phase = Releasing(_give_up_at(moment) if moment.situation.want is Want.END else None)
    return release_when_idle(moment.situation, replace(moment.state, phase=phase, renew_at=inf))


def _give_up_at(moment: Moment[Draining, Event]) -> float:
    return moment.now + moment.state.term.lengths.pace.release_within


def unlocked(moment: Moment[Draining, Unlocked]) -> Step:
    """The term is over."""
    return _rest(moment, moment.situation.reason)


def _rest(moment: Moment[Draining, Event], reason: str) -> Step:
    """Go where the wish and the cause of the term's end say."""
    situation, state = replace(moment.situation, reason=reason), moment.state
    if situation.want is not Want.RUN:
        return replace(situation, state=Stopped()), ()
    if state.cause in FAILURES:
        return replace(situation, state=Backoff(moment.now + backoff_delay(situation.failures, moment.policy))), ()
    abstention = Abstention(state.term.epoch, moment.now + state.abstain_for) if state.abstain_for else None
    waiting = Waiting(look_at=moment.now, abstention=abstention, insistent=state.insistent)
    return look_when_idle(replace(situation, state=waiting))


def backoff_delay(failures: int, policy: Policy) -> float:
    """Seconds to sit out after so many failures in a row: doubling, bounded, spread by a tenth either way."""
    doubled: float = policy.backoff * 2.0 ** min(max(failures - 1, 0), 32)
    return min(doubled, policy.backoff_max) * (0.9 + 0.2 * policy.spread)


def start_ordered(moment: Moment[Draining, StartOrdered]) -> Step:
    """Wanted again: the term still ends, but this node does not stay out."""
    return _wish(moment, Want.RUN, replace(moment.state, abstain_for=0.0, insistent=True))


def stop_ordered(moment: Moment[Draining, StopOrdered]) -> Step:
    """Stay stopped afterwards."""
    return _wish(moment, Want.STOP, _unreserved(moment.state))


def _wish(moment: Moment[Draining, Any], want: Want, state: Draining) -> Step:
    """Change the wish; while there is a keeper, its memo must know, or the next worker goes on with the old one."""
    keeper = not isinstance(state.phase, Releasing)
    effects = (Entrust(state.keeper_deadline),) if keeper else ()
    return replace(moment.situation, state=state, want=moment.wish(want)), effects


def end_ordered(moment: Moment[Draining, EndOrdered]) -> Step:
    """Leave the daemon afterwards."""
    state = moment.state
    if isinstance(state.phase, Releasing):
        state = replace(state, phase=Releasing(_give_up_at(moment)))
    return _wish(moment, Want.END, _unreserved(state))


def _unreserved(state: Draining) -> Draining:
    """A restart keeps the row for its own node, which now leaves."""
    return replace(state, reservation=None) if state.cause is Cause.RESTARTED else state
