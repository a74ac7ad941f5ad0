"""The shell around the machine: inbox, step, perform.

A program takes one turn after the other on the loop; all others post events. Its session and its child are known here
as Protocols only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf
from typing import Any, Final

from highlanderd.core import machine
from highlanderd.core.effects import (
    CloseTerms,
    Disconnect,
    Effect,
    Kill,
    Look,
    Release,
    Renew,
    RunHook,
    SetDeadline,
    Signal,
    Spawn,
    TakeOver,
    WriteSettled,
    WriteTimetable,
)
from highlanderd.core.events import Attached, Detached, Due, Event, Granted, Looked, Notified, Refused
from highlanderd.core.knowledge import glimpsed, renewed_elsewhere
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Row
from highlanderd.core.states import (
    LAPSED,
    OUTLAWED,
    STATE_NAMES,
    UNANNOUNCED,
    Cause,
    Draining,
    Leading,
    Policy,
    Ready,
    Releasing,
    Running,
    Situation,
    Spawning,
    Stopped,
    Term,
    Waiting,
    alike,
)
from highlanderd.core.verdict import Claim
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.worker.child_handover import ChildHandover
from highlanderd.worker.interfaces import ChildProber, ChildSpawner, LockSession, ProgramChild, Recorder
from highlanderd.worker.moments import Moments
from highlanderd.worker.records import LastExit, Records, Tell, term_of
from highlanderd.worker.starts import Starts

log = logging.getLogger(__name__)

_Executed = Running | Ready


class Program:
    """One program on this node. ``run`` lasts as long as the program does; everything reaches it as an event."""

    def __init__(
        self,
        name: str,
        situation: Situation,
        policy: Policy,
        *,
        spawn: ChildSpawner,
        prober: ChildProber,
        recorder: Recorder,
        on_change: Callable[[], None],
        on_alarm: Callable[[str], None] = log.warning,
        attention: Callable[[str], AbstractContextManager[object]] = nullcontext,
        last_exit: LastExit | None = None,
        tell: Tell = lambda *_, **__: None,
        starts: Starts | None = None,
        moments: Moments | None = None,
    ) -> None:
        """Make it without a session. ``attention`` is entered with its name for each turn: a worker may die in one.

        Programs with the same ``starts`` begin few terms at a time, and those with the same ``moments`` share timers.
        ``last_exit`` is how its latest child had ended before. ``tell`` is called with what people may follow.
        """
        self.name = name
        self.situation = situation
        self.policy = policy
        self.restarts = -1
        """Children started, the first one not counted."""
        self.child: ProgramChild | None = None
        self._session: LockSession | None = None
        self._spawn, self._on_change, self._on_alarm = spawn, on_change, on_alarm
        self._prober = prober
        self._attention, self._starts, self._moments = attention, starts or Starts(), moments or Moments()
        self._records = Records(
            name, recorder, last_exit, succeeds=lambda status: self.policy.succeeds(status), tell=tell
        )
        self._handover = ChildHandover()
        self._last_look: Looked | None = None
        self._due: tuple[Situation, Policy, float | None] | None = None
        """The moment of a situation under a policy, as it was last worked out."""
        self._inbox: deque[Event] = deque()
        self._unrecorded: list[tuple[Situation, Event, Situation, float]] = []
        """Steps that the log and the metrics do not have yet: what a queued event leads to comes first."""
        self._over: asyncio.Future[None] | None = None
        """While it runs: done once it has left the daemon, or a turn has failed."""
        self._due_soon = False
        """Whether the loop's next round brings a turn."""
        self._awaited: float | None = None
        """The latest moment at which it is to be woken, until that has come."""

    @property
    def state(self) -> str:
        """The state's name."""
        return STATE_NAMES[type(self.situation.state)]

    @property
    def term(self) -> Term | None:
        """The term under way."""
        return term_of(self.situation)

    @property
    def entered(self) -> float:
        """When the present state was entered, in CLOCK_BOOTTIME seconds."""
        return self._records.entered

    @property
    def detached(self) -> bool:
        """Whether it is led without its session."""
        return self.term is not None and self._records.detached

    @property
    def pid(self) -> int | None:
        """The child's main process, while it lives as far as its keeper has reported."""
        state = self.situation.state
        over = isinstance(state, Draining) and (state.status is not None or isinstance(state.phase, Releasing))
        return None if self.child is None or self.term is None or over else self.child.pid

    @property
    def turns_at(self) -> float | None:
        """When time alone ends what keeps it from being led here, in CLOCK_BOOTTIME seconds."""
        glimpse = None if self._session is None else self._session.glimpse
        situation = replace(self.situation, knowledge=glimpsed(self.situation.knowledge, glimpse))
        return machine.turns_at(situation, self._last_look, boottime(), self.policy)

    @property
    def next_run(self) -> float | None:
        """When its schedule wants it to run next, in seconds of the epoch; None without one, and until it is known."""
        schedule = self.policy.schedule
        if schedule is None or (clock := self._clock) is None:
            return None
        state = self.situation.state
        known = state.next_run if isinstance(state, Waiting) else None  # to find it out anew takes a moment
        at = known if known is not None and clock < known else schedule.times.following(clock)
        return None if at == inf else at

    @property
    def idle(self) -> bool:
        """Whether its schedule wants no run at present, as far as the last look shows."""
        state = self.situation.state
        if not isinstance(state, Waiting) or state.next_run is None:
            return False
        clock = self._clock
        return clock is not None and clock < state.next_run

    @property
    def _clock(self) -> float | None:
        """The server's clock now, as the last look showed it."""
        look = self._last_look
        return None if look is None or look.observation.clock is None else look.observation.clock + boottime() - look.at

    @property
    def former(self) -> Row | None:
        """What the last look has shown of the program's last term."""
        return None if self._last_look is None else self._last_look.observation.row

    @property
    def last_exit(self) -> LastExit | None:
        """How the latest child has ended, and the epoch of its term."""
        return self._records.last_exit

    @property
    def running(self) -> Running | Ready | None:
        """The child, while it is wanted and its program was executed."""
        state = self.situation.state
        return state.child if isinstance(state, Leading) and isinstance(state.child, _Executed) else None

    def adopt(self, child: ProgramChild) -> None:
        """Go on with a child that an earlier worker started."""
        self.child, self.restarts = child, 0
        self._records.adopted()
        self._prober.follow(child, self.running, self.post)

    def follow(self, policy: Policy) -> None:
        """Go by another policy, and perhaps another prober's configuration, from now on."""
        self.policy = policy
        self._prober.follow(self.child, self.running, self.post)

    def fail(self, why: str) -> None:
        """Show why the program's task has failed: it leads nothing, and is stopped until it is tried again."""
        self.situation = Situation(self.situation.want, Stopped(), reason=why)

    def post(self, event: Event) -> None:
        """Put an event into the inbox; one of the next rounds of the loop handles it."""
        self._inbox.append(event)
        self._turn_soon()

    async def run(self, session: LockSession) -> None:
        """Live until the program has left the daemon. Raises ImpossibleEvent for a bug of this project."""
        self._session = session
        session.note_stake(self.term.kill_at if self.term is not None else inf)
        session.open()
        over = self._over = asyncio.get_running_loop().create_future()
        self._due_soon = False
        try:
            self._await_news()
            await over
        finally:
            self._over = None
            self._record()
            self._starts.withdraw(self.name)
            self._prober.stop()
            self._spawn.discard()
            session.close()

    def _turn_soon(self) -> None:
        if self._over is not None and not self._due_soon:
            self._due_soon = True
            self._over.get_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Take a turn, unless the program is over; it is, with the exception, when a turn fails."""
        self._due_soon = False
        if self._over is None or self._over.done():
            return
        try:
            with self._attention(self.name):
                self._turn()
            self._await_news()
        except Exception as error:  # noqa: BLE001 - ``run`` raises it
            self._over.set_exception(error)

    def _await_news(self) -> None:
        """Have the next event, or the deadline, bring a turn; what has no deadline waits for an event alone."""
        if machine.finished(self.situation):
            if self._over is not None:
                self._over.set_result(None)
        elif self._inbox:
            self._turn_soon()
        elif (due := self._deadline()) is not None and due != self._awaited:
            self._awaited = due
            self._moments.call_at(due, self._moment_come)

    def _moment_come(self, moment: float) -> None:
        if moment == self._awaited:  # any other was awaited in a situation that is past
            self._awaited = None
            self._take_turn()

    def _turn(self) -> None:
        """A passed deadline comes before anything that is queued."""
        now = boottime()
        due = self._deadline()
        if due is not None and due <= now:
            before = self.situation
            self._step(Due(), now)
            if self.situation == before:
                raise machine.ImpossibleEvent(f"{self.name}: a deadline passed and changed nothing: {before}")
        elif self._inbox:
            self._step(self._inbox.popleft(), now)
        if not self._inbox:
            self._record()

    def _record(self) -> None:
        steps, self._unrecorded = self._unrecorded, []
        for step in steps:
            self._records.step(*step)

    def _deadline(self) -> float | None:
        """Return the moment at which time itself changes something, or None when only events can."""
        situation, policy = self.situation, self.policy
        if self._due is None or self._due[0] is not situation or self._due[1] is not policy:
            self._due = situation, policy, machine.deadline(situation, policy)
        return self._due[2]

    def _step(self, event: Event, now: float) -> None:
        before = self.situation
        of_session = isinstance(event, Attached | Detached)
        if of_session:
            self._lock.note_known(event.number if isinstance(event, Attached) else None)
        self.situation, effects = machine.step(before, event, now, self.policy)
        moved = self.situation.state is not before.state
        if moved:
            self._lock.note_stake(self.term.kill_at if self.term is not None else inf)
        if isinstance(before.state, Draining) and not isinstance(self.situation.state, Draining):
            self.child = None
        if isinstance(event, Looked):
            self._last_look = event
            self._compare(before, event)
        for effect in effects:
            _PERFORM[type(effect)](self, effect)
        self._note_start(event, moved=moved)
        self._prepare(event, effects)
        self._unrecorded.append((before, event, self.situation, now))  # no child or release waits for a line of the log
        if moved:
            self._prober.follow(self.child, self.running, self.post)
        if of_session or not alike(before, self.situation):
            self._on_change()

    def _prepare(self, event: Event, effects: tuple[Effect, ...]) -> None:
        """Prepare a child at the hint of a release, and end what was prepared once no term is asked for any more."""
        match event:
            case Notified() if effects and not self._starts.crowded and (row := self._hinted()) is not None:
                until = boottime() + Lease(row.trusted_for).spawn_within
                self._spawn.prepare(Spawn(row.epoch + 1, until, until), "hint")
            case Granted() | Refused() | Detached():  # how each takeover ends
                self._spawn.discard()
            case Looked() if not any(isinstance(effect, TakeOver) for effect in effects):
                self._spawn.discard()

    def _note_start(self, event: Event, *, moved: bool) -> None:
        """Let another program begin a term once this one has its child, or begins none."""
        state = self.situation.state
        if isinstance(event, Refused | Detached):
            self._starts.withdraw(self.name)
        elif (
            moved
            and not isinstance(state, Waiting)
            and not (isinstance(state, Leading) and isinstance(state.child, Spawning))
        ):
            self._starts.over(self.name)

    def _hinted(self) -> Row | None:
        """Return the row of another node's term, as the last look has shown it, where this node waits for its end."""
        if not self._lock.undivided:
            return None
        state, row = self.situation.state, self.former
        if not isinstance(state, Waiting) or state.abstention is not None or row is None or self.policy.schedule:
            return None  # with a schedule, a release begins nothing
        return None if row.released or row.instance == self.policy.instance else row

    def _compare(self, before: Situation, event: Looked) -> None:
        """Warn of a ledger that went back, or that is written through another server, too."""
        if self.situation.knowledge.rewinds > before.knowledge.rewinds:
            self._lock.unsettle(event.observation.server)
            self._on_alarm(
                f"{self.name}: the ledger has gone back: it was restored, or overwritten from another server; no "
                "node begins a term before every lease that it may have forgotten is over"
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

    def _perform_take_over(self, effect: TakeOver) -> None:
        self._starts.ask(self.name, partial(self._take_over, effect.claim))

    def _take_over(self, claim: Claim) -> None:
        with self._attention(self.name):
            if self._lock.take_over(claim) and not self._starts.crowded:
                until = boottime() + claim.lengths.spawn_within
                scheduled = None if claim.run is None else claim.run.at
                self._spawn.prepare(Spawn(claim.epoch, until, until, scheduled), "takeover")

    def _perform_spawn(self, effect: Spawn) -> None:
        self.restarts += 1
        former = self.former
        cause = "first" if former is None else former.reason if former.released else LAPSED
        self.child = self._spawn(effect, self._handover.encode(self.situation), self.post, cause)

    def _perform_set_deadline(self, effect: SetDeadline) -> None:
        if self.child is not None:
            self.child.set_deadline(effect.deadline, self._handover.encode(self.situation))

    def _perform_signal(self, _effect: Signal) -> None:
        if self.child is not None:
            if self._cause is not None and self.policy.hooks:
                self.child.end(self._cause.value, announced=self._cause not in UNANNOUNCED)
            self.child.signal(self.policy.stop_signal, self.policy.stop_to)

    def _perform_kill(self, _effect: Kill) -> None:
        if self.child is not None:
            self.child.kill(after=bool(self.policy.hooks) and self._cause not in OUTLAWED)

    def _perform_run_hook(self, _effect: RunHook) -> None:
        if self.child is not None:
            self.child.run_hook("after_ready")

    @property
    def _cause(self) -> Cause | None:
        """Why the term ends, once that has begun."""
        return self.situation.state.cause if isinstance(self.situation.state, Draining) else None


_PERFORM: Final[Mapping[type[Effect], Callable[[Program, Any], None]]] = {
    Look: lambda program, _: program._lock.look(),
    TakeOver: Program._perform_take_over,
    WriteSettled: lambda program, effect: program._lock.write_settled(effect.settle),
    WriteTimetable: lambda program, effect: program._lock.write_timetable(effect.change),
    CloseTerms: lambda program, effect: program._lock.close_terms(effect.claim),
    Renew: lambda program, effect: program._lock.renew(effect.epoch, effect.lease),
    Release: lambda program, effect: program._lock.release(effect),
    Disconnect: lambda program, effect: program._lock.refuse(effect.why),
    Spawn: Program._perform_spawn,
    SetDeadline: Program._perform_set_deadline,
    Signal: Program._perform_signal,
    Kill: Program._perform_kill,
    RunHook: Program._perform_run_hook,
}
