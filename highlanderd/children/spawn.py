"""From a program's configuration and a granted term to the request for its child, and to the streams of its output."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec import Struct

from highlanderd.children import missing_limits
from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.logger_view import Count
from highlanderd.children.messages import SpawnRequest
from highlanderd.children.program_output import ProgramOutput
from highlanderd.children.unlogged import UnloggedPipe
from highlanderd.config import Identity, ProgramConfig, child_environment, identity, looks_elsewhere
from highlanderd.config.limits import cgroup_limits, rlimits
from highlanderd.config.probes import Notify
from highlanderd.core.effects import Occasion, Spawn
from highlanderd.core.events import Emptied, Event, Exited, Started
from highlanderd.durations import rfc_3339
from highlanderd.errors import HighlanderError
from highlanderd.output.writer import Writer
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.threads import in_thread

log = logging.getLogger(__name__)

CONTROL_SOCKET = "HIGHLANDER_CONTROL_SOCKET"
REOPEN_WITHIN = 5.0
"""Seconds; a logger opens its files in less than one, unless their disk hangs."""
LOOK_EVERY = 0.02
"""Seconds between two looks whether it has."""
PREPARED_FOR = 2.0
"""Seconds for which what was looked up for a child counts: a takeover takes less, unless PostgreSQL hangs."""


class Origin(Struct, frozen=True):
    """Where children come from: what is the same for all programs of this node."""

    guardian: GuardianLink
    writer: Writer
    """The daemon's own log, for lines that no logger takes."""
    node: str
    namespace: str
    socket: Path
    environ: Mapping[str, str]
    count: Count
    killed: Callable[[str, str], None]
    """Called with a program whose tree got SIGKILL, and with why."""
    exited: Callable[[str, Child], None]
    """Called with a program and its child whose main process has ended. Its keeper still waits, with the cgroup."""
    starved: Callable[[Child], str] = lambda _: ""
    """Called with a child whose main process got SIGKILL: returns why the kernel had no memory for it, in words; empty
    if that was not why."""
    foreground: Mapping[str, object] | None = None
    """As ``SpawnRequest`` has it. Such a child gets all of ``environ``, and its output needs no logger."""


class Preparation(Struct, frozen=True):
    """What a child needs from files and from the user database, which may take long to answer."""

    config: ProgramConfig
    who: Identity
    environment: Mapping[str, str]
    at: float
    """When it was looked up, in CLOCK_BOOTTIME seconds."""


class Spawner:
    """Starts the children of one program, and follows what they write."""

    def __init__(self, origin: Origin, config: ProgramConfig) -> None:
        self.config = config
        self.output = ProgramOutput(config.name, origin.count)
        self._origin = origin
        self._child: Child | None = None
        """The one whose logger is followed."""
        self._ordered = config
        """What that logger goes by."""
        self._unlogged: list[UnloggedPipe] = []
        self._missing_limits = ""
        """Which limits did not hold for the last child, and why."""
        self._prepared: asyncio.Future[Preparation] | None = None
        self._ahead: Spawn | None = None
        """What a keeper is forked ahead for."""
        self._tried: dict[Occasion, int] = {}
        """The last epoch for which that was tried."""

    def prepare(self, asked: Spawn, occasion: Occasion) -> None:
        """Look up what a child needs, and have its keeper forked ahead: its term may begin within milliseconds.

        ``asked`` is what will be wanted then, but for its times. At each occasion it is tried once for an epoch: each
        client of the database can notify, and a takeover that is asked for again and again meets another session's
        lock.
        """
        first, self._tried[occasion] = self._tried.get(occasion) != asked.epoch, asked.epoch
        if self._ahead is not None and self._ahead.epoch == asked.epoch:
            return
        if self._prepared is None or self._prepared.done():
            self._prepared = self._look_up()
        if first and self._origin.foreground is None and not self.config.hooks:
            self._ahead = asked
            self._prepared.add_done_callback(partial(self._fork_ahead, asked))

    def _fork_ahead(self, asked: Spawn, prepared: asyncio.Future[Preparation]) -> None:
        if self._ahead is asked and not prepared.cancelled() and prepared.exception() is None:
            self._origin.guardian.prepare(self._request(prepared.result(), asked, b"", ""))

    def discard(self) -> None:
        """Have the keeper end that was forked ahead: no term has begun."""
        if self._ahead is not None:
            self._ahead = None
            self._origin.guardian.discard(self.config.lock_id(self._origin.namespace))

    def _look_up(self) -> asyncio.Future[Preparation]:
        config, origin = self.config, self._origin

        def look_up() -> Preparation:
            environment = origin.environ
            if origin.foreground is None:
                environment = child_environment(config, origin.environ) | {CONTROL_SOCKET: str(origin.socket)}
            return Preparation(config, identity(config), environment, boottime())

        if not looks_elsewhere(config):
            found: asyncio.Future[Preparation] = asyncio.get_running_loop().create_future()
            found.set_result(look_up())
            return found
        return in_thread(look_up, f"prepare {config.name}")

    def __call__(self, effect: Spawn, memo: bytes, post: Callable[[Event], None], cause: str = "") -> Child:
        """Start the term's one child, and deliver its events to ``post``. ``cause`` is why the last term ended."""
        config, guardian = self.config, self._origin.guardian
        self._ordered, self._ahead = config, None
        child = Child(guardian, config.name, config.lock_id(self._origin.namespace), effect.epoch)
        self._deliver(child, post)
        ahead, self._prepared = self._prepared, None
        if ahead is not None and ahead.done() and not ahead.exception() and self._is_fresh(ahead.result()):
            child.start(self._request(ahead.result(), effect, memo, cause))
        else:
            child.start_when(asyncio.get_running_loop().create_task(self._written(ahead, effect, memo, cause)))
        return child

    def _is_fresh(self, prepared: Preparation) -> bool:
        return prepared.config is self.config and boottime() - prepared.at <= PREPARED_FOR

    async def _written(
        self, ahead: asyncio.Future[Preparation] | None, effect: Spawn, memo: bytes, cause: str
    ) -> SpawnRequest:
        """Write the request once what was prepared for it is there, or what has to be looked up now.

        What failed ahead may work now: only what fails now is a failure.
        """
        prepared = None
        if ahead is not None:
            with suppress(HighlanderError, OSError):
                prepared = await ahead
        if prepared is None or not self._is_fresh(prepared):
            prepared = await self._look_up()
        return self._request(prepared, effect, memo, cause)

    def adopt(self, child: Child, post: Callable[[Event], None]) -> None:
        """Follow the output of a child that an earlier worker started, and deliver its events to ``post``."""
        self._read(child)
        self._deliver(child, post)
        self._order()  # that worker may have died before it passed a change on

    def follow(self, config: ProgramConfig) -> None:
        """Go by this configuration from now on, the present child's logger included."""
        self.config = config
        if self._child is not None and self._child.kept:
            self._order()

    def _order(self) -> None:
        order = self._log(self.config)
        if self._child is not None and order is not None:
            self._ordered = self.config
            self._origin.guardian.order_log(self._child, order)

    async def reopen(self) -> bool:
        """Have the logger open its files anew, and wait until it has. Return whether there are any.

        Raises HighlanderError when one cannot be opened, or no answer comes.
        """
        targets = {self.config.stdout, self.config.stderr}
        if self._child is None or targets <= {"inherit", "null"}:
            return False
        former = self.output.reopened
        self._origin.guardian.reopen_log(self._child)
        try:
            async with asyncio.timeout(REOPEN_WITHIN):
                while self.output.reopened == former:  # noqa: ASYNC110 - what is waited for is another process' memory
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            raise HighlanderError(
                f"its logger has not answered for {REOPEN_WITHIN:g} s, because a disk hangs, it waits for a reader, or "
                "the daemon was started before an upgrade; the order stands: look at the files again"
            ) from None
        if troubles := self.output.troubles:
            told = "; ".join(f"cannot open {path}: {why}" for path, why in troubles.items())
            raise HighlanderError(f"{told}; mend that, and give the order again")
        return True

    def _deliver(self, child: Child, post: Callable[[Event], None]) -> None:
        self._child = child

        def take(event: Event) -> None:
            try:
                event = self._follow(child, event)
            except Exception:  # the event counts, whatever else fails
                log.exception("%s: %s of its child cannot be followed", self.config.name, type(event).__name__)
            post(event)

        child.listen(take, lambda: self._read(child))

    def _follow(self, child: Child, event: Event) -> Event:
        """Take an event in. Return it, with what this node alone knows of the end."""
        if isinstance(event, Exited):
            if event.status & 0x7F == signal.SIGKILL and (child.report is None or child.report.killed is None):
                event = replace(event, starved=self._origin.starved(child))
            self._origin.exited(self.config.name, child)
        if isinstance(event, Started | Emptied):
            self._read(child)
        if isinstance(event, Started) and self.config.hooks and child.report and child.report.hooks is None:
            log.warning("%s: its keeper is too old for hooks; restart the daemon after this upgrade", self.config.name)
        if isinstance(event, Started):
            self._warn_of_limits(child)
        if isinstance(event, Started) and self._ordered is not self.config:
            self._order()  # it has changed while the child was being started
        if isinstance(event, Emptied):
            self.close()
            if child.report is not None and child.report.killed is not None:
                self._origin.killed(self.config.name, child.report.killed)
        return event

    def _warn_of_limits(self, child: Child) -> None:
        """Log which limits do not hold, once for each reason: a program may be started again and again."""
        before, self._missing_limits = self._missing_limits, missing_limits.reason(self.config, child)
        if self._missing_limits and self._missing_limits != before:
            name = self.config.name
            log.warning("%s runs without a limit: %s", name, self._missing_limits, extra={"program": name})

    def close(self) -> None:
        """Follow no child any more."""
        self._child = None
        pipes, self._unlogged = self._unlogged, []
        for pipe in pipes:
            pipe.close()
        self.output.finish()

    def _request(self, prepared: Preparation, effect: Spawn, memo: bytes, cause: str) -> SpawnRequest:
        config, who = prepared.config, prepared.who
        lock_id = config.lock_id(self._origin.namespace)
        return SpawnRequest(
            program=config.name,
            lock_id=lock_id,
            epoch=effect.epoch,
            not_after=effect.not_after,
            deadline=effect.deadline,
            memo=memo,
            argv=config.argv,
            env={**prepared.environment, **self._own_variables(effect, lock_id)},
            cwd=None if config.directory is None else str(config.directory),
            umask=config.umask,
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            limits=rlimits(config.limits),
            nice=config.nice,
            oom_score_adj=config.oom_score_adj,
            no_new_privileges=config.no_new_privileges,
            stdout="null" if config.stdout == "null" else "pipe",
            stderr="null" if config.stderr == "null" else "pipe",
            log=self._log(config),
            foreground=self._origin.foreground,
            notify=config.notifies,
            hooks=config.hooks,
            hook_timeout=config.hook_timeout,
            cause=cause if config.hooks else "",
            cgroup_limits=cgroup_limits(config.limits),
        )

    def _log(self, config: ProgramConfig) -> Mapping[str, object] | None:
        return _log(config) if self._origin.foreground is None else None

    def _own_variables(self, effect: Spawn, lock_id: int) -> dict[str, str]:
        watched, scheduled = isinstance(self.config.alive, Notify), effect.scheduled
        return {
            **({"WATCHDOG_USEC": str(round(self.config.alive_timeout * 1e6))} if watched else {}),
            **({} if scheduled is None else {"HIGHLANDER_SCHEDULED_AT": rfc_3339(scheduled, "seconds")}),
            "HIGHLANDER_PROGRAM": self.config.name,
            "HIGHLANDER_NODE": self._origin.node,
            "HIGHLANDER_EPOCH": str(effect.epoch),
            "HIGHLANDER_LOCK_ID": str(lock_id),
        }

    def _read(self, child: Child) -> None:
        self._unlogged += [UnloggedPipe(fd, self.config.name, self._origin.writer) for fd in child.pipes().values()]
        report = child.log_report()
        if report is not None:
            self.output.follow(report)


def _log(config: ProgramConfig) -> Mapping[str, object] | None:
    """Return the order for the child's logger; None when it has no output."""
    where = {"stdout": config.stdout, "stderr": config.stderr}
    files = {name: bytes(Path.cwd() / path) for name, path in where.items() if path not in ("inherit", "null")}
    inherit = [name for name, path in where.items() if path == "inherit"]
    if not files and not inherit:
        return None
    return {
        "files": files,
        "inherit": inherit,
        "max_bytes": config.log_max_bytes,
        "backups": config.log_backups,
        "compress": config.log_compress,
        "timestamps": config.log_timestamps,
        "format": config.log_format,
        "overflow": config.log_overflow,
    }
