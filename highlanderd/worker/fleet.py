"""The programs of this node: which run, which are wanted, and how a reload makes them the same.

A program whose key or command changed is another program: the old one ends its term before the new one looks at
anything, and no two that share a lock id ever live here side by side.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from highlanderd.children.guardian_link import Found
from highlanderd.children.spawn import Origin
from highlanderd.config import ProgramConfig, difference
from highlanderd.core import machine
from highlanderd.core.events import (
    Detached,
    EndOrdered,
    ReleaseOrdered,
    RestartOrdered,
    Resumed,
    StartOrdered,
    StopOrdered,
    Suspended,
)
from highlanderd.core.observation import Suspension
from highlanderd.core.placement import Peers
from highlanderd.core.states import NOBODY, Author, Backoff, Cause, Situation, Want
from highlanderd.guardian import cgroup
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.standing import Standing
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.worker import changes, child_handover
from highlanderd.worker.aside import SetAside
from highlanderd.worker.beginnings import Beginnings, Inheritance
from highlanderd.worker.interfaces import ProgramChild
from highlanderd.worker.leave_orders import LeaveOrders
from highlanderd.worker.making import MemberMaker
from highlanderd.worker.member import Member
from highlanderd.worker.placement import Placement
from highlanderd.worker.quiet import quietly
from highlanderd.worker.start_order import StartOrder

log = logging.getLogger(__name__)


class Fleet:
    """All programs of this node. ``run`` ends when ``end`` was called and the last program has left."""

    def __init__(
        self,
        pool: Pool,
        origin: Origin,
        make: MemberMaker,
        *,
        wishes: Mapping[str, Want],
        beginnings: Beginnings,
        aside: SetAside,
        on_change: Callable[[], None],
        on_alarm: Callable[[str], None],
    ) -> None:
        """Make a fleet without programs. ``beginnings`` is what an earlier worker has left of them."""
        self.members: dict[str, Member] = {}
        self.wanted: dict[str, ProgramConfig] = {}
        self._led: set[str] = set()
        """The programs that this node leads: every look asks how many they are."""
        self._wanted_by = NOBODY
        self.drained: Suspension | None = None
        """The order that keeps this node from leading anything, as the ledger showed it last."""
        self.wishes = dict(wishes)
        """What operators have ordered of programs, by name: to run or to stop. It outlives this worker."""
        self._pool, self._origin, self._make = pool, origin, make
        self._on_change, self._on_alarm = on_change, on_alarm
        self._inherited, self.aside = Inheritance(beginnings), aside
        self._beginnings: Beginnings | None = None
        """As they were worked out last; None since a change."""
        self._placement = Placement(lambda: pool.listener.leaders)
        self.start_order = StartOrder(self.members, self._placement)
        self._leave_orders = LeaveOrders(self.members, self._placement, pool.listener)
        self._wake = asyncio.Event()
        self._ending: EndOrdered | None = None
        self.ended_with: set[str] = set()
        """The programs that were here when the end began."""
        self.abandoned: set[str] = set()
        """The programs whose children could not be proven dead."""

    @property
    def beginnings(self) -> Beginnings:
        """What programs would begin with under the next worker."""
        if self._beginnings is None:
            programs = (member.program for member in self.members.values())
            self._beginnings = self._inherited.left(programs, self.wanted, self.wishes)
        return self._beginnings

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
        self._inherited.take_up(programs.values())
        self.start_order.want(self.wanted)
        self.aside.want(self.wanted)
        for name, member in self.members.items():
            if member.set_aside and not self.aside.why(name):
                member.recalled.set()
        self._wake.set()
        self._note_change()

    @property
    def ending(self) -> bool:
        """Whether everything is being drained for good."""
        return self._ending is not None

    def end(self, by: Author = NOBODY) -> None:
        """Drain everything: no program is wanted any more."""
        if self._ending is None:
            self._ending, self.ended_with = EndOrdered(Cause.SHUTDOWN, by), {*self.wanted, *self.members}
        self.want({})

    def hasten(self) -> None:
        """Have no program lead on that is to leave and waits for its turn, now or later."""
        self._leave_orders.hasten()

    def adopt(self, found: Found, config: ProgramConfig | None) -> None:
        """Go on with a child of an earlier worker. Without a configuration it is only ended."""
        with self._handling(found.child.program):
            self._adopt(found, config)

    def _adopt(self, found: Found, config: ProgramConfig | None) -> None:
        child, report = found.child, found.report
        try:
            if died_of := self.aside.quarantine(child.program):
                raise ValueError(died_of)
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
            self._beginnings = None
        self._leave_orders.give(member, order)
        if isinstance(order, StartOrdered):
            member.recalled.set()
            if self.aside.lift(name):
                self._origin.guardian.lift(name)

    def lift(self, name: str, by: Author) -> None:
        """Forget that an operator has stopped a program here. It contends again, unless the file says otherwise."""
        member, config = self.members.get(name), self.wanted.get(name)
        if member is None or config is None or self.wishes.get(name) is not Want.STOP:
            return
        if config.autostart:
            self.order(name, StartOrdered(by))
        del self.wishes[name]
        self._beginnings = None

    def suspend(self, everywhere: Mapping[int, Suspension], drained: Suspension | None) -> None:
        """Follow the orders that the ledger shows at present: those by lock id, and the one for this node."""
        if self.drained is not None and drained != self.drained:
            self._leave_orders.resume(self.drained)
        self.drained = drained
        for member in self.members.values():
            suspension = everywhere.get(member.lock_id, drained)
            if suspension == member.program.situation.suspension:
                continue
            self._leave_orders.give(member, Resumed() if suspension is None else Suspended(suspension))

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
        return self._placement.peers(program, len(self._led), self.start_order.missing(program))

    def _note_change(self) -> None:
        self._beginnings = None
        self._on_change()

    def _changed(self, name: str) -> None:
        self._note_change()
        self._note_term(name)
        self.start_order.follow(name)
        self._leave_orders.follow(name)

    def _note_term(self, name: str) -> None:
        (self._led.add if self.is_led(name) else self._led.discard)(name)

    def abandon_unprovable(self) -> None:
        """Abandon each program whose child cannot be proven dead any more: its lease ends without a release."""
        if not self._origin.guardian.absence:
            return
        for member in self.members.values():
            child = member.program.child
            if child is not None and (why := child.unprovable):
                self._kill_what_is_left(child.number)
                log.error(
                    "%s: cannot confirm that its child is dead (%s); not releasing: other nodes wait for the lease",
                    member.program.name,
                    why,
                )
                self.abandoned.add(member.program.name)
                if member.task is not None:
                    member.task.cancel()

    def _kill_what_is_left(self, number: int) -> None:
        """Kill everything in a child's cgroup, where there is one: no keeper does it any more."""
        parent = cgroup.own()
        if parent is not None and number:
            cgroup.kill(f"{parent}/{cgroup.name(self._make.instance, number)}")

    def is_led(self, name: str) -> bool:
        """Return whether this node leads a program."""
        member = self.members.get(name)
        return member is not None and member.program.term is not None

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
        until, why = self._inherited.take_pause(name)
        if want is Want.RUN and until > now:
            return replace(situation, state=Backoff(min(until, now + config.backoff_max)), reason=why)
        return replace(situation, reason=self._inherited.stop(name) if self.wishes.get(name) is Want.STOP else "")

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
        if config is None or (self.aside.barred(config.name) and not self._stays_away(member)):
            self._end(member, self._ending or EndOrdered(Cause.REMOVED, by))
        elif lock_id != member.lock_id or changes.needs_new_child(member.spawner.config, config):
            self._end(member, self._ending or EndOrdered(Cause.CHANGED, by))
        elif keys:
            member.spawner.follow(config)
            member.prober.apply(config)
            member.program.follow(self._make.policy(config, self._inherited.schedule(config)))

    def _end(self, member: Member, order: EndOrdered) -> None:
        if member.note_end(order):
            self._leave_orders.give(member, order)

    def _member(self, config: ProgramConfig, situation: Situation, lock_id: int) -> Member:
        name = config.name
        member = self.members[name] = self._make.member(
            config,
            replace(situation, failures=self._inherited.take_failures(name)),
            lock_id,
            schedule=self._inherited.schedule(config),
            last_exit=self._inherited.last_exit(name),
            on_change=lambda: self._changed(name),
            peers=lambda: self._peers(name),
        )
        self._note_term(name)
        self._beginnings = None
        return member

    def _stays_away(self, member: Member) -> bool:
        """Return whether a program began with a configuration that keeps it from this node."""
        return member.program.child is None and self._origin.node in member.spawner.config.never

    async def _live(self, member: Member) -> None:
        name = member.program.name
        try:
            if member.program.child is None and self.aside.why(name):
                await self.aside.stay(member)
            else:
                await member.program.run(member.session)
        except Exception as error:  # noqa: BLE001 - one program's trouble ends at that program
            await self.aside.contain(member, error)
        finally:
            quietly(member.spawner.close)()
            self._inherited.note(member.program)
            del self.members[name]
            self._note_term(name)
            self._leave_orders.follow(name)
            self._wake.set()
            self._note_change()


def _leaving(name: str) -> ProgramConfig:
    """Return what stands for the configuration of a program that has none, and is only ended."""
    return ProgramConfig(name=name, command=("true",))
