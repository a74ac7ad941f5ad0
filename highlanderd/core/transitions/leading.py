"""Leading: renew the term, start its one child, and end the term for a cause."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final

from highlanderd.core.effects import Kill, RunHook, SetDeadline, Signal
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Due,
    Emptied,
    EndOrdered,
    Exited,
    FoundReady,
    FoundUnhealthy,
    FoundUnready,
    HookFinished,
    HookStarted,
    LeaseRefused,
    Overruled,
    ReleaseOrdered,
    Renewed,
    RestartOrdered,
    SpawnFailed,
    Started,
    StopOrdered,
    Suspended,
)
from highlanderd.core.states import (
    UNANNOUNCED,
    Author,
    Cause,
    Draining,
    Killing,
    Leading,
    Policy,
    Preparing,
    Ready,
    Releasing,
    Reservation,
    Running,
    Situation,
    Spawning,
    Stopping,
    Want,
)
from highlanderd.core.terms import exit_of
from highlanderd.core.transitions.context import Context, Step, ordered_by, release_when_idle, renewing
from highlanderd.structs import replace

CONTENDED_RETRY: Final = 0.1
"""Seconds until the next attempt to take the lock back. A backend that is being terminated needs less to die."""

RESTART_RESERVATION: Final = 5.0
"""Seconds for which a restart, or a changed key, keeps the program on its node: much longer than a takeover takes, and
little to wait if the node dies."""

DAEMONIZED: Final = " and left processes behind, which were stopped: a program must stay in the foreground"

END_WORDS: Final[Mapping[Cause, str]] = {
    Cause.SHUTDOWN: "the daemon shuts down",
    Cause.REMOVED: "removed from the configuration",
    Cause.CHANGED: "changed in the configuration",
}


def due(context: Context[Leading, Due]) -> Step:
    """Do what is due, the most urgent first: SIGKILL, the fence, giving up a start or a readiness, a renewal."""
    state, now = context.state, context.now
    term = state.term
    if now >= term.kill_at:
        return _kill(
            context, context.situation, Cause.FENCED, f"fenced: the lease ran out; {_last_acknowledged(context)}"
        )
    if now >= term.fence_at(context.policy.stop_timeout):
        reason = f"fenced: the lease could not be renewed in time; {_last_acknowledged(context)}"
        return _leave(context, context.situation, Cause.FENCED, reason)
    if isinstance(state.child, Spawning) and now >= state.child.not_after:
        reason = "the guardian did not confirm the start in time"
        situation, effects = _kill(context, _failed(context.situation), Cause.SPAWN_FAILED, reason)
        return _amend(situation, renew_at=inf), effects
    if isinstance(state.child, Running) and now >= state.child.ready_by:
        lack = f": {state.child.lack}" if state.child.lack else ""
        reason = f"not ready {now - state.child.since:.1f} s after its start{lack}"
        return _leave(context, _failed(context.situation), Cause.NOT_READY, reason)
    return _renew(context) if context.idle and now >= state.renew_at else (context.situation, ())


def _last_acknowledged(context: Context[Leading, Due]) -> str:
    term = context.state.term
    return f"last acknowledged {context.now - term.sent:.1f} s ago, of a lease of {term.lengths.trusted.length:g} s"


def attached(context: Context[Leading, Attached]) -> Step:
    """Take the lock back with a renewal, unless trust has run out."""
    return _renew(context) if context.now < context.state.term.trusted_until else (context.situation, ())


def _renew(context: Context[Leading, Any]) -> Step:
    """Send a renewal. If it brings the deadline nearer, the keeper gets that first."""
    before = context.state.term
    term, renew = renewing(before, context.now)
    if term == before:
        return context.situation, (renew,)
    return _amend(context.situation, term=term), (SetDeadline(term.kill_at), renew)


def detached(context: Context[Leading, Detached]) -> Step:
    """Lead on for the rest of the lease, or stop at once, as ``on_connection_loss`` says."""
    why = context.event.why
    if context.policy.on_connection_loss == "stop":
        return _leave(context, context.situation, Cause.DISCONNECTED, f"stopped: {why}")
    return replace(context.situation, reason=f"leads on for the rest of its lease: {why}"), ()


def renewed(context: Context[Leading, Renewed]) -> Step:
    """Prolong the term. Trust counts from the sending."""
    term = context.state.term.renewed(context.event.sent, context.event.lengths)
    state = replace(context.state, term=term, renew_at=context.renewal_of(term))
    return replace(context.situation, state=state, reason=""), (SetDeadline(term.kill_at),)


def curtailed(context: Context[Leading, LeaseRefused]) -> Step:
    """Ask again at once, for the ledger's own lease: that answer leaves no doubt."""
    return _amend(context.situation, term=context.state.term.curtailed(context.event.pace), renew_at=context.now), ()


def overruled(context: Context[Leading, Overruled]) -> Step:
    """Kill at once: the term is over, and another node may lead."""
    reason = "the ledger says that this term is no longer ours"
    situation, effects = _kill(context, context.situation, Cause.OVERRULED, reason)
    return _amend(situation, renew_at=inf), effects


def contended(context: Context[Leading, Contended]) -> Step:
    """Try again soon: the program's lost session still holds the lock, and is being terminated."""
    state = replace(context.state, renew_at=context.now + CONTENDED_RETRY)
    return replace(context.situation, state=state, reason="leads on; another session still holds its lock"), ()


def started(context: Context[Leading, Started]) -> Step:
    """Note that the child's program was executed. From then on it has ``ready_timeout`` to become ready."""
    pid, at = context.event.pid, context.event.at
    return _amend(context.situation, child=Running(pid, at, at + context.policy.ready_timeout)), ()


def hook_started(context: Context[Leading, HookStarted]) -> Step:
    """Note that ``before_start`` runs: there is a keeper, which will say what becomes of it."""
    pending = isinstance(context.state.child, Spawning)
    return (_amend(context.situation, child=Preparing()) if pending else context.situation), ()


def hook_finished(context: Context[Leading, HookFinished]) -> Step:
    """End the term when ``before_start`` has failed: another node has its turn. The others decide nothing."""
    if context.event.hook != "before_start" or not context.event.why:
        return context.situation, ()
    reason = f"before_start: {context.event.why}"
    return _kill(context, _failed(context.situation), Cause.HOOK_FAILED, reason)


def found_ready(context: Context[Leading, FoundReady]) -> Step:
    """Note that the child is ready. The keeper gets that with a deadline, and carries it to the next worker."""
    match context.state.child:
        case Running(pid, since):
            situation = _amend(context.situation, child=Ready(pid, since, context.event.at))
            hook = (RunHook(),) if "after_ready" in context.policy.hooks else ()
            return situation, (SetDeadline(context.state.term.kill_at), *hook)
        case _:
            return context.situation, ()


def found_unready(context: Context[Leading, FoundUnready]) -> Step:
    """Note why the child is not ready, and give it the time that it has asked for."""
    match context.state.child:
        case Running(ready_by=ready_by) as child:
            later = max(ready_by, context.event.until)
            situation = _amend(context.situation, child=replace(child, ready_by=later, lack=context.event.why))
            return situation, (SetDeadline(context.state.term.kill_at),) if later > ready_by else ()
        case _:
            return context.situation, ()


def found_unhealthy(context: Context[Leading, FoundUnhealthy]) -> Step:
    """End the term of a child that was ready: another node has its turn, and this one sits out."""
    match context.state.child:
        case Ready(since=since):
            situation = _failed_after(context.situation, context.event.at - since, context.policy)
            return _leave(context, situation, Cause.UNHEALTHY, context.event.why)
        case _:
            return context.situation, ()


def spawn_failed(context: Context[Leading, SpawnFailed]) -> Step:
    """Release: this term has no child, so another node may try."""
    situation = replace(_failed(context.situation), reason=context.event.why)
    return release_when_idle(situation, Draining(context.state.term, Releasing(), Cause.SPAWN_FAILED, renew_at=inf))


def exited(context: Context[Leading, Exited]) -> Step:
    """End the term. Processes that the main process left behind get the stop signal, too."""
    event, policy, situation = context.event, context.policy, context.situation
    child = context.state.child
    since = event.at if isinstance(child, Spawning | Preparing) else child.since
    success = policy.succeeds(event.status)
    if policy.restart == "never" or (policy.restart == "on-failure" and success):
        return _ended(context, replace(situation, failures=0), Cause.FINISHED)
    if success:  # it is started again after a pause, which never grows
        return _ended(context, replace(situation, failures=0), Cause.EXITED)
    cause = Cause.OUT_OF_MEMORY if event.starved else Cause.EXITED
    return _ended(context, _failed_after(situation, event.at - since, policy), cause)


def _ended(context: Context[Leading, Exited], situation: Situation, cause: Cause) -> Step:
    event, status = context.event, context.event.status
    reason = exit_words(status) + (DAEMONIZED if not status and not event.alone else "")
    reason += f": out of memory, {event.starved}" if event.starved else ""
    situation, effects = _leave(context, situation, cause, reason)
    return _amend(situation, status=status), effects


def emptied(context: Context[Leading, Emptied]) -> Step:
    """Release: the tree is empty and no exit was reported, so the keeper was killed and the child with it."""
    situation = replace(_failed(context.situation), reason="its keeper died, and the child with it")
    return release_when_idle(situation, Draining(context.state.term, Releasing(), Cause.KEEPER_LOST, renew_at=inf))


def stop_ordered(context: Context[Leading, StopOrdered]) -> Step:
    """Drain, and stay stopped."""
    situation = replace(context.situation, want=Want.STOP)
    situation, effects = _leave(context, situation, Cause.STOPPED, f"stopped{ordered_by(context.event.by)}")
    return _amend(situation, by=context.event.by), effects


def restart_ordered(context: Context[Leading, RestartOrdered]) -> Step:
    """Drain, and lead again on this node under a new epoch: a term spawns once."""
    reservation = Reservation(context.policy.node, RESTART_RESERVATION)
    by = context.event.by
    situation, effects = _leave(context, context.situation, Cause.RESTARTED, f"restarted{ordered_by(by)}")
    return _amend(situation, reservation=reservation, by=by), effects


def release_ordered(context: Context[Leading, ReleaseOrdered]) -> Step:
    """Drain, and leave the program to another node."""
    order = context.event
    reservation = None if order.to is None else Reservation(order.to, order.stay_out)
    situation, effects = _leave(context, context.situation, Cause.RELEASED, f"released{ordered_by(order.by)}")
    return _amend(situation, abstain_for=order.stay_out, reservation=reservation, by=order.by), effects


def suspended(context: Context[Leading, Suspended]) -> Step:
    """Drain, and stay stopped until the order in the ledger is lifted."""
    suspension = context.event.suspension
    cause = Cause.DRAINED if suspension.drained else Cause.STOPPED
    situation = replace(context.situation, suspension=suspension)
    situation, effects = _leave(context, situation, cause, str(suspension))
    return _amend(situation, by=Author(suspension.author, suspension.remark)), effects


def end_ordered(context: Context[Leading, EndOrdered]) -> Step:
    """Drain, and leave the daemon. A program that comes back with other keys leads again on this node."""
    cause = context.event.cause
    situation, effects = _leave(context, replace(context.situation, want=Want.END), cause, END_WORDS[cause])
    reservation = Reservation(context.policy.node, RESTART_RESERVATION) if cause is Cause.CHANGED else None
    return _amend(situation, reservation=reservation, by=context.event.by), effects


def _leave(context: Context[Leading, Any], situation: Situation, cause: Cause, reason: str) -> Step:
    """Begin to drain with the stop signal; SIGKILL after the stop timeout, or for a fence when the lease says so.

    The time of ``before_stop``, which comes before the signal, is added; what it does not take is taken back.
    """
    term, policy = context.state.term, context.policy
    announced = "before_stop" in policy.hooks and cause not in UNANNOUNCED
    within = policy.stop_timeout + (policy.hook_timeout if announced else 0.0)
    kill_at = term.kill_at if cause is Cause.FENCED else context.now + within
    state = Draining(term, Stopping(kill_at), cause, context.state.renew_at)
    return replace(situation, state=state, reason=reason), (Signal(), SetDeadline(state.keeper_deadline))


def _kill(context: Context[Leading, Any], situation: Situation, cause: Cause, reason: str) -> Step:
    state = Draining(context.state.term, Killing(), cause, context.state.renew_at)
    return replace(situation, state=state, reason=reason), (Kill(), SetDeadline(state.keeper_deadline))


def _amend(situation: Situation, **facts: Any) -> Situation:
    return replace(situation, state=replace(situation.state, **facts))


def _failed(situation: Situation) -> Situation:
    return replace(situation, failures=situation.failures + 1)


def _failed_after(situation: Situation, seconds: float, policy: Policy) -> Situation:
    """Return the situation after a failure. A child that had run for so long before may end the row of failures."""
    return _failed(replace(situation, failures=0) if seconds >= policy.backoff_reset else situation)


def exit_words(status: int) -> str:
    """Return a wait status in words.

    >>> exit_words(256), exit_words(9)
    ('exited with status 1', 'killed by SIGKILL')
    """
    code, name = exit_of(status)
    return f"exited with status {code}" if name is None else f"killed by {name}"
