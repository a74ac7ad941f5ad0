"""Backoff and stopped: nothing of the program runs here, and nothing is asked."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from highlanderd.core.cells.leading import END_WORDS
from highlanderd.core.cells.moment import Moment, Step, look_when_idle, release_when_idle
from highlanderd.core.words import (
    Backoff,
    Cause,
    Draining,
    Due,
    EndOrdered,
    Granted,
    Link,
    Releasing,
    StartOrdered,
    StopOrdered,
    Stopped,
    Term,
    Waiting,
    Want,
)


def wait(moment: Moment[Backoff | Stopped, Due | StartOrdered]) -> Step:
    """Become a candidate again."""
    if moment.situation.want is Want.END:
        return moment.situation, ()
    asking, insistent = moment.situation.link is Link.ASKING, isinstance(moment.event, StartOrdered)
    waiting = Waiting(look_at=moment.now, hinted=asking, insistent=insistent)
    return look_when_idle(replace(moment.situation, want=Want.RUN, state=waiting, reason=""))


def stop(moment: Moment[Waiting | Backoff, StopOrdered]) -> Step:
    """Nothing runs, so nothing has to end."""
    reason = "stopped by an operator"
    return replace(moment.situation, want=moment.wish(Want.STOP), state=Stopped(), reason=reason), ()


def end(moment: Moment[Waiting | Backoff | Stopped, EndOrdered]) -> Step:
    """Leave the daemon at once."""
    reason = END_WORDS[moment.event.cause]
    return replace(moment.situation, want=Want.END, state=Stopped(), reason=reason), ()


def granted(moment: Moment[Stopped, Granted]) -> Step:
    """The order to stop came while the takeover was under way: nothing is started, the term ends at once."""
    event, ending = moment.event, moment.situation.want is Want.END
    term = Term(event.epoch, event.lengths, began=moment.now, sent=event.sent)
    phase = Releasing(moment.now + term.lengths.pace.release_within if ending else None)
    return release_when_idle(moment.situation, Draining(term, phase, Cause.UNWANTED, renew_at=inf))
