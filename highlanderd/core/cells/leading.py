"""Leading: renew, obey, and end the term for a cause."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, Final

from highlanderd.core.cells.moment import Moment, Step, release_when_idle, renewing
from highlanderd.core.words import (
    Attached,
    Cause,
    Contended,
    Curtailed,
    Detached,
    Draining,
    Due,
    Emptied,
    EndOrdered,
    Entrust,
    Exited,
    Kill,
    Killing,
    Leading,
    Overruled,
    ReleaseOrdered,
    Releasing,
    Renewed,
    Reservation,
    RestartOrdered,
    Running,
    Signal,
    Situation,
    SpawnFailed,
    Spawning,
    Started,
    StopOrdered,
    Stopping,
    Want,
)

CONTENDED_RETRY: Final = 0.1
"""Seconds until the lock is tried again while our own old session is being terminated: a backend dies in less."""

RESTART_RESERVATION: Final = 5.0
"""Seconds for which a restart keeps the program on its node: many times a takeover, and short if the node dies."""

END_WORDS: Final[Mapping[Cause, str]] = {
    Cause.SHUTDOWN: "the daemon shuts down",
    Cause.REMOVED: "removed from the configuration",
}


def due(moment: Moment[Leading, Due]) -> Step:
    """The clocks of the lease: SIGKILL before fence before a start that was not confirmed before a renewal."""
    state, now = moment.state, moment.now
    term = state.term
    if now >= term.kill_at:
        return _kill(moment, moment.situation, Cause.FENCED, "fenced: the lease ran out")
    if now >= term.fence_at(moment.policy.stop_timeout):
        return _leave(moment, moment.situation, Cause.FENCED, "fenced: the lease could not be renewed in time")
    if isinstance(state.child, Spawning) and now >= state.child.not_after:
        reason = "the guardian did not confirm the start in time"
        situation, effects = _kill(moment, _failed(moment.situation), Cause.SPAWN_FAILED, reason)
        return _amend(situation, renew_at=inf), effects
    return _renew(moment) if moment.idle and now >= state.renew_at else (moment.situation, ())


def attached(moment: Moment[Leading, Attached]) -> Step:
    """Take the lock back, while trust has not run out."""
    return _renew(moment) if moment.now < moment.state.term.trusted_until else (moment.situation, ())


def _renew(moment: Moment[Leading, Any]) -> Step:
    """Send a renewal; the keeper hears first of a deadline that it brings nearer."""
    before = moment.state.term
    term, renew = renewing(before, moment.now)
    if term == before:
        return moment.situation, (renew,)
    return _amend(moment.situation, term=term), (Entrust(term.kill_at), renew)


def detached(moment: Moment[Leading, Detached]) -> Step:
    """Hold on for the rest of the lease, or stop at once: the operator's choice."""
    why = moment.event.why
    if moment.policy.on_connection_loss == "stop":
        return _leave(moment, moment.situation, Cause.DISCONNECTED, f"stopped: {why}")
    return replace(moment.situation, reason=f"leads on for the rest of its lease: {why}"), ()


def renewed(moment: Moment[Leading, Renewed]) -> Step:
    """Trust counts from the sending."""
    term = moment.state.term.renewed(moment.event.sent, moment.event.lengths)
    state = replace(moment.state, term=term, renew_at=moment.renewal_of(term))
    return replace(moment.situation, state=state, reason=""), (Entrust(term.kill_at),)


def curtailed(moment: Moment[Leading, Curtailed]) -> Step:
    """Ask again at once, for the ledger's own lease: that answer leaves no doubt."""
    return _amend(moment.situation, term=moment.state.term.curtailed(moment.event.pace), renew_at=moment.now), ()


def overruled(moment: Moment[Leading, Overruled]) -> Step:
    """The term is no longer ours: SIGKILL at once."""
    reason = "the ledger says that this term is no longer ours"
    situation, effects = _kill(moment, moment.situation, Cause.OVERRULED, reason)
    return _amend(situation, renew_at=inf), effects


def contended(moment: Moment[Leading, Contended]) -> Step:
    """Our old session still holds the lock and is being terminated."""
    state = replace(moment.state, renew_at=moment.now + CONTENDED_RETRY)
    return replace(moment.situation, state=state, reason="leads on; another session still holds its lock"), ()


def started(moment: Moment[Leading, Started]) -> Step:
    """The child's program was executed."""
    state = replace(moment.state, child=Running(moment.event.pid, moment.event.at))
    return replace(moment.situation, state=state), ()


def spawn_failed(moment: Moment[Leading, SpawnFailed]) -> Step:
    """No child in this term: let another node try."""
    situation = replace(_failed(moment.situation), reason=moment.event.why)
    return release_when_idle(situation, Draining(moment.state.term, Releasing(), Cause.SPAWN_FAILED, renew_at=inf))


def exited(moment: Moment[Leading, Exited]) -> Step:
    """The main process has ended; what it left behind is told to stop, too."""
    event, policy, situation = moment.event, moment.policy, moment.situation
    since = moment.state.child.since if isinstance(moment.state.child, Running) else event.at
    success = not event.status & 0x7F and event.status >> 8 in policy.success_exit_codes
    if policy.restart == "never" or (policy.restart == "on-failure" and success):
        return _leave(moment, replace(situation, failures=0), Cause.FINISHED, exit_words(event.status))
    ran_long = event.at - since >= policy.backoff_reset
    situation = _failed(replace(situation, failures=0 if ran_long else situation.failures))
    return _leave(moment, situation, Cause.EXITED, exit_words(event.status))


def emptied(moment: Moment[Leading, Emptied]) -> Step:
    """The tree is empty and nobody told of an exit: its keeper was killed."""
    situation = replace(_failed(moment.situation), reason="its keeper died, and the child with it")
    return release_when_idle(situation, Draining(moment.state.term, Releasing(), Cause.KEEPER_LOST, renew_at=inf))


def stop_ordered(moment: Moment[Leading, StopOrdered]) -> Step:
    """Drain, and stay stopped."""
    return _leave(moment, replace(moment.situation, want=Want.STOP), Cause.STOPPED, "stopped by an operator")


def restart_ordered(moment: Moment[Leading, RestartOrdered]) -> Step:
    """Drain, and lead again on this node under a new epoch: a term spawns once."""
    reservation = Reservation(moment.policy.node, RESTART_RESERVATION)
    situation, effects = _leave(moment, moment.situation, Cause.RESTARTED, "restarted by an operator")
    return _amend(situation, reservation=reservation), effects


def release_ordered(moment: Moment[Leading, ReleaseOrdered]) -> Step:
    """Drain, and leave it to another node."""
    order = moment.event
    reservation = None if order.to is None else Reservation(order.to, order.stay_out)
    situation, effects = _leave(moment, moment.situation, Cause.RELEASED, "released by an operator")
    return _amend(situation, abstain_for=order.stay_out, reservation=reservation), effects


def end_ordered(moment: Moment[Leading, EndOrdered]) -> Step:
    """Drain, and leave the daemon."""
    cause = moment.event.cause
    return _leave(moment, replace(moment.situation, want=Want.END), cause, END_WORDS[cause])


def _leave(moment: Moment[Leading, Any], situation: Situation, cause: Cause, reason: str) -> Step:
    """Begin to drain: the stop signal now, SIGKILL after the stop timeout, or for a fence when the lease says so."""
    term = moment.state.term
    kill_at = term.kill_at if cause is Cause.FENCED else moment.now + moment.policy.stop_timeout
    state = Draining(term, Stopping(kill_at), cause, moment.state.renew_at)
    return replace(situation, state=state, reason=reason), (Signal(), Entrust(state.keeper_deadline))


def _kill(moment: Moment[Leading, Any], situation: Situation, cause: Cause, reason: str) -> Step:
    state = Draining(moment.state.term, Killing(), cause, moment.state.renew_at)
    return replace(situation, state=state, reason=reason), (Kill(), Entrust(state.keeper_deadline))


def _amend(situation: Situation, **facts: Any) -> Situation:
    return replace(situation, state=replace(situation.state, **facts))


def _failed(situation: Situation) -> Situation:
    return replace(situation, failures=situation.failures + 1)


def exit_words(status: int) -> str:
    """Say a wait status in words.

    >>> exit_words(256), exit_words(9)
    ('exited with status 1', 'killed by SIGKILL')
    """
    number = status & 0x7F
    if not number:
        return f"exited with status {status >> 8}"
    names = {member.value: member.name for member in signal.Signals}
    return f"killed by {names.get(number, f'signal {number}')}"
