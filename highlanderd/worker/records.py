"""What the log and the metrics say of a program, read off its transitions: they are no effects of the machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from highlanderd.core.events import (
    Detached,
    Emptied,
    Event,
    Exited,
    Granted,
    HookFinished,
    Looked,
    Renewed,
    Settled,
    Started,
)
from highlanderd.core.occurrences import ENDED
from highlanderd.core.schedule import STOPPED, Skipped
from highlanderd.core.states import FAILURES, ORDERED, STATE_NAMES, Cause, Draining, Leading, Situation, Term
from highlanderd.core.terms import exit_of
from highlanderd.durations import rfc_3339
from highlanderd.system.linux import boottime
from highlanderd.worker.interfaces import Recorder
from highlanderd.worker.quiet import quietly

log = logging.getLogger(__name__)

Pause = tuple[float, str]
"""Until when a program sits out after a failure on this node, by CLOCK_BOOTTIME, and why."""
LastExit = tuple[Exited, int | None]
"""How the latest child has ended, and the epoch of its term."""

Tell = Callable[..., None]
"""Called with an event, the program, and facts of an ``Occurrence``."""

_WithTerm = Leading | Draining
"""Put together once: this is asked many times a second of each program."""

LOST: Final = frozenset({Cause.FENCED, Cause.OVERRULED, Cause.KEEPER_LOST, Cause.DISCONNECTED})
"""Causes of an end that neither an operator nor the program has brought about."""


def term_of(situation: Situation) -> Term | None:
    """Return the term under way."""
    state = situation.state
    return state.term if isinstance(state, _WithTerm) else None


def _level(before: Situation, after: Situation) -> int:
    """Return how a transition is logged: a term that was lost is an error, a failure of the program a warning."""
    if not isinstance(after.state, Draining) or isinstance(before.state, Draining):
        return logging.WARNING if after.failures > before.failures else logging.INFO
    cause = after.state.cause
    if cause in LOST:
        return logging.ERROR
    return logging.WARNING if cause in FAILURES and after.failures else logging.INFO


def _epoch(situation: Situation) -> int | None:
    term = term_of(situation)
    return None if term is None else term.epoch


def _facts(situation: Situation) -> dict[str, Any]:
    """Return what there is to say of a state that was entered: an end that was ordered has an author."""
    facts: dict[str, Any] = {"epoch": _epoch(situation), "reason": situation.reason or None}
    state = situation.state
    if isinstance(state, Draining):
        author = {"author": state.by.name, "reason": state.by.remark or None} if state.by.name else {}
        facts |= {"cause": state.cause.value, **author}
    return facts


class Records:
    """Logs and counts what happens to one program: one line for each transition."""

    def __init__(
        self,
        program: str,
        recorder: Recorder,
        last_exit: LastExit | None = None,
        *,
        succeeds: Callable[[int], bool],
        tell: Tell = lambda *_, **__: None,
    ) -> None:
        """Make the records of a program. ``tell`` is called with each event that people may follow, and its facts.

        ``succeeds`` says of a wait status whether it is that of a success.
        """
        self.entered = boottime()
        """When the present state was entered."""
        self._program, self._recorder, self._succeeds, self._tell = program, recorder, succeeds, tell
        self._stopping_since = 0.0
        self.detached = False
        """Whether the session of the term under way was lost, and no renewal has been acknowledged since."""
        self._ended_at: float | None = None
        """When the last term ended, as the last look showed it; None when there was none."""
        self.last_exit = last_exit
        self.step = quietly(self._step)
        """Called with each step of the machine: the situation before, the event, the situation after, and the time."""

    def adopted(self) -> None:
        """Note that the program goes on with a child of an earlier worker, whose session is gone."""
        self.detached = True

    def _step(self, before: Situation, event: Event, after: Situation, now: float) -> None:
        old, new = type(before.state), type(after.state)
        if old is not new:
            self.entered = now
        record = _RECORD.get(type(event))
        if record is not None:
            record(self, event, after, now)
        if old is not new:
            self._transition(before, after, STATE_NAMES[old], STATE_NAMES[new])

    def _transition(self, before: Situation, after: Situation, old: str, new: str) -> None:
        self._recorder.transition(self._program, old, new)
        if isinstance(before.state, Draining):
            self._tell_end(before.state)
            self._recorder.term_ended(self._program, before.state.cause.value)
            self.detached = False
        if isinstance(after.state, Draining):
            self._stopping_since = self.entered
        term = term_of(after)
        self._tell(new, self._program, **_facts(after))
        log.log(
            _level(before, after),
            "%s: %s -> %s%s",
            self._program,
            old,
            new,
            f": {after.reason}" if after.reason and after.reason != before.reason else "",
            extra={
                "program": self._program,
                "state": new,
                "epoch": None if term is None else term.epoch,
                "event": after.state.cause.value if isinstance(after.state, Draining) else new,
                "reason": after.reason,
            },
        )

    def _tell_end(self, state: Draining) -> None:
        status, signal = (None, None) if state.status is None else exit_of(state.status)
        self._tell(
            ENDED,
            self._program,
            epoch=state.term.epoch,
            cause=state.cause.value,
            exit_status=status,
            exit_signal=signal,
            author=state.by.name or None,
            reason=state.by.remark or None,
        )

    def _looked(self, event: Looked, _after: Situation, _now: float) -> None:
        row = event.observation.row
        self._ended_at = None if row is None else event.at - row.ended_ago

    def _settled(self, event: Settled, after: Situation, _now: float) -> None:
        for one in event.skipped:
            self._recorder.skipped(self._program, one.reason, one.count)
            log.log(
                logging.INFO if one.reason == STOPPED else logging.WARNING,
                "%s: skipped %s: %s",
                self._program,
                _moments(one),
                one.reason,
                extra=self._where(after),
            )

    def _granted(self, _event: Granted, _after: Situation, now: float) -> None:
        if self._ended_at is not None:
            self._recorder.leaderless(now - self._ended_at)

    def _started(self, event: Started, after: Situation, _now: float) -> None:
        term = term_of(after)
        if term is not None:
            self._recorder.took_over(event.at - term.began)
            self._tell("started", self._program, epoch=term.epoch)

    def _hook_finished(self, event: HookFinished, after: Situation, _now: float) -> None:
        if event.why:
            self._tell("hook_failed", self._program, epoch=_epoch(after), reason=f"{event.hook}: {event.why}")
            log.warning("%s: %s: %s", self._program, event.hook, event.why, extra=self._where(after))

    def _exited(self, event: Exited, after: Situation, _now: float) -> None:
        term = term_of(after)
        self.last_exit = event, None if term is None else term.epoch
        self._recorder.exited(self._program, event.status)
        ordered = isinstance(after.state, Draining) and after.state.cause in ORDERED
        if not (ordered or self._succeeds(event.status)):
            self._recorder.exit_failed(self._program, event.status)
        status, signal = exit_of(event.status)
        self._tell("exited", self._program, epoch=self.last_exit[1], exit_status=status, exit_signal=signal)

    def _emptied(self, _event: Emptied, _after: Situation, now: float) -> None:
        self._recorder.stopped(max(0.0, now - self._stopping_since) if self._stopping_since else 0.0)

    def _lost(self, event: Detached, after: Situation, _now: float) -> None:
        if term_of(after) is not None:
            self.detached = True
            self._recorder.renew_failed()
            self._tell("detached", self._program, epoch=_epoch(after), reason=event.why)
            log.warning("%s: %s", self._program, event.why, extra=self._where(after))

    def _renewed(self, event: Renewed, after: Situation, now: float) -> None:
        self._recorder.renewed(now - event.sent)
        if self.detached:
            self.detached = False
            self._recorder.reattached()
            self._tell("reattached", self._program, epoch=_epoch(after))
            log.info("%s: reattached within its lease", self._program, extra=self._where(after))

    def _where(self, situation: Situation) -> dict[str, str]:
        return {"program": self._program, "state": STATE_NAMES[type(situation.state)]}


def _moments(skipped: Skipped) -> str:
    """Return the scheduled times in words."""
    first, last = rfc_3339(skipped.first, "seconds"), rfc_3339(skipped.last, "seconds")
    if not skipped.count:
        return f"what a schedule that this node cannot read had from {first} to {last}"
    return f"the run of {first}" if skipped.count == 1 else f"{skipped.count} runs, {first} to {last}"


_RECORD: Final[Mapping[type[Event], Callable[[Records, Any, Situation, float], None]]] = {
    Looked: Records._looked,
    Settled: Records._settled,
    Granted: Records._granted,
    Started: Records._started,
    Exited: Records._exited,
    HookFinished: Records._hook_finished,
    Emptied: Records._emptied,
    Detached: Records._lost,
    Renewed: Records._renewed,
}
