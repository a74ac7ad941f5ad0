"""What a cell is given, and the few steps that several states share."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from highlanderd.core.effects import Effect, Look, Release, Renew
from highlanderd.core.events import Event
from highlanderd.core.states import Author, Draining, Policy, SessionState, Situation, State, Term, Want
from highlanderd.structs import replace

Step = tuple[Situation, tuple[Effect, ...]]
S_co = TypeVar("S_co", bound=State, covariant=True)
E_co = TypeVar("E_co", bound=Event, covariant=True)

LEFT_ALONE: Final = 0.1
"""Seconds for which a node that has released a program for another one asks nothing about it: the takeover, which the
same processors and the same server have to do, comes first."""


class ImpossibleEvent(Exception):
    """An event came in a state in which it cannot happen. That is a bug, and ends the program's task."""


class Context(Struct, Generic[S_co, E_co], frozen=True):
    """One event meeting one state. ``now`` is CLOCK_BOOTTIME in seconds."""

    situation: Situation
    state: S_co
    event: E_co
    now: float
    policy: Policy

    @property
    def idle(self) -> bool:
        """Return whether the session can be asked something."""
        return self.situation.session is SessionState.IDLE

    def renewal_of(self, term: Term) -> float:
        """Return when to send the next renewal: a fifth of a lease after the last one was sent, on the shared grid."""
        return self.policy.shared(term.sent + term.lengths.renew_every, term.lengths.pace)

    def wish(self, want: Want) -> Want:
        """Return the operator's new wish. A program that leaves the daemon cannot be called back."""
        return Want.END if self.situation.want is Want.END else want


def stay(context: Context[Any, Any]) -> Step:
    """Change nothing: the event may happen here, and means nothing."""
    return context.situation, ()


def bug(context: Context[Any, Any]) -> Step:
    """Raise ImpossibleEvent: the event cannot happen here."""
    state, event = type(context.state).__name__.lower(), type(context.event).__name__
    raise ImpossibleEvent(f"{event} while {state}: {context.event} met {context.situation}")


def ordered_by(by: Author) -> str:
    """Return who has ordered something, for a reason.

    >>> ordered_by(Author()), ordered_by(Author("uid 0 on node a", "disk full"))
    (' by an operator', ' by uid 0 on node a: disk full')
    """
    return f" by {by.name or 'an operator'}" + (f": {by.remark}" if by.remark else "")


def look_when_idle(situation: Situation) -> Step:
    """Look now, or leave it to the answer under way or the next session."""
    return situation, (Look(),) if situation.session is SessionState.IDLE else ()


def renewing(term: Term, now: float) -> tuple[Term, Renew]:
    """Return the term once its renewal is sent, and the effect that sends it."""
    return term.asking(now), Renew(term.epoch, term.lengths.wanted)


def release_when_idle(situation: Situation, draining: Draining) -> Step:
    """Go on draining. Release now, or once the answer under way or the next session allows it."""
    situation = replace(situation, state=draining)
    if situation.session is not SessionState.IDLE:
        return situation, ()
    term, cause = draining.term, draining.cause
    return situation, (Release(term.epoch, cause, draining.reservation, draining.status, draining.by),)
