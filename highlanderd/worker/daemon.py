"""The worker: wires programs, PostgreSQL, listeners and signals together, reloads, and ends in good order.

It may die at any moment: the guardian starts another one, which finds the children alive and takes their locks back
before their leases end. So nothing that must outlive it is kept here alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from highlanderd import __version__
from highlanderd.children.guardian_link import Greeting, GuardianLink
from highlanderd.children.spawn import Origin
from highlanderd.config import Configuration, Loaded, load
from highlanderd.core.events import ReleaseOrdered, RestartOrdered, StartOrdered, StopOrdered
from highlanderd.core.status import LeaseReport, MigrationReport, NodeStatus, ProgramDetail
from highlanderd.embedded.server import dsn_of, hold
from highlanderd.errors import HighlanderError, NoSuchProgram, NotLeading
from highlanderd.guardian.channel import Channel
from highlanderd.listeners.control import serve_control
from highlanderd.listeners.metrics import Metrics, serve_metrics
from highlanderd.listeners.opening import Door, Doors
from highlanderd.listeners.orders import ReloadReport
from highlanderd.output.log import log_through, on_journal
from highlanderd.output.streams import Writer
from highlanderd.postgres import lease_change
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Leader
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.server import Server
from highlanderd.system.linux import boottime
from highlanderd.threads import in_thread
from highlanderd.worker import snapshot
from highlanderd.worker.fleet import Fleet, Member
from highlanderd.worker.handover import WorkerHandover, begin
from highlanderd.worker.notices import Notices, summary

log = logging.getLogger(__name__)

SURVEY_WITHIN: Final = 0.5
"""Seconds that a question for the present leaders may take; what is known then is shown."""
KEEP_WITHIN: Final = 1.0
"""Seconds for the last write of what was seen of servers."""
ALARM_SHOWN: Final = 3600.0
"""Seconds for which an alarm stays in ``status``."""


class Daemon:
    """One worker's life. It is the Node that control and metrics see."""

    def __init__(
        self, path: Path, handover: WorkerHandover, guardian: GuardianLink, greeting: Greeting, writer: Writer
    ) -> None:
        self._path, self._handover, self._guardian, self._greeting = path, handover, guardian, greeting
        self._remembered: WorkerHandover | None = None
        self._group: asyncio.TaskGroup | None = None
        self._reloads = 0
        self._alarms: dict[str, float] = {}
        self._doors = Doors(self._listeners())
        self._unkillable: frozenset[str] = frozenset()
        """Programs of which it was logged that their trees do not die."""
        self._changed = asyncio.Event()
        self._survey: asyncio.Future[None] | None = None
        self._keeping: asyncio.Future[None] | None = None
        self._exit_code = 0
        self._turned = boottime()
        self._wake = asyncio.Event()
        """The next cycle is due at once: the ledger has another lease, or a drain begins."""
        self._notices = Notices(guardian.notify)
        configuration = self.configuration
        self.metrics = Metrics(self)
        self.pool = _pool(configuration, handover)
        self.pool.server.on_alarm = self.alarm
        self.pool.server.on_lease = self._wake.set
        self.pool.listener.on_survey = self._note_duplicates
        self._surveyed: Mapping[int, Leader] = {}
        origin = Origin(
            guardian=guardian,
            writer=writer,
            node=configuration.daemon.node,
            namespace=configuration.daemon.namespace,
            socket=configuration.control.socket,
            environ=os.environ,
            count=self.metrics.output_lines,
            killed=self.metrics.killed,
        )
        self.fleet = Fleet(
            self.pool,
            origin,
            instance=greeting.instance,
            on_connection_loss=configuration.postgres.on_connection_loss,
            recorder=self.metrics,
            on_change=self._note_change,
            on_alarm=self.alarm,
        )

    @property
    def configuration(self) -> Configuration:
        """What is in force as long as the daemon lives: all but the programs."""
        return self._handover.configuration

    async def run(self) -> int:
        """Live until everything is drained; gives the exit code."""
        self._adopt()
        self._guardian.on_signal = self._signalled
        self._guardian.on_lost = self._guardian_lost
        if self._guardian.lost:
            self._guardian_lost()
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as group:
            self._group = group
            background = [
                group.create_task(self.pool.run()),
                group.create_task(self._beat()),
                group.create_task(self._doors.open(opened, self._notices.ready)),
            ]
            if self._greeting.draining:
                self.shutdown()
            for name in self._greeting.signals:
                self._signalled(name)
            await self.fleet.run()
            for task in background:
                task.cancel()
        await self._keep_last_memory()
        return self._exit_code

    def _adopt(self) -> None:
        """Take over what an earlier worker left: children, wishes, and the configuration that was in force."""
        self.fleet.wishes = dict(self._handover.wishes)
        programs = self._handover.programs
        self.fleet.want(programs)
        for found in self._greeting.found:
            self.fleet.adopt(found, programs.get(found.child.program))

    # ----------------------------------------------------------------------------------------------------- listeners

    def _listeners(self) -> list[Door]:
        control, metrics = self.configuration.control, self.configuration.metrics
        doors: list[Door] = [lambda: serve_control(self, control.socket, control.mode, control.group)]
        if metrics.listen:
            doors.append(lambda: serve_metrics(self, self.metrics, metrics.listen, self.alive))
        return doors

    # ----------------------------------------------------------------------------------------------------- the beat

    async def _beat(self) -> None:
        """Show the guardian that the loop turns, and look after keepers, several times within 3/10 of a lease."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            lease = self._shortest_lease()
            self._notify()  # before the sign of life: to systemd, an extension is one of the watchdog, too
            if not self._guardian.ping(lease) and not self._guardian.lost and not self._exit_code:
                log.error("the guardian does not answer: it is frozen; draining everything")
                self._exit_code = 1
                self.shutdown()
            self._guardian.check(boottime(), lease)
            self._remember()
            self._keep_memory()
            self._turned = boottime()
            due = loop.time() + lease / 10
            with suppress(TimeoutError):
                async with asyncio.timeout(lease / 10):
                    await self._wake.wait()
            self.metrics.loop_lag(max(0.0, loop.time() - due))
            self._abandon()
            self._note_unkillable()

    def _shortest_lease(self) -> float:
        """Return the shortest lease that anything rests on, in seconds: a frozen process must be noticed within it."""
        terms = (member.program.term for member in self.fleet.members.values())
        return min(
            [self.pool.server.lease.length, *(term.lengths.trusted.length for term in terms if term is not None)]
        )

    def alive(self) -> bool:
        """Whether the loop has turned within 3/10 of a lease."""
        return boottime() - self._turned < 0.3 * self.pool.server.lease.length

    def _remember(self) -> None:
        """Hand the guardian what the next worker must know, whenever it has changed."""
        server, wishes = self.pool.server, self.fleet.wishes
        known = (self._handover.wishes, self._handover.seen_ledger, self._handover.memory)
        memory = server.memory.facts()
        if known != (wishes, server.seen_ledger, memory):
            self._handover = replace(self._handover, wishes=dict(wishes), seen_ledger=server.seen_ledger, memory=memory)
        if self._handover is not self._remembered:
            try:
                self._guardian.remember(self._handover.encode())
            except OSError as error:
                log.error("cannot hand over what a next worker must know: %s; trying again", error.strerror)
            else:
                self._remembered = self._handover

    def _keep_memory(self) -> None:
        """Write what was seen of servers, beside everything else: a disk that hangs must hold nothing up."""
        memory = self.pool.server.memory
        if memory.unkept and (self._keeping is None or self._keeping.done()):
            self._keeping = in_thread(memory.keep, "past")

    async def _keep_last_memory(self) -> None:
        """Write what was seen since the last beat; a disk that hangs does not keep the daemon from ending."""
        memory = self.pool.server.memory
        if memory.unkept:
            await asyncio.wait([in_thread(memory.keep, "past")], timeout=KEEP_WITHIN)

    def _notify(self) -> None:
        """Show the service manager how things stand, and that a drain goes on: however long, it is never cut short."""
        members = self.fleet.members.values()
        states = (member.program.state for member in members)
        self._notices.status(summary(states, "" if self.pool.connected else self.pool.trouble))
        if self.fleet.ending and members:
            self._notices.draining()

    def _signalled(self, name: str) -> None:
        if name in ("TERM", "INT", "QUIT"):
            log.info("SIG%s: draining everything", name)
            self.shutdown()
        elif name == "HUP" and self._group is not None:
            self._group.create_task(self._reload_by_signal())

    async def _reload_by_signal(self) -> None:
        with suppress(HighlanderError):  # it has been logged
            await self.reload(dry_run=False)

    def _guardian_lost(self) -> None:
        log.error("the guardian has died: draining everything in good order")
        self._exit_code = 1
        self.shutdown()

    def _abandon(self) -> None:
        """Give up children whose death nobody can prove any more: their leases end without a release."""
        for member in self.fleet.members.values():
            child = member.program.child
            if child is not None and child.unprovable:
                self.fleet.abandon(member)

    # ---------------------------------------------------------------------------------------------- the Node protocol

    def status(self) -> NodeStatus:
        """Show the node, from memory."""
        node = self.configuration.daemon.node
        programs = (snapshot.program_status(self.fleet.members[name], self.pool, node) for name in self._names())
        return NodeStatus(
            node=node,
            instance=self._greeting.instance,
            version=__version__,
            postgres=snapshot.postgres_status(self.pool, self._connections()),
            programs=tuple(programs),
            warnings=self._warnings(),
            maintenance=None if self.pool.listener.facts is None else self.pool.listener.facts.maintenance,
        )

    def _connections(self) -> int:
        return sum(member.session.connected for member in self.fleet.members.values()) + self.pool.listener.connected

    def _names(self) -> list[str]:
        """In the order of the file; those that are leaving come last."""
        members = self.fleet.members
        return [name for name in self.fleet.wanted if name in members] + [
            name for name in members if name not in self.fleet.wanted
        ]

    def _warnings(self) -> tuple[str, ...]:
        now = boottime()
        self._alarms = {text: at for text, at in self._alarms.items() if now - at < ALARM_SHOWN}
        unkillable = (text for _, text in snapshot.unkillable(self.fleet.members.values()))
        return (*sorted(self.pool.server.warnings), *sorted(self._doors.shut), *unkillable, *self._alarms)

    def _note_unkillable(self) -> None:
        """Say once of each program that its tree does not die."""
        unkillable = dict(snapshot.unkillable(self.fleet.members.values()))
        for name in unkillable.keys() - self._unkillable:
            log.warning("%s", unkillable[name], extra={"program": name})
        self._unkillable = frozenset(unkillable)

    def _note_duplicates(self) -> None:
        before, self._surveyed = self._surveyed, self.pool.listener.leaders
        for text in snapshot.divided_keys(self._surveyed, self._greeting.instance):
            self.alarm(text)
        for text in snapshot.duplicate_nodes(
            before, self._surveyed, self.configuration.daemon.node, self._greeting.instance
        ):
            self.alarm(text)

    def alarm(self, text: str) -> None:
        """Log something that an operator must look at, and keep it in ``status`` for an hour."""
        if text not in self._alarms:
            log.error("%s", text)
        self._alarms[text] = boottime()

    async def survey(self) -> None:
        """Refresh who leads what; half a second at most. All who ask at the same time share one question."""
        if self._survey is None or self._survey.done():
            self._survey = asyncio.ensure_future(self.pool.listener.survey())
            self._survey.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([self._survey], timeout=SURVEY_WITHIN)

    def detail(self, name: str) -> ProgramDetail:
        """Show everything about one program. Raises NoSuchProgram."""
        return snapshot.program_detail(self._member(name), self.pool, self.configuration.daemon.node)

    def _member(self, name: str) -> Member:
        member = self.fleet.members.get(name)
        if member is None:
            raise NoSuchProgram.among(name, self.fleet.members)
        return member

    def _led(self, name: str) -> Member:
        member = self._member(name)
        if member.program.state != "leading":
            leader = snapshot.program_status(member, self.pool, "").leader
            where = f"it is led by {leader}: ask there" if leader else "nobody leads it at the moment"
            raise NotLeading(f'"{name}" is {member.program.state} on this node; {where}')
        return member

    def release(self, name: str, to: str | None, stay_out: float) -> None:
        """Order a release. Raises NoSuchProgram, NotLeading, HighlanderError."""
        self._led(name)
        if to == self.configuration.daemon.node:
            raise HighlanderError(f'this node is "{to}" itself; name another node, or use restart')
        self.fleet.tell(name, ReleaseOrdered(to, stay_out))

    def start(self, name: str) -> None:
        """Order that it runs. Raises NoSuchProgram."""
        self._member(name)
        self.fleet.tell(name, StartOrdered())
        self._remember()

    def stop(self, name: str) -> None:
        """Order that it does not run here. Raises NoSuchProgram."""
        self._member(name)
        self.fleet.tell(name, StopOrdered())
        self._remember()

    def restart(self, name: str) -> None:
        """Order a new child. Raises NoSuchProgram, NotLeading."""
        self._led(name)
        self.fleet.tell(name, RestartOrdered())

    async def changed(self) -> None:
        """Return at the next change of any program."""
        await self._changed.wait()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def reload(self, dry_run: bool) -> ReloadReport:
        """Read the configuration again and apply it; a bad file changes nothing. Raises ConfigurationError."""
        if dry_run:
            return ReloadReport(self._changes(await self._loaded()))
        self._reloads += 1
        with self._notices.reload():
            loaded = await self._loaded()
            changes = self._changes(loaded)
            self._handover = replace(self._handover, latest=loaded)
            self.fleet.want(loaded.configuration.programs)
            self._remember()
            self.metrics.reloaded(ok=True)
            for note in (*loaded.warnings, *loaded.findings):
                log.warning("%s", note)
            log.info("reloaded: %s", "; ".join(changes) or "nothing has changed")
            return ReloadReport(changes)

    async def _loaded(self) -> Loaded:
        number = self._reloads
        try:
            loaded = await in_thread(lambda: load(self._path, os.environ), "reload")
            if number != self._reloads:
                raise HighlanderError("a later reload has begun meanwhile, and will have the last word")
        except HighlanderError as error:
            self.metrics.reloaded(ok=False)
            log.error("the configuration was not reloaded:\n%s", error)
            raise
        return loaded

    def _changes(self, loaded: Loaded) -> tuple[str, ...]:
        """Say what wanting this would do."""
        configuration = loaded.configuration
        return (*_kept(self.configuration, configuration), *self.fleet.plan(configuration.programs))

    def shutdown(self) -> None:
        """Drain everything and end. A worker that comes after this one goes on with it."""
        self._guardian.draining()
        if not self.fleet.ending:  # however often it is asked for: the guardian has to answer each cycle's ping
            self._wake.set()
        self.fleet.end()

    async def ledger(self) -> dict[str, object]:
        """Return the ledger's facts. Raises HighlanderError."""
        return await self.pool.listener.shown()

    async def lease_report(self) -> LeaseReport:
        """Return the lengths of leases in force. Raises HighlanderError."""
        return await lease_change.report(self.pool.listener)

    async def set_lease(self, seconds: float, *, force: bool = False) -> LeaseReport:
        """Change the ledger's lease. Raises HighlanderError."""
        await lease_change.set_lease(self.pool.listener, seconds, force=force)
        return await self.lease_report()

    async def maintenance(self, seconds: float | None, *, reason: str, author: str, force: bool = False) -> LeaseReport:
        """Begin maintenance for an outage of so many seconds, or end it. Raises HighlanderError."""
        if seconds is None:
            await lease_change.end_maintenance(self.pool.listener)
        else:
            await lease_change.begin_maintenance(self.pool.listener, seconds, author=author, reason=reason, force=force)
        return await self.lease_report()

    async def migrate(self) -> MigrationReport:
        """Bring the ledger's schema to this daemon's version. Raises HighlanderError."""
        return await self.pool.listener.migrate()


def _pool(configuration: Configuration, handover: WorkerHandover) -> Pool:
    daemon, postgres = configuration.daemon, configuration.postgres
    ledger = Ledger(postgres.schema_, daemon.namespace, postgres.lease)
    dsn = postgres.dsn.get_secret_value()
    directory = configuration.embedded_directory
    fresh = None if directory is None else directory / "fresh"
    dsn = dsn if directory is None else dsn_of(directory)
    memory = NodeMemory(daemon.state_dir / "timelines")
    memory.inherit(handover.memory)
    server = Server(dsn, ledger, node=daemon.node, fresh=fresh, seen_ledger=handover.seen_ledger, memory=memory)
    return Pool(server, ledger)


def _kept(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """Name what a reload cannot change."""
    sections = ("daemon", "postgres", "control", "metrics", "log")
    return tuple(
        f"[{name}] changed: takes effect when the daemon is restarted"
        for name in sections
        if getattr(old, name) != getattr(new, name)
    )


async def serve(path: Path, channel_fd: int, writer: Writer) -> int:
    """Be the worker at the end of ``channel_fd``; gives the exit code.

    Whatever it raises ends this worker only: the guardian starts another, which finds the children alive.
    """
    guardian = GuardianLink(Channel.of(channel_fd))
    greeting = await guardian.greeted()
    handover = begin(path, greeting.memo, os.environ)
    log_settings = handover.configuration.log
    sink = writer.descriptor(2, "standard error")
    log_through(sink, log_settings.level, log_settings.format, journal=on_journal(2, os.environ))
    _hold_embedded(handover.configuration)
    code = await Daemon(path, handover, guardian, greeting, writer).run()
    log.info("everything is drained; ends with code %d", code)
    guardian.done(code)
    return code


def _hold_embedded(configuration: Configuration) -> None:
    """Be a user of the embedded server ourselves: should the guardian die, it must last until we have drained."""
    directory = configuration.embedded_directory
    if directory is not None:
        with suppress(OSError):  # it is about to stop; then there is nothing to hold
            hold(directory)
