"""Waiting: look, judge, and take over when the verdict says so."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from highlanderd.core.cells.moment import Moment, Step, look_when_idle, release_when_idle
from highlanderd.core.lease import Candidate, Claim, NotYet, Refusal, Row, Settle, Verdict, judge
from highlanderd.core.words import (
    Cause,
    Detached,
    Disconnect,
    Draining,
    Due,
    Event,
    Granted,
    Leading,
    Link,
    Look,
    Looked,
    Notified,
    Refused,
    Releasing,
    Settled,
    Spawn,
    Spawning,
    StartOrdered,
    TakeOver,
    Term,
    Waiting,
    WriteSettled,
)


def due(moment: Moment[Waiting, Due]) -> Step:
    """Time for a look."""
    return look_when_idle(moment.situation)


def attached(moment: Moment[Waiting, Event]) -> Step:
    """A new session begins with a look."""
    state = replace(moment.state, hinted=False)
    return look_when_idle(replace(moment.situation, state=state, reason=""))


def detached(moment: Moment[Waiting, Detached]) -> Step:
    """Without a session there is nothing to do but to say why."""
    return replace(moment.situation, reason=moment.event.why), ()


def notified(moment: Moment[Waiting, Notified]) -> Step:
    """Look at once; a question under way may bring an answer that is older than the hint."""
    if moment.situation.link is Link.ASKING:
        return replace(moment.situation, state=replace(moment.state, hinted=True)), ()
    return look_when_idle(moment.situation)


def looked(moment: Moment[Waiting, Looked]) -> Step:
    """Act on the verdict."""
    row, hinted = moment.event.sight.row, moment.state.hinted
    state = replace(_seen(moment.state, row), hinted=False)
    situation = replace(moment.situation, state=state)
    verdict = _verdict(moment, state)
    match verdict:
        case Claim():
            return situation, (TakeOver(verdict),)
        case Settle():
            return situation, (WriteSettled(verdict),)
        case Refusal():
            return replace(situation, reason=verdict.why), (Disconnect(verdict.why),)
        case NotYet() if hinted:
            return situation, (Look(),)
        case NotYet():
            lease = moment.event.sight.meta.lease
            regular = moment.now + lease.renew_every * (0.9 + 0.2 * moment.policy.spread)
            regular = moment.policy.shared(regular, lease)
            look_at = regular if verdict.until is None else min(regular, verdict.until)
            return replace(situation, state=replace(state, look_at=look_at), reason=verdict.why), ()


def _seen(state: Waiting, row: Row | None) -> Waiting:
    """An abstention is over once another node has led; an operator's insistence is about what had finished by then."""
    if row is None:
        return replace(state, insistent=False)
    led_since = state.abstention is not None and row.epoch > state.abstention.epoch
    overridden = row.epoch if state.insistent and _is_finished(row) else state.overridden
    abstention = None if led_since else state.abstention
    return replace(state, abstention=abstention, insistent=False, overridden=overridden)


def _verdict(moment: Moment[Waiting, Looked], state: Waiting) -> Verdict:
    """The protocol's verdict, unless an operator or the program itself said that nobody is wanted here."""
    event, policy, now = moment.event, moment.policy, moment.now
    candidate = Candidate(policy.node, policy.instance, event.keeperless)
    verdict = judge(event.sight, moment.situation.knowledge, now, candidate)
    if not isinstance(verdict, Claim):
        return verdict
    row = verdict.judged
    if row is not None and policy.restart != "always" and _is_finished(row) and row.epoch > state.overridden:
        return NotYet(None, f"finished on {row.node}; `start` runs it again")
    if state.abstention is not None and now < state.abstention.until:
        return NotYet(state.abstention.until, "released here; leaves it to another node for now")
    return verdict


def _is_finished(row: Row) -> bool:
    """Whether the program ended as it should, anywhere in the cluster."""
    return row.released and row.reason == Cause.FINISHED.value


def settled(moment: Moment[Waiting, Settled]) -> Step:
    """The next look shows what the ledger says now."""
    return look_when_idle(moment.situation)


def granted(moment: Moment[Waiting, Granted]) -> Step:
    """The term begins, with its one spawn."""
    event = moment.event
    term = Term(event.epoch, event.lengths, began=moment.now, sent=event.sent)
    not_after = term.sent + term.lengths.spawn_within
    if moment.now >= not_after:
        situation = replace(moment.situation, reason="the grant arrived too late to start a child")
        return release_when_idle(situation, Draining(term, Releasing(), Cause.SPAWN_FAILED, renew_at=inf))
    leading = Leading(term, Spawning(not_after), moment.renewal_of(term))
    return replace(moment.situation, state=leading, reason=""), (Spawn(term.epoch, not_after, term.kill_at),)


def refused(moment: Moment[Waiting, Refused]) -> Step:
    """Somebody was faster, or holds the lock: look again."""
    if moment.event.again_in <= 0:
        return look_when_idle(moment.situation)
    state = replace(moment.state, look_at=moment.now + moment.event.again_in)
    return replace(moment.situation, state=state, reason=moment.event.why), ()


def start_ordered(moment: Moment[Waiting, StartOrdered]) -> Step:
    """An operator overrides an abstention, and that the program has finished."""
    asking = moment.situation.link is Link.ASKING
    state = replace(moment.state, abstention=None, insistent=True, hinted=asking)
    return look_when_idle(replace(moment.situation, state=state))
