"""Waiting: look, judge, and take over when the verdict says so."""

from __future__ import annotations

from math import inf
from typing import Final

from highlanderd.core.effects import CloseTerms, Disconnect, Look, Spawn, TakeOver, WriteSettled, WriteTimetable
from highlanderd.core.events import (
    Detached,
    Due,
    Event,
    Granted,
    LookAdvised,
    Looked,
    Notified,
    Refused,
    Settled,
    StartOrdered,
)
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Row
from highlanderd.core.placement import hold_back
from highlanderd.core.planning import Closing, Later, Repeat, TimeFacts, plan, supersedes
from highlanderd.core.schedule import Change, Schedule
from highlanderd.core.states import (
    Cause,
    Draining,
    Leading,
    Policy,
    Releasing,
    SessionState,
    Situation,
    Spawning,
    Term,
    Vacancy,
    Waiting,
)
from highlanderd.core.transitions.context import LEFT_ALONE, Context, Step, look_when_idle, release_when_idle
from highlanderd.core.transitions.resting import suspend
from highlanderd.core.verdict import Candidate, Claim, NotYet, Refusal, Settle, Verdict, judge
from highlanderd.structs import replace

WATCHED_FOR: Final = 10
"""Leases after which a program looks by itself although surveys show that another node renews its term."""

Planned = Verdict | Change | Closing
"""The verdict on a program; with a schedule, also what has to be written first."""


def due(context: Context[Waiting, Due]) -> Step:
    """Look: it is time."""
    return look_when_idle(context.situation)


def attached(context: Context[Waiting, Event]) -> Step:
    """A new session begins with a look."""
    state = replace(context.state, hinted=False)
    return look_when_idle(replace(context.situation, state=state, reason=""))


def detached(context: Context[Waiting, Detached]) -> Step:
    """Note why there is no session; without one there is nothing to ask."""
    return replace(context.situation, reason=context.event.why), ()


def notified(context: Context[Waiting, Notified | LookAdvised]) -> Step:
    """Look at once, or after the question under way, whose answer may be older than the hint.

    Where the program was released for another node, that one's takeover comes first: this node looks a moment later.
    """
    state = context.state
    if context.situation.session is SessionState.BUSY:
        return replace(context.situation, state=replace(state, hinted=True)), ()
    if state.abstention is not None:
        look_at = min(state.look_at, context.now + LEFT_ALONE)
        return replace(context.situation, state=replace(state, look_at=look_at)), ()
    return look_when_idle(context.situation)


def looked(context: Context[Waiting, Looked]) -> Step:
    """Act on the verdict."""
    suspension = context.event.observation.suspension
    if suspension is not None:
        return suspend(context.situation, suspension), ()
    row, hinted = context.event.observation.row, context.state.hinted
    state = replace(_seen(context.state, row), hinted=False)
    state = replace(
        state,
        finished=_stays_finished(state, row, context.policy),
        superseded=_superseded(context.event, state, context.policy.schedule, context.now),
    )
    verdict, next_run = _scheduled(context, state, _verdict(context, state))
    state = replace(state, vacancy=_vacancy(state, verdict, context.now), next_run=next_run)
    situation, verdict = replace(context.situation, state=state), _placed(context, state, verdict)
    match verdict:
        case Change():
            return situation, (WriteTimetable(verdict),)
        case Closing(claim):
            return situation, (CloseTerms(claim),)
        case Claim():
            return situation, (TakeOver(verdict),)
        case Settle():
            return situation, (WriteSettled(verdict),)
        case Refusal():
            return replace(situation, reason=verdict.why), (Disconnect(verdict.why),)
        case NotYet() if hinted:
            return situation, (Look(),)
        case NotYet():
            state = replace(state, look_at=_next_look(context, verdict))
            return replace(situation, state=state, reason=verdict.why), ()


def _next_look(context: Context[Waiting, Looked], verdict: NotYet) -> float:
    """Return when to look again: seldom, while surveys say when anything has changed."""
    lease = context.event.observation.meta.lease
    jitter = 0.9 + 0.2 * context.policy.jitter
    if context.event.watched:
        long = Lease(lease.length * WATCHED_FOR)
        return context.policy.shared(context.now + long.length * jitter, long)
    regular = context.policy.shared(context.now + lease.renew_every * jitter, lease)
    return regular if verdict.until is None else min(regular, verdict.until)


def _seen(state: Waiting, row: Row | None) -> Waiting:
    """Return the state after this row was seen.

    An abstention is over once another node has led. An operator's ``start`` overrides what had finished by then, and
    for whom it was reserved, but nothing that comes later.
    """
    if row is None:
        return replace(state, insistent=False, overridden=0 if state.insistent else state.overridden)
    led_since = state.abstention is not None and row.epoch > state.abstention.epoch
    overridden = row.epoch if state.insistent and row.released else state.overridden
    abstention = None if led_since else state.abstention
    return replace(state, abstention=abstention, insistent=False, overridden=overridden)


def _verdict(context: Context[Waiting, Looked], state: Waiting) -> Verdict:
    """Return the protocol's verdict. A claim becomes ``NotYet`` if the program has finished, or was released here."""
    event, policy, now = context.event, context.policy, context.now
    candidate = Candidate(policy.node, policy.instance, event.keeperless, state.overridden)
    verdict = judge(event.observation, context.situation.knowledge, now, candidate)
    if not isinstance(verdict, Claim):
        return verdict
    row = verdict.judged
    if row is not None and state.finished:
        how = ", and the history says how" if policy.restart == "never" else ""  # "on-failure": with success
        return NotYet(None, f"finished on {row.node}{how}; `start` runs it again")
    if state.abstention is not None and now < state.abstention.until:
        return NotYet(state.abstention.until, "released here; leaves it to another node for now")
    return verdict


def _scheduled(context: Context[Waiting, Looked], state: Waiting, verdict: Verdict) -> tuple[Planned, float | None]:
    """Return the verdict, and when the schedule wants a run next if that is not now.

    A claim gets its time, or waits for what has to be written before; it becomes ``NotYet`` where no time has come, and
    no operator has ordered a run.
    """
    seen, schedule = context.event.observation, context.policy.schedule
    if not isinstance(verdict, Claim) or schedule is None:
        return verdict, None
    if seen.clock is None:
        return NotYet(None, "the ledger keeps no schedules yet; see highlanderctl ledger"), None
    if verdict.closing:  # the history says so before anything else becomes of the program
        return Closing(verdict), None
    clock = seen.clock + context.now - context.event.at
    since = clock - (context.now - schedule.since)
    standing = TimeFacts(seen.timetable, clock, since, verdict.judged, state.superseded is not None)
    match plan(schedule, standing, repeats=context.policy.restart == "on-failure"):
        case Change() as change:
            return change, None
        case Later(at, why):
            if (0 if verdict.judged is None else verdict.judged.epoch) <= state.overridden:
                return verdict, None
            return NotYet(None if at == inf else context.now + at - clock, why), at
        case Repeat():
            return verdict, None
        case run:
            return replace(verdict, run=run), None


def _superseded(look: Looked, state: Waiting, schedule: Schedule | None, now: float) -> tuple[float, float] | None:
    """Return which other schedule counts instead of this node's, if one does."""
    kept, clock = look.observation.timetable, look.observation.clock
    if schedule is None or kept is None or clock is None or kept.words == schedule.words:
        return None
    both = schedule.since, kept.taken_up
    later = supersedes(kept, clock + now - look.at, clock + schedule.since - look.at)
    return both if later or both == state.superseded else None


def _vacancy(state: Waiting, verdict: Planned, now: float) -> Vacancy | None:
    """Return since when this node may take over: a look that shows another term's end begins anew."""
    if not isinstance(verdict, Claim):
        return None
    epoch = 0 if verdict.judged is None else verdict.judged.epoch
    return state.vacancy if state.vacancy is not None and state.vacancy.epoch == epoch else Vacancy(epoch, now)


def _placed(context: Context[Waiting, Looked], state: Waiting, verdict: Planned) -> Planned:
    """Return the verdict. A claim becomes ``NotYet`` while the program is left to another node."""
    if not isinstance(verdict, Claim) or state.vacancy is None:
        return verdict
    held = hold_back(context.policy, context.event.peers, verdict.judged, since_recalled=context.now - state.recalled)
    over = state.vacancy.since + held.seconds
    return NotYet(None if over == inf else over, held.why) if context.now < over else verdict


def turns_at(situation: Situation, state: Waiting, look: Looked, now: float, policy: Policy) -> float | None:
    """Return when time alone turns the verdict on what a look has seen; None when only an event can."""
    context = Context(situation, state, look, now, policy)
    verdict = _placed(context, state, _scheduled(context, state, _verdict(context, state))[0])
    return verdict.until if isinstance(verdict, NotYet) else None


def _stays_finished(state: Waiting, row: Row | None, policy: Policy) -> bool:
    """Return whether the program has finished, and no operator has ordered that it runs all the same."""
    once = policy.restart != "always" and policy.schedule is None
    return once and row is not None and _is_finished(row) and row.epoch > state.overridden


def _is_finished(row: Row) -> bool:
    """Return whether the program ended as it should, on whichever node."""
    return row.released and row.reason == Cause.FINISHED.value


def settled(context: Context[Waiting, Settled]) -> Step:
    """Look at what the ledger says now."""
    return look_when_idle(context.situation)


def granted(context: Context[Waiting, Granted]) -> Step:
    """Begin the term, with its one spawn."""
    event = context.event
    term = Term(event.epoch, event.lengths, began=context.now, sent=event.sent)
    not_after = term.sent + term.lengths.spawn_within
    if context.now >= not_after:
        situation = replace(context.situation, reason="the grant arrived too late to start a child")
        return release_when_idle(situation, Draining(term, Releasing(), Cause.SPAWN_FAILED, renew_at=inf))
    leading = Leading(term, Spawning(not_after), context.renewal_of(term))
    return replace(context.situation, state=leading, reason=""), (
        Spawn(term.epoch, not_after, term.kill_at, event.scheduled),
    )


def refused(context: Context[Waiting, Refused]) -> Step:
    """Look again: another node was faster, or another session holds the lock."""
    if context.event.again_in <= 0:
        return look_when_idle(context.situation)
    state = replace(context.state, look_at=context.now + context.event.again_in)
    return replace(context.situation, state=state, reason=context.event.why), ()


def start_ordered(context: Context[Waiting, StartOrdered]) -> Step:
    """Look at once. The order overrides an abstention, a reservation, and that the program has finished."""
    asking = context.situation.session is SessionState.BUSY
    state = replace(context.state, abstention=None, insistent=True, hinted=asking)
    return look_when_idle(replace(context.situation, state=state))
