"""The worker of a run: the daemon's own pool, fleet and beat around one program, until it has had its one term."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Final

from highlanderd.children.guardian_link import Greeting, GuardianLink
from highlanderd.children.spawn import Origin
from highlanderd.config import ProgramConfig, dsn_anew
from highlanderd.core.states import Draining, Leading, SessionState, Stopped, Waiting
from highlanderd.errors import ConfigurationError, one_line, printable
from highlanderd.guardian.channel import Channel
from highlanderd.output.log import log_through
from highlanderd.output.writer import Writer
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.outage import Down
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.session import Session
from highlanderd.postgres.suspensions import Suspensions
from highlanderd.run.appearance import RunAppearance
from highlanderd.run.command import BUSY, LOST, SIGNALLED, UNREACHABLE, of_status, unstarted
from highlanderd.run.order import CONFIGURATION, RUNNING, RunOrder
from highlanderd.run.outcome import Outcome, of_term
from highlanderd.run.spacing import SpacedSession
from highlanderd.run.waiting import WaitingSession
from highlanderd.system.linux import boottime
from highlanderd.system.proctree import parent
from highlanderd.worker.alarms import Alarms
from highlanderd.worker.aside import SetAside
from highlanderd.worker.beat import Beat
from highlanderd.worker.connecting import ledger_of, server
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.handover import WorkerHandover, begin
from highlanderd.worker.making import MemberMaker
from highlanderd.worker.member import Member
from highlanderd.worker.next_change import Changes
from highlanderd.worker.notices import Notices
from highlanderd.worker.persistence import Persistence

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.02
"""Seconds between two looks whether it is known that the lead has to be waited for."""
KNOWN_WITHIN: Final = 5.0
"""Seconds after which it counts as known: a server that answers does so in less, also on a busy machine."""


class Uncounted:
    """A Recorder that counts nothing: a run has no metrics."""

    def _ignore(self, *_: object, **__: object) -> None:
        """Do nothing."""

    transition = exited = exit_failed = term_ended = took_over = leaderless = skipped = _ignore
    stopped = renewed = renew_failed = reattached = _ignore


class RunWorker:
    """One worker's life, from its greeting by the guardian until the program's term is over."""

    def __init__(
        self,
        order: RunOrder,
        home: Path,
        handover: WorkerHandover,
        guardian: GuardianLink,
        greeting: Greeting,
        writer: Writer,
    ) -> None:
        self._order, self._home, self._guardian, self._greeting = order, home, guardian, greeting
        self._outcome: Outcome | None = None
        """Known as soon as the end begins."""
        self._passed: int | None = None
        """A signal that was passed on to a program that may not have been executed yet."""
        self._led = bool(greeting.found)
        wake, self._alarms, self._changes = asyncio.Event(), Alarms(), Changes()
        self._pool = _pool(handover, self._alarms.sound, wake.set)
        self._config = handover.programs[order.name].model_copy(
            update={"argv": tuple(order.command), "umask": order.umask}
        )
        self._fleet = self._make_fleet(handover, writer)
        self._fleet.want({order.name: self._wanted()})
        for found in greeting.found:
            self._fleet.adopt(found, self._wanted())
        self._persistence = Persistence(handover, guardian, self._fleet, self._pool.server)
        self._suspensions = Suspensions(self._pool.listener, handover.configuration.daemon.node, self._fleet.suspend)
        node = handover.configuration.daemon.node
        self._appearance = RunAppearance(order, node, greeting.instance, self._pool, self._fleet, self._changes)
        self._beat = self._make_beat(wake)

    def _make_beat(self, wake: asyncio.Event) -> Beat:
        return Beat(
            self._guardian,
            self._fleet,
            self._pool,
            self._persistence,
            Notices(lambda _words: None),
            self._changes,
            wake=wake,
            shut=tuple,
            on_frozen=lambda: self._end(Outcome(LOST, f"{self._guardian.absence}: it is frozen")),
            on_late=lambda _seconds: None,
        )

    def _origin(self, handover: WorkerHandover, writer: Writer) -> Origin:
        order, daemon = self._order, handover.configuration.daemon
        return Origin(
            guardian=self._guardian,
            writer=writer,
            node=daemon.node,
            namespace=daemon.namespace,
            socket=handover.configuration.control.socket,
            environ=order.environment,
            count=lambda *_: None,
            killed=lambda *_: None,
            exited=lambda *_: None,
            foreground={"group": order.group, "ignored": order.ignored},
        )

    def _make_fleet(self, handover: WorkerHandover, writer: Writer) -> Fleet:
        origin = self._origin(handover, writer)
        make = MemberMaker(
            self._pool,
            origin,
            instance=self._greeting.instance,
            on_connection_loss="hold",
            recorder=Uncounted(),
            on_alarm=self._alarms.sound,
            session=self._session(),
        )
        return Fleet(
            self._pool,
            origin,
            make,
            wishes=handover.wishes,
            beginnings=handover.beginnings,
            aside=SetAside(origin.node, {}, on_alarm=self._alarms.sound, on_change=self._follow),
            on_change=self._follow,
            on_alarm=self._alarms.sound,
        )

    def _session(self) -> Callable[..., Session]:
        front, every = self._order.front, self._order.every
        if every is None:
            return partial(WaitingSession, front=front)
        return partial(SpacedSession, front=front, every=every, on_recent=self._skip)

    def _wanted(self) -> ProgramConfig:
        """Return the program. A success counts as finished; that another run has finished keeps none from its own."""
        return self._config.model_copy(update={"restart": "on-failure" if self._led else "always"})

    async def run(self) -> Outcome:
        """Live until the term is over, or until there is none to wait for; return how it ended."""
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._pool.run()),
                appearance := group.create_task(self._appearance.run()),
                group.create_task(self._suspensions.run()),
                group.create_task(self._beat.run()),
                group.create_task(_fail_with(self._guardian)),
                group.create_task(self._lose_patience()),
                group.create_task(self._name_trouble()),
            ]
            self._watch_front()
            self._heed_former()
            self._guardian.listen(self)
            await self._fleet.run()
            appearance.cancel()
            await self._appearance.end()
            for task in background:
                task.cancel()
        await self._persistence.write_last()
        return self._outcome or Outcome(LOST, "it was ended before its program was")

    # ------------------------------------------------------------------------------------------------- how it ends

    def _end(self, outcome: Outcome) -> None:
        """End, once for the first reason: drain what runs, wait for nothing else."""
        if self._outcome is None:  # the fleet tells of its end as of any change, which may be a reason to end
            self._outcome = outcome
            self._fleet.end()

    def _skip(self, _ago: float) -> None:
        self._end(Outcome(0))

    def _heed_former(self) -> None:
        """Run nothing a second time: an earlier worker may have died between the program's end and its own."""
        if (self._home / RUNNING).exists() and not self._greeting.found:
            known = self._fleet.beginnings.exits.get(self._order.name)
            lost = Outcome(LOST, "its worker died as the program ended, and nobody knows the exit code")
            self._end(lost if known is None else Outcome(of_status(known[0].status)))

    @property
    def _member(self) -> Member | None:
        return self._fleet.members.get(self._order.name)

    def _follow(self) -> None:
        """Take in what has become of the program."""
        self._changes.note()
        if (member := self._member) is None:
            return
        situation = member.program.situation
        match situation.state:
            case Leading():
                if not self._led:
                    self._led = True
                    self._fleet.want({self._order.name: self._wanted()})
                if member.program.running is not None:
                    (self._home / RUNNING).touch()
            case Draining() as state:
                code = unstarted(self._order.command[0], self._order.environment)
                code = code if self._passed is None else SIGNALLED + self._passed
                self._end(of_term(state, situation.reason, code))
            case Stopped() if self._led:
                self._end(Outcome(LOST, situation.reason))

    async def _lose_patience(self) -> None:
        """End the run when its user does not want to wait longer for the lead."""
        wait = self._order.wait
        if wait is None:
            return
        known_by = boottime() + KNOWN_WITHIN
        await asyncio.sleep(max(0.0, self._order.since + wait - boottime()))
        while not self._led and self._hindrance() is None and boottime() < known_by:  # noqa: ASYNC110 - many facts
            await asyncio.sleep(LOOK_EVERY)
        if not self._led:
            self._end(self._hindrance() or Outcome(UNREACHABLE, self._missing()))

    async def _name_trouble(self) -> None:
        """Say that PostgreSQL is waited for, if it is: nothing else would show."""
        await asyncio.sleep(KNOWN_WITHIN)
        if isinstance(self._pool.state, Down):
            log.error("%s waits: %s", self._order.name, self._missing())

    def _missing(self) -> str:
        reason = "" if self._member is None else self._member.program.situation.reason
        return reason or f"no session with PostgreSQL: {self._pool.last_error or 'not connected yet'}"

    def _hindrance(self) -> Outcome | None:
        """Return why it does not lead, once that is known."""
        if isinstance(self._pool.state, Down) and not self._pool.server.seen_ledger:
            return Outcome(UNREACHABLE, self._missing())
        member = self._member
        situation = None if member is None else member.program.situation
        if situation is None or not situation.reason:
            return None
        match situation.state, situation.session:
            case (Waiting(), SessionState.IDLE) | (Stopped(), _):
                return Outcome(BUSY, situation.reason)
        return None

    # ------------------------------------------------------------------------------------------------ who says so

    def signalled(self, name: str) -> None:
        """Pass a signal on to the program; while there is none, end of those that end a process."""
        number, member = int(Signals[f"SIG{name}"]), self._member
        ends = not name.startswith("USR")
        program = None if member is None else member.program
        if program is not None and program.child is not None:
            if ends or program.running is not None:
                self._passed = number if program.running is None else self._passed
                program.child.signal(number, "main")
        elif ends:
            self._end(Outcome(SIGNALLED + number))

    def guardian_lost(self) -> None:
        """Drain: nobody waits for the exit code any more."""
        self._end(Outcome(LOST, "its guardian has died"))

    def _watch_front(self) -> None:
        """Drain when the command that was typed has died."""
        try:
            front = os.pidfd_open(self._order.front)
        except ProcessLookupError:
            self._lose_front()
            return
        if parent(os.getppid()) != self._order.front:  # its pid may be another process' by now
            self._lose_front()
            return
        asyncio.get_running_loop().add_reader(front, self._lose_front, front)

    def _lose_front(self, front: int | None = None) -> None:
        if front is not None:
            asyncio.get_running_loop().remove_reader(front)
        self._end(Outcome(LOST, "the command that started it was killed"))


async def serve(home: Path, channel_fd: int, writer: Writer) -> int:
    """Be a worker of the run in this directory; return the exit code."""
    guardian = GuardianLink(Channel.of(channel_fd))
    greeting = await guardian.greeted()
    _leave_removed_directory()
    try:
        handover = begin(home / CONFIGURATION, greeting.memo, os.environ).under(greeting.version)
    except ConfigurationError as error:
        print(printable(_without_file(str(error), home)), file=sys.stderr)
        guardian.done(error.exit_code)
        return error.exit_code
    log_through(writer, "error", "text")
    order = RunOrder.read(home)
    outcome = await RunWorker(order, home, handover, guardian, greeting, writer).run()
    if outcome.why:
        with suppress(OSError):  # nobody reads it
            print(one_line(f"highlanderd: {order.name}: {outcome.why}"), file=sys.stderr)
    if parent(os.getppid()) != order.front:
        shutil.rmtree(home, ignore_errors=True)  # the command that was typed would have done it
    guardian.done(outcome.code)
    return outcome.code


def _leave_removed_directory() -> None:
    """Go elsewhere if the caller's directory was removed: nothing can be read by a relative path there."""
    try:
        os.getcwd()  # noqa: PTH109 - pathlib says the same
    except FileNotFoundError:
        os.chdir("/")


def _without_file(problems: str, home: Path) -> str:
    """Return what is wrong with the connection string, without the file of this run: its caller has written none."""
    where = re.escape(str(home / CONFIGURATION))
    return re.sub(rf"^{where}:\d+: postgres\.dsn:", "highlanderd: --dsn or HIGHLANDER_DSN:", problems, flags=re.M)


def _pool(handover: WorkerHandover, on_alarm: Callable[[str], None], on_lease: Callable[[], None]) -> Pool:
    def reread() -> str:
        return dsn_anew(handover.connecting.sources_json(), os.environ)

    ledger = ledger_of(handover)
    made = server(handover, ledger, reread=reread, on_alarm=on_alarm, on_lease=on_lease)
    return Pool(made, ledger, Listener(made, ledger))


async def _fail_with(guardian: GuardianLink) -> None:
    """End this worker when the guardian has sent what cannot be read: another one listens anew."""
    await guardian.failed
