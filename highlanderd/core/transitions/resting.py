"""Backoff and stopped: nothing of the program runs here, and nothing is asked."""

from __future__ import annotations

from math import inf

from highlanderd.core.events import Due, EndOrdered, Granted, Resumed, StartOrdered, StopOrdered, Suspended
from highlanderd.core.observation import Suspension
from highlanderd.core.states import (
    Backoff,
    Cause,
    Draining,
    Releasing,
    SessionState,
    Situation,
    Stopped,
    Term,
    Waiting,
    Want,
)
from highlanderd.core.transitions.context import Context, Step, look_when_idle, ordered_by, release_when_idle
from highlanderd.core.transitions.leading import END_WORDS
from highlanderd.structs import replace


def wait(context: Context[Backoff | Stopped, Due | StartOrdered]) -> Step:
    """Become a candidate again."""
    if context.situation.want is Want.END:
        return context.situation, ()
    asking = context.situation.session is SessionState.BUSY
    insistent = isinstance(context.event, StartOrdered) and not _resumes_schedule(context)
    waiting = Waiting(look_at=context.now, hinted=asking, insistent=insistent)
    return look_when_idle(replace(context.situation, want=Want.RUN, state=waiting, reason=""))


def _resumes_schedule(context: Context[Backoff | Stopped, Due | StartOrdered]) -> bool:
    """Return whether it only waits for its times again: an operator who starts a stopped job orders no run now."""
    return isinstance(context.state, Stopped) and context.policy.schedule is not None


def start_ordered(context: Context[Stopped, StartOrdered]) -> Step:
    """Become a candidate again, or be one once the order in the ledger is lifted."""
    if context.situation.suspension is None:
        return wait(context)
    return replace(context.situation, want=context.wish(Want.RUN), reason=str(context.situation.suspension)), ()


def suspended(context: Context[Waiting | Backoff | Stopped, Suspended]) -> Step:
    """Stop contending until the order in the ledger is lifted. What an operator wants on this node stays as it is."""
    return suspend(context.situation, context.event.suspension), ()


def suspend(situation: Situation, suspension: Suspension) -> Situation:
    """Return the situation in which the ledger keeps a program, of which nothing runs here, from being led."""
    reason = str(suspension) if situation.want is Want.RUN else situation.reason
    return replace(situation, state=Stopped(), suspension=suspension, reason=reason)


def resumed(context: Context[Stopped, Resumed]) -> Step:
    """Become a candidate again, if an operator does not want the program stopped on this node."""
    situation, lifted = replace(context.situation, suspension=None), context.situation.suspension
    if lifted is None or situation.want is not Want.RUN:
        return situation, ()
    recalled = -inf if lifted.drained else context.now
    waiting = Waiting(look_at=context.now, hinted=situation.session is SessionState.BUSY, recalled=recalled)
    return look_when_idle(replace(situation, state=waiting, reason=""))


def stop(context: Context[Waiting | Backoff | Stopped, StopOrdered]) -> Step:
    """Stop contending. No child runs here, so nothing has to end."""
    reason = f"stopped{ordered_by(context.event.by)}"
    return replace(context.situation, want=context.wish(Want.STOP), state=Stopped(), reason=reason), ()


def end(context: Context[Waiting | Backoff | Stopped, EndOrdered]) -> Step:
    """Leave the daemon at once."""
    reason = END_WORDS[context.event.cause]
    return replace(context.situation, want=Want.END, state=Stopped(), reason=reason), ()


def granted(context: Context[Stopped, Granted]) -> Step:
    """End the term at once and start nothing: the order to stop came while the takeover was under way."""
    event, ending = context.event, context.situation.want is Want.END
    term = Term(event.epoch, event.lengths, began=context.now, sent=event.sent)
    phase = Releasing(context.now + term.lengths.pace.release_within if ending else None)
    return release_when_idle(context.situation, Draining(term, phase, Cause.UNWANTED, renew_at=inf))
