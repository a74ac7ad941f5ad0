"""The programs of this node: which run, which are wanted, and how a reload makes them the same.

A program whose key or command changed is another program: the old one ends its term before the new one looks at
anything, and no two that share a lock id ever live here side by side.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from highlanderd.children.guardian_link import Found
from highlanderd.children.prober import Prober
from highlanderd.children.spawn import Origin, Spawner
from highlanderd.config import ProgramConfig, difference, needs
from highlanderd.core import machine
from highlanderd.core.events import (
    Detached,
    EndOrdered,
    Notified,
    ReleaseOrdered,
    RestartOrdered,
    Resumed,
    StartOrdered,
    StopOrdered,
    Suspended,
)
from highlanderd.core.observation import Suspension
from highlanderd.core.placement import Peers
from highlanderd.core.schedule import Schedule
from highlanderd.core.states import NOBODY, Author, Backoff, Cause, Policy, Ready, Situation, Waiting, Want
from highlanderd.guardian import cgroup
from highlanderd.postgres.look_batch import LookBatch
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.resolver import Resolver
from highlanderd.postgres.session import Session
from highlanderd.postgres.standing import Standing
from highlanderd.system.linux import boottime
from highlanderd.worker import changes, child_handover
from highlanderd.worker.interfaces import ProgramChild, Recorder
from highlanderd.worker.placement import Placement
from highlanderd.worker.program import Program
from highlanderd.worker.quiet import quietly
from highlanderd.worker.records import LastExit, Pause, Tell

log = logging.getLogger(__name__)

NEVER: Final = 'the key "never" names this node'
"""The reason of a program that the configuration keeps from this node."""

SIT_OUT: Final = 60.0
"""Seconds for which a program stays away whose task has failed."""
GRID: Final = 0.02
"""Share of a lease to which times are rounded: 100 programs then share some twenty wake-ups in each round."""


@dataclass(slots=True)
class Member:
    """One program that lives here, and what belongs to it."""

    program: Program
    session: Session
    spawner: Spawner
    prober: Prober
    lock_id: int
    leaves: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has been ordered to end."""
    recalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it need not sit out any longer: it is to leave, or an operator has started it."""
    task: asyncio.Task[None] | None = None
    set_aside: bool = False
    """Whether it does not contend here at all, whatever an operator wants."""
    wish: Want | None = None
    """What an operator has ordered last, which the program may still have to hear; None for nothing."""
    _end: EndOrdered | None = None
    """The latest order to end: a program that was to come back with other keys may be removed meanwhile."""

    def order_end(self, order: EndOrdered) -> None:
        """Order the program to leave, once for each cause."""
        if self._end is None or order.cause is not self._end.cause:
            self._end = order
            self.leaves.set()
            self.recalled.set()
            self.program.post(order)


class Fleet:
    """All programs of this node. ``run`` ends when ``end`` was called and the last program has left."""

    def __init__(
        self,
        pool: Pool,
        origin: Origin,
        *,
        instance: str,
        wishes: Mapping[str, Want],
        on_connection_loss: str,
        recorder: Recorder,
        on_change: Callable[[], None],
        on_alarm: Callable[[str], None],
        tell: Tell = lambda *_, **__: None,
        quarantined: Mapping[str, str] | None = None,
        stops: Mapping[str, str] | None = None,
        exits: Mapping[str, LastExit] | None = None,
        failures: Mapping[str, int] | None = None,
        pauses: Mapping[str, Pause] | None = None,
        session: Callable[..., Session] = Session,
        limits: Callable[[], needs.Limits] = needs.limits,
    ) -> None:
        """Make a fleet without programs. ``quarantined`` are those that workers have died of, and how.

        ``stops`` are the reasons of programs that operators have stopped, ``exits`` how the latest child of each had
        ended before, ``failures`` how many in a row there were, ``pauses`` who sits out. ``session`` makes a program's
        session, ``limits`` says what this host has for all of them.
        """
        self.members: dict[str, Member] = {}
        self.wanted: dict[str, ProgramConfig] = {}
        self._awaited: frozenset[str] = frozenset()
        """The programs that others start after."""
        self._led: set[str] = set()
        """The programs that this node leads: every look asks how many they are."""
        self._wanted_by = NOBODY
        self.drained: Suspension | None = None
        """The order that keeps this node from leading anything, as the ledger showed it last."""
        self.wishes = dict(wishes)
        """What operators have ordered of programs, by name: to run or to stop. It outlives this worker."""
        self._pool, self._origin, self._instance = pool, origin, instance
        self._on_connection_loss = on_connection_loss
        self._recorder, self._on_change, self._on_alarm, self._tell = recorder, on_change, on_alarm, tell
        self._session, self._looks = session, LookBatch()
        self._quarantined = dict(quarantined or {})
        self._stops = dict(stops or {})
        self._exits = dict(exits or {})
        self._failures, self._pauses = dict(failures or {}), dict(pauses or {})
        """What a program begins with that was there under an earlier worker, by name."""
        self._find_limits, self._limits = limits, needs.Limits()
        self._names = Resolver()
        self._placement = Placement(lambda: pool.listener.leaders)
        self._affordable: frozenset[str] = frozenset()
        """The programs that this node has descriptors and processes for: the others are led elsewhere."""
        self._wake = asyncio.Event()
        self._ending: EndOrdered | None = None

    @property
    def stops(self) -> Mapping[str, str]:
        """The reason that is shown of each program that an operator has stopped here, by name."""
        for name, member in self.members.items():
            if member.program.state == "stopped" and member.program.situation.reason:
                self._stops[name] = member.program.situation.reason
        return {name: why for name, why in self._stops.items() if self.wishes.get(name) is Want.STOP}

    @property
    def exits(self) -> Mapping[str, LastExit]:
        """How the latest child of each program has ended on this node, by name."""
        for name, member in self.members.items():
            if member.program.last_exit is not None:
                self._exits[name] = member.program.last_exit
        return {name: self._exits[name] for name in self._exits.keys() & {*self.wanted, *self.members}}

    @property
    def failures(self) -> Mapping[str, int]:
        """How many failures in a row each program has had on this node, where there were any, by name."""
        now = {name: member.program.situation.failures for name, member in self.members.items()}
        known = {name: count for name, count in self._failures.items() if name in self.wanted} | now
        return {name: count for name, count in known.items() if count}

    @property
    def pauses(self) -> Mapping[str, Pause]:
        """Until when each program sits out that has failed here, and why, by name."""
        situations = {name: member.program.situation for name, member in self.members.items()}
        now = {name: (at.state.until, at.reason) for name, at in situations.items() if isinstance(at.state, Backoff)}
        return {name: pause for name, pause in self._pauses.items() if name in self.wanted} | now

    def _last_exit(self, name: str) -> LastExit | None:
        """Return what ``exits`` has of one program."""
        member = self.members.get(name)
        if member is not None and member.program.last_exit is not None:
            return member.program.last_exit
        return self._exits.get(name) if member is not None or name in self.wanted else None

    @property
    def children(self) -> Mapping[str, ProgramChild]:
        """The children on this node, by program."""
        found = {name: member.program.child for name, member in self.members.items()}
        return {name: child for name, child in found.items() if child is not None}

    async def run(self) -> None:
        """Start, replace and end programs until the last one has left."""
        async with asyncio.TaskGroup() as group:
            while self._ending is None or self.members:
                self._reconcile(group)
                await self._wake.wait()
                self._wake.clear()

    def want(self, programs: Mapping[str, ProgramConfig], by: Author = NOBODY) -> None:
        """Run exactly these programs from now on. ``by`` is who has ordered that."""
        self.wanted, self._wanted_by = dict(programs), by
        self._awaited = frozenset(name for config in programs.values() for name in config.after)
        self._limits = self._find_limits()  # a unit's TasksMax may have been raised since the last time
        self._affordable = needs.affordable(programs, self._limits)
        for name, member in self.members.items():
            if member.set_aside and not self._kept_away(name) and not self.barred(name):
                member.recalled.set()
        self._wake.set()

    @property
    def ending(self) -> bool:
        """Whether everything is being drained for good."""
        return self._ending is not None

    def end(self, by: Author = NOBODY) -> None:
        """Drain everything: no program is wanted any more."""
        self._ending = self._ending or EndOrdered(Cause.SHUTDOWN, by)
        self.want({})

    def adopt(self, found: Found, config: ProgramConfig | None) -> None:
        """Go on with a child of an earlier worker. Without a configuration it is only ended."""
        with self._handling(found.child.program):
            self._adopt(found, config)

    def _adopt(self, found: Found, config: ProgramConfig | None) -> None:
        child, report = found.child, found.report
        try:
            if child.program in self._quarantined:
                raise ValueError(_quarantine(self._quarantined[child.program]))
            within = (config or _leaving(child.program)).ready_within
            preparing = "before_start" in (report.hooks or {})
            state, want = child_handover.decode(report.memo, report.pid, report.started, within, preparing=preparing)
        except ValueError as error:
            log.error("%s: killing the child of an earlier worker: %s", child.program, error)
            child.listen(lambda _: None)
            child.kill()
            return
        config = config or _leaving(child.program)
        member = self._member(config, machine.adopt(state, want, self._pool.server.memory.knowledge()), child.lock_id)
        member.program.adopt(child)
        member.spawner.adopt(child, member.program.post)
        member.program.post(Detached("the worker was replaced"))
        log.info("%s: found its child alive, pid %s", child.program, child.pid, extra={"program": child.program})

    def order(self, name: str, order: StartOrdered | StopOrdered | RestartOrdered | ReleaseOrdered) -> None:
        """Pass an operator's order on, and remember whether the program is to run."""
        wish = {StartOrdered: Want.RUN, StopOrdered: Want.STOP}.get(type(order))
        member = self.members[name]
        if wish is not None:
            self.wishes[name] = member.wish = wish
        member.program.post(order)
        if isinstance(order, StartOrdered):
            member.recalled.set()
            if self._quarantined.pop(name, None) is not None:
                self._origin.guardian.lift(name)

    def lift(self, name: str, by: Author) -> None:
        """Forget that an operator has stopped a program here. It contends again, unless the file says otherwise."""
        member, config = self.members.get(name), self.wanted.get(name)
        if member is None or config is None or self.wishes.get(name) is not Want.STOP:
            return
        if config.autostart:
            self.order(name, StartOrdered(by))
        del self.wishes[name]

    def suspend(self, everywhere: Mapping[int, Suspension], drained: Suspension | None) -> None:
        """Follow the orders that the ledger shows at present: those by lock id, and the one for this node."""
        self.drained = drained
        for member in self.members.values():
            suspension = everywhere.get(member.lock_id, drained)
            if suspension == member.program.situation.suspension:
                continue
            member.program.post(Resumed() if suspension is None else Suspended(suspension))

    def place(self, standing: Standing) -> None:
        """Go by which other nodes wait for which programs, and give back what one of them is preferred for."""
        self._placement.read(standing)
        programs = [(member.program, member.spawner.config) for member in self.members.values()]
        for name, order in tuple(self._placement.given_back(programs, boottime())):
            self.order(name, order)

    def returns(self, name: str) -> tuple[str, float] | None:
        """Return to which node a program goes back that this node leads, and when; None for none at present."""
        member = self.members[name]
        return self._placement.returns(member.program, member.spawner.config)

    def _peers(self, program: str) -> Peers:
        return self._placement.peers(program, len(self._led), self._missing(program))

    def _missing(self, program: str) -> str:
        """Return the first program that this one starts after, and that is not up anywhere; empty when all are."""
        config = self.wanted.get(program)
        return next((name for name in config.after if not self._is_up(name)), "") if config is not None else ""

    def _is_up(self, name: str) -> bool:
        member, config = self.members.get(name), self.wanted.get(name)
        here = member is not None and isinstance(member.program.running, Ready)
        return here or config is None or self._placement.is_up(config)

    @property
    def orders_starts(self) -> bool:
        """Whether a program starts after another one."""
        return any(config.after for config in self.wanted.values())

    def _changed(self, name: str) -> None:
        """Have those look at once that only wait for a program which is ready now."""
        self._on_change()
        self._note_term(name)
        if name in self._awaited and name in self.members and isinstance(self.members[name].program.running, Ready):
            for member in self.members.values():
                state = member.program.situation.state
                if name in member.spawner.config.after and isinstance(state, Waiting) and state.vacancy is not None:
                    member.program.post(Notified())

    def _note_term(self, name: str) -> None:
        (self._led.add if self._is_led(name) else self._led.discard)(name)

    def barred(self, name: str) -> bool:
        """Return whether the configuration says that this node never runs a program."""
        return name in self.wanted and self._origin.node in self.wanted[name].never

    def _stays_away(self, member: Member) -> bool:
        """Return whether a program began with a configuration that keeps it from this node."""
        return member.program.child is None and self._origin.node in member.spawner.config.never

    def abandon_unprovable(self) -> None:
        """Abandon each program whose child cannot be proven dead any more: its lease ends without a release."""
        for member in self.members.values():
            child = member.program.child
            if child is not None and child.unprovable:
                self._kill_what_is_left(child.number)
                log.error(
                    "%s: cannot confirm that its child is dead (guardian and keeper are gone); not releasing: other "
                    "nodes wait for the lease",
                    member.program.name,
                )
                if member.task is not None:
                    member.task.cancel()

    def _kill_what_is_left(self, number: int) -> None:
        """Kill everything in a child's cgroup, where there is one: no keeper does it any more."""
        parent = cgroup.own()
        if parent is not None and number:
            cgroup.kill(f"{parent}/{cgroup.name(self._instance, number)}")

    def plan(self, programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
        """Return what ``want`` would do, a line for each program."""
        lines = [f"{name}: removed: drains and leaves" for name in self.wanted if name not in programs]
        for name, new in programs.items():
            old = self.wanted.get(name)
            keys = difference(old, new) if old is not None else ()
            if old is None:
                lines.append(f"{name}: added: {'contends for the lead' if new.autostart else 'stays stopped'}")
            elif keys:
                effect = changes.effect(old, new, self._origin.node, led=self._is_led(name))
                lines.append(f"{name}: changed ({', '.join(keys)}): {effect}")
        return tuple(lines)

    def _is_led(self, name: str) -> bool:
        member = self.members.get(name)
        return member is not None and member.program.term is not None

    def restarted_by(self, programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
        """Return the programs that are led here, and that ``want`` would drain and start again."""
        return tuple(
            name
            for name, new in programs.items()
            if self._is_led(name)
            and self._origin.node not in new.never
            and changes.needs_new_child(self.members[name].spawner.config, new)
        )

    def relocked_by(self, programs: Mapping[str, ProgramConfig]) -> tuple[str, ...]:
        """Return the programs that ``want`` would have contend for another lock; not those that were stopped here."""
        return tuple(
            name
            for name, new in programs.items()
            if (member := self.members.get(name)) is not None
            and member.program.situation.want is not Want.STOP
            and self._origin.node not in new.never
            and member.lock_id != new.lock_id(self._origin.namespace)
        )

    # ------------------------------------------------------------------------------------------------- reconciling

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        """Bring what runs nearer to what is wanted. What has to wait is tried again when a program ends."""
        for name, member in self.members.items():
            with self._handling(name):
                self._follow(member, self.wanted.get(name))
        for name, config in self.wanted.items():
            with self._handling(name):
                self._join(name, config)
        for member in self.members.values():
            if member.task is None:
                member.task = group.create_task(self._live(member))

    def _join(self, name: str, config: ProgramConfig) -> None:
        lock_id = config.lock_id(self._origin.namespace)
        if name not in self.members and all(member.lock_id != lock_id for member in self.members.values()):
            self._member(config, self._beginning(config), lock_id)

    def _beginning(self, config: ProgramConfig) -> Situation:
        """Return what a program begins with that has no child here: as an earlier worker has left it, if one has."""
        name, now = config.name, boottime()
        want = self.wishes.get(name, Want.RUN if config.autostart else Want.STOP)
        situation = machine.begin(want, now, self._pool.server.memory.knowledge())
        until, why = self._pauses.pop(name, (now, ""))
        if want is Want.RUN and until > now:
            return replace(situation, state=Backoff(min(until, now + config.backoff_max)), reason=why)
        stopped = self._stops.get(name, "") if self.wishes.get(name) is Want.STOP else ""
        return replace(situation, reason=stopped)

    @contextmanager
    def _handling(self, name: str) -> Iterator[None]:
        """Handle one program for the block: what goes wrong there ends at that program."""
        with self._origin.guardian.attention(name):
            try:
                yield
            except Exception as error:
                log.exception("%s: cannot be handled", name, extra={"program": name})
                self._on_alarm(f"{name}: cannot be handled ({error!r}), which is a fault of highlanderd")

    def _follow(self, member: Member, config: ProgramConfig | None) -> None:
        lock_id = None if config is None else config.lock_id(self._origin.namespace)
        keys = () if config is None else difference(member.spawner.config, config)
        by = self._wanted_by
        if config is None or (self.barred(config.name) and not self._stays_away(member)):
            member.order_end(self._ending or EndOrdered(Cause.REMOVED, by))
        elif lock_id != member.lock_id or changes.needs_new_child(member.spawner.config, config):
            member.order_end(self._ending or EndOrdered(Cause.CHANGED, by))
        elif keys:
            member.spawner.follow(config)
            member.prober.apply(config)
            member.program.follow(self._policy(config, member.program.policy.jitter, member.program.policy.schedule))

    def _member(self, config: ProgramConfig, situation: Situation, lock_id: int) -> Member:
        name = config.name
        situation = replace(situation, failures=self._failures.pop(name, 0))
        spawner, prober = Spawner(self._origin, config), Prober(config, self._names)
        jitter = uuid.uuid5(uuid.UUID(self._instance), name).int / 2**128
        program = Program(
            name,
            situation,
            self._policy(config, jitter),
            spawn=spawner,
            prober=prober,
            recorder=self._recorder,
            on_change=lambda: self._changed(name),
            on_alarm=self._on_alarm,
            attention=self._origin.guardian.attention,
            last_exit=self._last_exit(name),
            tell=self._tell,
        )
        session = self._session(
            self._pool,
            program=name,
            lock_id=lock_id,
            advisory=config.advisory_lock(self._origin.namespace),
            node=self._origin.node,
            instance=self._instance,
            keeperless=lambda: not self._origin.guardian.holds(lock_id, name),
            post=program.post,
            on_alarm=self._on_alarm,
            peers=lambda: self._peers(name),
            looks=self._looks,
        )
        member = self.members[name] = Member(program, session, spawner, prober, lock_id)
        self._note_term(name)
        return member

    def _policy(self, config: ProgramConfig, jitter: float, before: Schedule | None = None) -> Policy:
        return Policy(
            node=self._origin.node,
            instance=self._instance,
            stop_signal=config.stop_signal,
            stop_timeout=config.stop_timeout,
            stop_to=config.stop_to,
            restart=config.restart,
            success_exit_codes=frozenset(config.success_exit_codes),
            backoff=config.backoff,
            backoff_max=config.backoff_max,
            backoff_reset=config.backoff_reset,
            ready_timeout=config.ready_within,
            hooks=frozenset(config.hooks),
            hook_timeout=config.hook_timeout,
            on_connection_loss="stop" if self._on_connection_loss == "stop" else "hold",
            jitter=jitter,
            prefer=config.prefer,
            spread=config.spread,
            schedule=_schedule(config, before),
            grid=GRID,
        )

    async def _live(self, member: Member) -> None:
        name = member.program.name
        try:
            if member.program.child is None and (self.barred(name) or self._kept_away(name)):
                await self._stay_away(member)
            else:
                await member.program.run(member.session)
        except Exception as error:  # noqa: BLE001 - one program's trouble ends at that program
            self._contain(member, error)
            await _sit_out(member)
        finally:
            quietly(member.spawner.close)()
            del self.members[name]
            self._note_term(name)
            self._wake.set()
            self._on_change()

    async def _stay_away(self, member: Member) -> None:
        """Contend for nothing until that may have changed. Only what the configuration wants is no alarm."""
        why = self._kept_away(member.program.name)
        if why:
            self._set_aside(member, why)
        else:
            member.program.fail(NEVER)
        member.set_aside = True
        member.session.close()
        await member.recalled.wait()

    def _kept_away(self, name: str) -> str:
        """Return what keeps a program from contending here, though it should; nothing when it may."""
        if name in self._quarantined:
            return _quarantine(self._quarantined[name])
        return "" if name in self._affordable or name not in self.wanted else needs.shortage(self.wanted, self._limits)

    def _contain(self, member: Member, error: Exception) -> None:
        """Kill the child of a program whose task has failed, and show why. Its row is not released: others wait."""
        name, child = member.program.name, member.program.child
        log.error("%s: its task has failed", name, exc_info=error, extra={"program": name})
        member.recalled.clear()  # what was ordered before is no answer to this
        self._set_aside(
            member, f"its task has failed ({error!r}), which is a fault of highlanderd; tried again after {SIT_OUT:g} s"
        )
        if child is not None:
            quietly(child.kill)()

    def _set_aside(self, member: Member, why: str) -> None:
        """Show a program as stopped, whatever it was doing, and raise an alarm."""
        self._on_alarm(f"{member.program.name}: {why}")
        member.program.fail(why)
        self._on_change()


def _schedule(config: ProgramConfig, before: Schedule | None) -> Schedule | None:
    """Return when a program is to run; a schedule that was there before was taken up before."""
    if config.times is None:
        return None
    words = f"{config.schedule} {config.timezone}"
    since = before.since if before is not None and before.words == words else boottime()
    return Schedule(config.times, words, config.catch_up, since)


def _leaving(name: str) -> ProgramConfig:
    """Return what stands for the configuration of a program that has none, and is only ended."""
    return ProgramConfig(name=name, command=("true",))


def _quarantine(how: str) -> str:
    return (
        f"quarantined: two workers have died while they handled it, the last one by {how}; the log says when. "
        "'highlanderctl start' tries again"
    )


async def _sit_out(member: Member) -> None:
    """Wait before a program that has failed is tried again; not if it is to leave, or an operator starts it."""
    if not member.leaves.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(SIT_OUT):
                await member.recalled.wait()
