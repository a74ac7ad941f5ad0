"""The worker: makes its parts, runs them, and ends in good order.

It may die at any moment: the guardian starts another one, which finds the children alive and takes their locks back
before their leases end. So nothing that must outlive it is kept here alone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Collection
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import uvloop

from highlanderd.children.guardian_link import Greeting, GuardianLink
from highlanderd.children.spawn import Origin
from highlanderd.config import Configuration, Loaded, dsn_anew, load
from highlanderd.core.states import NOBODY, Author
from highlanderd.core.status import DaemonProcess
from highlanderd.embedded.server import hold
from highlanderd.errors import DONE, HighlanderError, enumerated
from highlanderd.guardian import cgroup
from highlanderd.guardian.channel import Channel
from highlanderd.listeners import library
from highlanderd.listeners.metrics import Metrics
from highlanderd.listeners.opening import Door, Doors
from highlanderd.output import journal
from highlanderd.output.log import log_through
from highlanderd.output.writer import Writer
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.presence import SOON, Presence
from highlanderd.postgres.sharing import SESSIONS
from highlanderd.postgres.standing import StandingReader
from highlanderd.postgres.suspensions import Suspensions
from highlanderd.system import linux
from highlanderd.worker import missing_limits, unkillable
from highlanderd.worker.alarms import Alarms
from highlanderd.worker.aside import SetAside
from highlanderd.worker.beat import Beat
from highlanderd.worker.chronicle import Chronicle
from highlanderd.worker.connecting import ledger_of, server
from highlanderd.worker.duplicates import Duplicates
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.handover import WorkerHandover, begin
from highlanderd.worker.making import MemberMaker
from highlanderd.worker.meter import Meter
from highlanderd.worker.next_change import Changes
from highlanderd.worker.node import WorkerNode
from highlanderd.worker.notices import Notices
from highlanderd.worker.persistence import Persistence
from highlanderd.worker.presence import WorkerPresence
from highlanderd.worker.quiet import quietly
from highlanderd.worker.reloading import Reloading
from highlanderd.worker.replacement import WorkerReplacement
from highlanderd.worker.spare import own_command

log = logging.getLogger(__name__)

LAST_WORDS_WITHIN: Final = 0.5
"""Seconds for the last lines of the log of a worker that gives way to another one; leases run meanwhile."""
LOOK_AGAIN: Final = 0.02
"""Seconds between two looks whether the guardian has read what it was sent."""
YIELDED_WITHIN: Final = 0.0005
"""Seconds after which a thread lets the event loop go on. Each call of the loop into the kernel gives the interpreter
to a thread that computes, if there is one, and Python's own 5 ms would be lost each time."""
COLLECTED_AFTER: Final = 20_000, 5, 2
"""Objects after which garbage is looked for, and how many such times the older ones are looked at. Renewals make none:
with Python's own 700 objects, those of a hundred programs that renew together would have all others looked at again and
again, for up to 0.3 s with a thousand programs."""


class Daemon:
    """One worker's life, from its greeting by the guardian until everything is drained."""

    def __init__(
        self, path: Path, handover: WorkerHandover, guardian: GuardianLink, greeting: Greeting, writer: Writer
    ) -> None:
        self._configuration, self._guardian, self._greeting = handover.configuration, guardian, greeting
        self._writer = writer
        self._exit_code = 0
        self._group: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        """The next round of the beat is due at once: the ledger has another lease, or a drain begins."""
        self._alarms, self._metrics, self._doors = Alarms(), Metrics(), Doors()
        self._meter = Meter(self._greeting.instance, cgroup.own(), self._metrics.oom_killed)
        self._chronicle = Chronicle(handover.configuration.daemon.node)
        self._notices = Notices(guardian.notify)
        self._changes = Changes()
        self._pool = self._make_pool(handover)
        self._fleet = self._make_fleet(handover)
        self._persistence = Persistence(handover, guardian, self._fleet, self._pool.server)
        listener, node = self._pool.listener, self._configuration.daemon.node
        self._presence = WorkerPresence(
            node, greeting.instance, self._configuration.metrics.advertise, self._fleet, os.environ
        )
        self._node = self._make_node(path)
        self._suspensions = Suspensions(listener, node, self._fleet.suspend)
        self._standing = StandingReader(listener, node, self._fleet.place, lambda: self._fleet.start_order.matters)
        self._beat = self._make_beat()

    def _make_pool(self, handover: WorkerHandover) -> Pool:
        """Make the pool, whose server and surveys raise alarms."""
        configuration = self._configuration
        duplicates = Duplicates(configuration.daemon.node, self._greeting.instance, self._alarm)
        ledger = ledger_of(handover)
        made = server(
            handover,
            ledger,
            reread=lambda: dsn_anew(self._persistence.connecting.sources_json(), os.environ),
            on_alarm=self._alarm,
            on_lease=self._wake.set,
        )
        return Pool(made, ledger, Listener(made, ledger, on_survey=duplicates.compare))

    def _alarm(self, text: str) -> None:
        self._alarms.sound(text)
        self._chronicle.tell("alarm", None, reason=text)

    def _origin(self) -> Origin:
        """Return what the children of all programs have in common."""
        return Origin(
            guardian=self._guardian,
            writer=self._writer,
            node=self._configuration.daemon.node,
            namespace=self._configuration.daemon.namespace,
            socket=self._configuration.control.socket,
            environ=os.environ,
            count=quietly(self._metrics.output),
            killed=quietly(self._metrics.killed),
            exited=quietly(self._meter.exited),
            starved=self._meter.starved,
        )

    def _make_fleet(self, handover: WorkerHandover) -> Fleet:
        """Make the fleet, with what an earlier worker left: children, wishes, and the programs that were in force."""
        origin, daemon = self._origin(), self._configuration.daemon
        fleet = Fleet(
            self._pool,
            origin,
            self._make_maker(origin),
            wishes=handover.wishes,
            beginnings=handover.beginnings,
            aside=SetAside(daemon.node, self._greeting.quarantined, on_alarm=self._alarm, on_change=self._changes.note),
            on_change=self._changes.note,
            on_alarm=self._alarm,
        )
        fleet.want(handover.programs)
        for found in self._greeting.found:
            fleet.adopt(found, handover.programs.get(found.child.program))
        return fleet

    def _make_maker(self, origin: Origin) -> MemberMaker:
        postgres = self._configuration.postgres
        return MemberMaker(
            self._pool,
            origin,
            instance=self._greeting.instance,
            on_connection_loss=postgres.on_connection_loss,
            recorder=self._metrics,
            on_alarm=self._alarm,
            tell=self._chronicle.tell,
            session=SESSIONS[postgres.standby_connections],
        )

    def _make_beat(self) -> Beat:
        return Beat(
            self._guardian,
            self._fleet,
            self._pool,
            self._persistence,
            self._notices,
            self._changes,
            wake=self._wake,
            shut=lambda: self._doors.shut,
            on_frozen=self._guardian_frozen,
            on_late=quietly(self._metrics.loop_lag),
        )

    def _make_reloading(self, path: Path) -> Reloading:
        return Reloading(
            path,
            self._configuration,
            self._fleet,
            self._persistence,
            self._notices,
            on_reloaded=self._metrics.reloaded,
        )

    def _make_replacement(self) -> WorkerReplacement:
        return WorkerReplacement(
            self._configuration.daemon.node,
            own_command(),
            self._fleet,
            self._persistence,
            self._guardian,
            on_connection_loss=self._configuration.postgres.on_connection_loss,
            end=self._give_way,
        )

    def _make_node(self, path: Path) -> WorkerNode:
        """Make what the listeners are given, which reloads from ``path``."""
        return WorkerNode(
            self._configuration.daemon.node,
            self._greeting.instance,
            self._fleet,
            self._pool,
            self._persistence,
            self._make_reloading(path),
            self._make_replacement(),
            self._changes,
            self._meter,
            self._presence,
            chronicle=self._chronicle,
            guardian=DaemonProcess(os.getppid(), self._greeting.version),
            obedient=self._configuration.control.remote,
            warnings=self._warnings,
            end=self._drain,
        )

    async def _show_presence(self) -> None:
        """Tell the other nodes of this one, until cancelled."""

        def change() -> asyncio.Event:
            return self._changes.next

        def pressed() -> bool:
            return self._pool.pressed

        presence = Presence(
            self._pool.server, self._pool.listener, present=self._presence.now, change=change, pressed=pressed
        )
        await asyncio.sleep(SOON)  # the programs ask for their connections first
        while pressed():  # noqa: ASYNC110 - many facts: a look at the host takes turns from what takes the locks back
            await asyncio.sleep(SOON)
        async with asyncio.TaskGroup() as group:
            group.create_task(presence.run())
            group.create_task(self._presence.watch_host(change, self._changes.note))

    async def run(self) -> int:
        """Live until everything is drained; return the exit code."""
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as group:
            self._group = group
            background = [
                group.create_task(self._pool.run()),
                group.create_task(self._show_presence()),
                group.create_task(self._suspensions.run()),
                group.create_task(self._standing.run()),
                group.create_task(self._node.commands.run()),
                group.create_task(self._beat.run()),
                group.create_task(_fail_with(self._guardian)),
                group.create_task(self._open_doors(opened)),
            ]
            if self._greeting.draining:
                self._drain()
            self._guardian.listen(self)
            await self._fleet.run()
            for task in background:
                task.cancel()
        await self._persistence.write_last()
        log.info("%s; ends with code %d", drained(self._fleet.abandoned), self._exit_code)
        return self._exit_code

    async def _open_doors(self, opened: AsyncExitStack) -> None:
        """Open the listeners. A worker that has to import their library first lets programs begin."""
        if not library.imported():
            await asyncio.sleep(SOON)
            library.bring()
        await self._doors.open(self._listeners(), opened, self._notices.ready)

    def _listeners(self) -> list[Door]:
        from highlanderd.listeners.control import serve_control
        from highlanderd.listeners.health import serve_health

        control, metrics = self._configuration.control, self._configuration.metrics
        doors: list[Door] = [
            lambda: serve_control(self._node, control.socket, control.mode, control.group, self._guardian.lend)
        ]
        if metrics.listen:
            doors.append(
                lambda: serve_health(
                    self._node, self._metrics, metrics.listen, lambda: self._beat.regular, self._guardian.lend
                )
            )
        return doors

    def _warnings(self) -> tuple[str, ...]:
        trees = unkillable.sentences(self._fleet.members.values()).values()
        without_limits = missing_limits.sentences(self._fleet.members.values())
        notes = sorted(self._pool.server.notes.warnings)
        return (*notes, *sorted(self._doors.shut), *trees, *without_limits, *self._alarms.recent())

    # ------------------------------------------------------------------------------------------------- how it ends

    def _drain(self, by: Author = NOBODY) -> None:
        """Drain everything and end; at once when it is asked for again. A later worker goes on with it."""
        self._guardian.draining()
        if self._fleet.ending:
            self._fleet.hasten()
        else:  # however often it is asked for: the guardian has to answer each round's ping
            self._wake.set()
        self._fleet.end(by)

    def _drain_at_once(self) -> None:
        self._fleet.hasten()
        self._drain()

    def _give_way(self) -> None:
        """Write the log, and end at once, as a worker may at any moment: the guardian starts the next one.

        Not once a drain has begun: no next one is needed. Not before the guardian has read everything: one that does
        not read starts none, and if it is frozen, this worker drains everything. And not before a reload is over that
        is under way: it would be lost without a word.
        """
        if self._fleet.ending:
            return
        if self._guardian.unread or self._node.reloading:
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._give_way)
            return
        self._writer.close(LAST_WORDS_WITHIN)
        os._exit(DONE)

    def signalled(self, name: str) -> None:
        """Act on a signal that the guardian has passed on."""
        if name in ("TERM", "INT", "QUIT"):
            log.info("SIG%s: draining everything", name)
            self._drain()
        elif name == "HUP" and self._group is not None:
            self._group.create_task(self._reload_by_signal())

    async def _reload_by_signal(self) -> None:
        with suppress(HighlanderError):  # it has been logged
            await self._node.reload(dry_run=False)

    def guardian_lost(self) -> None:
        """Drain everything, because the guardian has died."""
        log.error("the guardian has died: draining everything, and ending")
        self._exit_code = 1
        self._drain_at_once()

    def _guardian_frozen(self) -> None:
        if not self._exit_code:
            log.error("%s: it is frozen; draining everything, and ending", self._guardian.absence)
            self._exit_code = 1
            self._drain_at_once()


def drained(abandoned: Collection[str]) -> str:
    """Return the sentence about what was drained.

    >>> drained([]), drained(["beat"])
    ('everything is drained', 'everything is drained but beat: not released, so other nodes wait for its lease')
    """
    if not abandoned:
        return "everything is drained"
    its = "its lease" if len(abandoned) == 1 else "their leases"
    return f"everything is drained but {enumerated(sorted(abandoned))}: not released, so other nodes wait for {its}"


async def _fail_with(guardian: GuardianLink) -> None:
    """End this worker when the guardian has sent what cannot be read: another one listens anew."""
    await guardian.failed


def work(path: Path, channel_fd: int, known: Loaded | None = None) -> int:
    """Be the worker at the end of ``channel_fd``; return the exit code. Its process has imported what it needs.

    ``known`` is the configuration that this process, or the one that it was forked from, has loaded already.
    """
    gc.enable()
    gc.set_threshold(*COLLECTED_AFTER)
    sys.setswitchinterval(YIELDED_WITHIN)
    writer = Writer(2)
    try:
        return uvloop.run(serve(path, channel_fd, writer, known))
    finally:
        writer.close()


async def serve(path: Path, channel_fd: int, writer: Writer, known: Loaded | None = None) -> int:
    """Be the worker at the end of ``channel_fd``; return the exit code.

    An exception ends this worker only: the guardian starts another, which finds the children alive.
    """
    guardian = GuardianLink(Channel.of(channel_fd))
    greeting = await guardian.greeted()
    handover = begin(path, greeting.memo, os.environ, known).under(greeting.version)
    log_settings = handover.configuration.log
    address = journal.SOCKET if linux.on_journal(2, os.environ) else None
    log_through(writer, log_settings.level, log_settings.format, journal=address)
    _hold_embedded(handover.configuration)
    code = await Daemon(path, handover, guardian, greeting, writer).run()
    guardian.done(code)
    return code


def rehearse(path: Path, handover_fd: int) -> tuple[Loaded, tuple[str, ...]]:
    """Load the handover as a worker would, and the files as a restarted daemon would.

    Return what is in force, which ``work()`` need not load again, and warnings. Something that this machine lacks for
    one program is only a warning: the daemon runs the others. Raises ConfigurationError.
    """
    loaded = load(path, os.environ)
    handover = begin(path, linux.read_whole(handover_fd), os.environ)
    return handover.latest, (*loaded.warnings, *loaded.findings)


def _hold_embedded(configuration: Configuration) -> None:
    """Become a user of the embedded server: should the guardian die, the server must last until we have drained."""
    directory = configuration.embedded_directory
    if directory is not None:
        with suppress(OSError):  # it is about to stop; then there is nothing to hold
            hold(directory)
