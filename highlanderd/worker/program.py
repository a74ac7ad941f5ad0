"""The shell around the machine: inbox, step, perform. One task owns a program's situation; others send events.

Sessions, children and their output are known here as Protocols only. Logs and metrics are read off the transitions;
they are no effects.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol

from highlanderd.core import machine
from highlanderd.core.effects import (
    Disconnect,
    Effect,
    Kill,
    Look,
    Release,
    Renew,
    SetDeadline,
    Signal,
    Spawn,
    TakeOver,
    WriteSettled,
)
from highlanderd.core.events import Attached, Detached, Due, Emptied, Event, Exited, Granted, Looked, Renewed, Started
from highlanderd.core.knowledge import renewed_elsewhere
from highlanderd.core.lease import Lease
from highlanderd.core.observation import ServerIdentity
from highlanderd.core.states import (
    Backoff,
    Cause,
    Draining,
    Leading,
    Policy,
    Reservation,
    Running,
    Situation,
    State,
    Stopped,
    Term,
    Waiting,
)
from highlanderd.core.verdict import Claim, Settle
from highlanderd.system.linux import boottime
from highlanderd.worker import child_handover

log = logging.getLogger(__name__)


class LockSession(Protocol):
    """The program's lock connection."""

    urgency: float
    believed: int | None
    """The number of the session that the machine speaks to, as far as it has heard."""

    def open(self) -> None:
        """Begin to seek a connection."""

    def close(self) -> None:
        """End it."""

    def refuse(self, why: str) -> None:
        """Drop the present one: its server must not be used."""

    def look(self) -> None:
        """See what the ledger shows."""

    def write_settled(self, settle: Settle) -> None:
        """Write that a lease was waited out."""

    def take_over(self, claim: Claim) -> None:
        """Try to begin a term."""

    def unsettle(self, server: ServerIdentity) -> None:
        """Have everybody wait once more."""

    def renew(self, epoch: int, lease: Lease) -> None:
        """Prolong the term under a lease."""

    def release(self, epoch: int, cause: Cause, reservation: Reservation | None) -> None:
        """End the term."""


class ProgramChild(Protocol):
    """The program's child of one term."""

    @property
    def pid(self) -> int | None:
        """Its main process, once it was forked."""

    @property
    def unprovable(self) -> bool:
        """Whether nobody is left who could prove that its tree is empty."""

    @property
    def killed_at(self) -> float | None:
        """When its tree first got SIGKILL."""

    @property
    def unkillable(self) -> tuple[int, ...]:
        """Its processes that SIGKILL has not ended for a while."""

    def signal(self, signum: int, to: Literal["tree", "main"]) -> None:
        """Send a signal to its tree or its main process."""

    def kill(self) -> None:
        """SIGKILL to the tree until it is empty."""

    def set_deadline(self, deadline: float, memo: bytes) -> None:
        """Tell its keeper the deadline."""


Spawner = Callable[[Spawn, bytes, Callable[[Event], None]], ProgramChild]
"""Starts the one child of a term, and tells its events."""


class Recorder(Protocol):
    """Who counts what happens."""

    def transition(self, program: str, old: str, new: str) -> None:
        """A state was left for another."""

    def exited(self, program: str, status: int) -> None:
        """The child's main process ended with this wait status."""

    def term_ended(self, program: str, cause: str) -> None:
        """A term ended."""

    def took_over(self, seconds: float) -> None:
        """From grant to child."""

    def leaderless(self, seconds: float) -> None:
        """From the end of the last term, wherever, to the start of ours."""

    def stopped(self, seconds: float) -> None:
        """From the order to stop until the tree was empty."""

    def renewed(self, seconds: float) -> None:
        """A renewal was acknowledged so long after it was sent."""

    def renew_failed(self) -> None:
        """A session was lost while leading."""

    def reattached(self) -> None:
        """A lock was taken back within its lease."""


STATE_NAMES: Final[Mapping[type[State], str]] = {
    Waiting: "waiting",
    Leading: "leading",
    Draining: "draining",
    Backoff: "backoff",
    Stopped: "stopped",
}


class Program:
    """One program on this node. ``run`` lives as long as it does; ``tell`` is how everything reaches it."""

    def __init__(
        self,
        name: str,
        situation: Situation,
        policy: Policy,
        *,
        spawn: Spawner,
        recorder: Recorder,
        on_change: Callable[[], None],
        on_alarm: Callable[[str], None] = log.warning,
    ) -> None:
        self.name = name
        self.situation = situation
        self.policy = policy
        self.restarts = -1
        """Children started, the first one not counted."""
        self.entered = boottime()
        """When the present state was entered."""
        self.child: ProgramChild | None = None
        self._session: LockSession | None = None
        self._spawn, self._recorder, self._on_change, self._on_alarm = spawn, recorder, on_change, on_alarm
        self._inbox: deque[Event] = deque()
        self._waker: asyncio.Future[None] | None = None
        self._stopping_since = 0.0
        self._detached = False
        self._ended_at: float | None = None
        """When the last term ended, as the last look showed it; None when there was none."""

    @property
    def state(self) -> str:
        """The state's name."""
        return STATE_NAMES[type(self.situation.state)]

    @property
    def term(self) -> Term | None:
        """The term under way."""
        state = self.situation.state
        return state.term if isinstance(state, Leading | Draining) else None

    @property
    def running(self) -> Running | None:
        """The child, while it is wanted and its program was executed."""
        state = self.situation.state
        return state.child if isinstance(state, Leading) and isinstance(state.child, Running) else None

    def adopt(self, child: ProgramChild) -> None:
        """Go on with a child that an earlier worker started."""
        self.child, self.restarts, self._detached = child, 0, True

    def tell(self, event: Event) -> None:
        """Put an event into the inbox; it is handled by the program's own task."""
        self._inbox.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def run(self, session: LockSession) -> None:
        """Live until the program has left the daemon. Raises ImpossibleEvent for a bug of ours."""
        self._session = session
        session.open()
        try:
            while not machine.finished(self.situation):
                await self._news()
                self._turn()
        finally:
            session.close()

    async def _news(self) -> None:
        """Wait for an event or the deadline; what has no deadline waits for an event alone."""
        if self._inbox:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._waker = loop.create_future()
        due = machine.deadline(self.situation, self.policy)
        timer = None if due is None else loop.call_later(max(0.0, due - boottime()), self._wake)
        try:
            await self._waker
        finally:
            self._waker = None
            if timer is not None:
                timer.cancel()

    def _turn(self) -> None:
        """A passed deadline comes before anything that is queued."""
        now = boottime()
        due = machine.deadline(self.situation, self.policy)
        if due is not None and due <= now:
            before = self.situation
            self._step(Due(), now)
            if self.situation == before:
                raise machine.ImpossibleEvent(f"{self.name}: a deadline passed and changed nothing: {before}")
        elif self._inbox:
            self._step(self._inbox.popleft(), now)

    def _step(self, event: Event, now: float) -> None:
        before = self.situation
        if isinstance(event, Attached | Detached):
            self._lock.believed = event.number if isinstance(event, Attached) else None
        self.situation, effects = machine.step(before, event, now, self.policy)
        self._record(before, event, now)
        if isinstance(event, Looked):
            self._compare(before, event)
        for effect in effects:
            _PERFORM[type(effect)](self, effect)
        if self.situation.state != before.state or self.situation.reason != before.reason:
            self._on_change()

    def _compare(self, before: Situation, event: Looked) -> None:
        """Warn of a ledger that went back, or that is written through another server, too."""
        if self.situation.knowledge.rewinds > before.knowledge.rewinds:
            self._lock.unsettle(event.observation.server)
            self._on_alarm(
                f"{self.name}: the ledger has gone back: it was restored, or overwritten from another server; nobody "
                "begins a term before every lease that it may have forgotten is over"
            )
        for row in renewed_elsewhere(before.knowledge, event.observation):
            self._on_alarm(
                f"{self.name}: {row.node} renews it through another server (system {row.system}), whose rows arrive "
                "here by replication; connect all daemons to one server"
            )

    # -------------------------------------------------------------------------------------------------- performing

    @property
    def _lock(self) -> LockSession:
        if self._session is None:
            raise machine.ImpossibleEvent(f"{self.name}: asked before it runs")
        return self._session

    def _perform_spawn(self, effect: Spawn) -> None:
        self.restarts += 1
        self.child = self._spawn(effect, child_handover.encode(self.situation), self.tell)

    def _perform_entrust(self, effect: SetDeadline) -> None:
        if self.child is not None:
            self.child.set_deadline(effect.deadline, child_handover.encode(self.situation))

    def _perform_signal(self, _effect: Signal) -> None:
        if self.child is not None:
            self.child.signal(self.policy.stop_signal, self.policy.stop_to)

    def _perform_kill(self, _effect: Kill) -> None:
        if self.child is not None:
            self.child.kill()

    # --------------------------------------------------------------------------------------------------- recording

    def _record(self, before: Situation, event: Event, now: float) -> None:
        """Say and count what has happened: one line per transition."""
        after = self.situation
        self._lock.urgency = self.term.kill_at if self.term is not None else float("inf")
        record = _RECORD.get(type(event))
        if record is not None:
            record(self, event, now)
        old, new = STATE_NAMES[type(before.state)], self.state
        if old == new:
            return
        self.entered = now
        self._recorder.transition(self.name, old, new)
        if isinstance(before.state, Draining):
            self._recorder.term_ended(self.name, before.state.cause.value)
            self.child, self._detached = None, False
        if isinstance(after.state, Draining):
            self._stopping_since = now
        look = log.warning if after.failures > before.failures else log.info
        epoch = self.term.epoch if self.term is not None else None
        look(
            "%s: %s -> %s%s",
            self.name,
            old,
            new,
            f": {after.reason}" if after.reason else "",
            extra={"program": self.name, "state": new, "epoch": epoch, "reason": after.reason},
        )

    def _record_looked(self, event: Looked, _now: float) -> None:
        row = event.observation.row
        self._ended_at = None if row is None else event.at - row.ended_ago

    def _record_granted(self, _event: Granted, now: float) -> None:
        if self._ended_at is not None:
            self._recorder.leaderless(now - self._ended_at)

    def _record_started(self, event: Started, _now: float) -> None:
        if self.term is not None:
            self._recorder.took_over(event.at - self.term.began)

    def _record_exited(self, event: Exited, _now: float) -> None:
        self._recorder.exited(self.name, event.status)

    def _record_emptied(self, _event: Emptied, now: float) -> None:
        self._recorder.stopped(max(0.0, now - self._stopping_since) if self._stopping_since else 0.0)

    def _record_detached(self, event: Detached, _now: float) -> None:
        if self.term is not None:
            self._detached = True
            self._recorder.renew_failed()
            log.warning("%s: %s", self.name, event.why, extra={"program": self.name, "state": self.state})

    def _record_renewed(self, event: Renewed, now: float) -> None:
        self._recorder.renewed(now - event.sent)
        if self._detached:
            self._detached = False
            self._recorder.reattached()
            log.info("%s: reattached within its lease", self.name, extra={"program": self.name, "state": self.state})


_PERFORM: Final[Mapping[type[Effect], Callable[[Program, Any], None]]] = {
    Look: lambda program, _: program._lock.look(),
    TakeOver: lambda program, effect: program._lock.take_over(effect.claim),
    WriteSettled: lambda program, effect: program._lock.write_settled(effect.settle),
    Renew: lambda program, effect: program._lock.renew(effect.epoch, effect.lease),
    Release: lambda program, effect: program._lock.release(effect.epoch, effect.cause, effect.reservation),
    Disconnect: lambda program, effect: program._lock.refuse(effect.why),
    Spawn: Program._perform_spawn,
    SetDeadline: Program._perform_entrust,
    Signal: Program._perform_signal,
    Kill: Program._perform_kill,
}

_RECORD: Final[Mapping[type[Event], Callable[[Program, Any, float], None]]] = {
    Looked: Program._record_looked,
    Granted: Program._record_granted,
    Started: Program._record_started,
    Exited: Program._record_exited,
    Emptied: Program._record_emptied,
    Detached: Program._record_detached,
    Renewed: Program._record_renewed,
}
