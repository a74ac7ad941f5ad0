"""From a program's configuration and a granted term to the request for its child, and to the streams of its output."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.logger_view import LoggerView
from highlanderd.children.messages import SpawnRequest
from highlanderd.config import ProgramConfig, child_environment, identity
from highlanderd.core.effects import Spawn
from highlanderd.core.events import Emptied, Event, Started
from highlanderd.output.streams import Ring, Stream, Writer
from highlanderd.system import way
from highlanderd.threads import in_thread

log = logging.getLogger(__name__)

STANDARD = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where children come from: what is the same for all programs of this node."""

    guardian: GuardianLink
    writer: Writer
    node: str
    namespace: str
    socket: Path
    environ: Mapping[str, str]
    count: Callable[[str, str, int], None]
    """Called with a program, its stream, and how many lines that has written."""
    killed: Callable[[str, str], None]
    """Called with a program whose tree got SIGKILL, and with why."""


class Spawner:
    """Starts the children of one program, and reads what they write."""

    def __init__(self, origin: Origin, config: ProgramConfig) -> None:
        self.config = config
        self.ring = Ring()
        self._origin = origin
        self._streams: list[Stream] = []
        self._view: LoggerView | None = None

    def __call__(self, effect: Spawn, memo: bytes, post: Callable[[Event], None]) -> Child:
        """Start the term's one child, and deliver its events to ``post``.

        The request needs files and the user database, so it is written in a thread.
        """
        config, guardian = self.config, self._origin.guardian
        child = Child(guardian, config.name, config.lock_id(self._origin.namespace), effect.epoch)
        self._deliver(child, post)
        child.start_when(in_thread(lambda: self._request(effect, memo), f"order {config.name}"))
        return child

    def adopt(self, child: Child, post: Callable[[Event], None]) -> None:
        """Read the output of a child that an earlier worker started, and deliver its events to ``post``."""
        self._read(child)
        self._deliver(child, post)

    def follow(self, config: ProgramConfig) -> None:
        """Go by another configuration from the next child on."""
        self.config = config

    def _deliver(self, child: Child, post: Callable[[Event], None]) -> None:
        def take(event: Event) -> None:
            try:
                self._follow_output(child, event)
            except Exception:  # the event counts, whatever becomes of the output
                log.exception("%s: its output cannot be followed", self.config.name)
            post(event)

        child.listen(take, lambda: self._read(child))

    def _follow_output(self, child: Child, event: Event) -> None:
        if isinstance(event, Started | Emptied):
            self._read(child)
        if isinstance(event, Emptied):
            self.close()
            if child.report is not None and child.report.killed is not None:
                self._origin.killed(self.config.name, child.report.killed)

    def close(self) -> None:
        """Read what the pipes still hold, and close them, even if another process has them open, too."""
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.close()
        if self._view is not None:
            self._view.finish()

    def _request(self, effect: Spawn, memo: bytes) -> SpawnRequest:
        config, origin = self.config, self._origin
        lock_id = config.lock_id(origin.namespace)
        who = identity(config)
        return SpawnRequest(
            program=config.name,
            lock_id=lock_id,
            epoch=effect.epoch,
            not_after=effect.not_after,
            deadline=effect.deadline,
            memo=memo,
            argv=config.argv,
            env=child_environment(config, origin.environ) | self._own_variables(effect.epoch, lock_id),
            cwd=None if config.directory is None else str(config.directory),
            umask=config.umask,
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            limits=config.limits,
            nice=config.nice,
            oom_score_adj=config.oom_score_adj,
            no_new_privileges=config.no_new_privileges,
            stdout="null" if config.stdout == "null" else "pipe",
            stderr="null" if config.stderr == "null" else "pipe",
            log=_log(config),
        )

    def _own_variables(self, epoch: int, lock_id: int) -> dict[str, str]:
        return {
            "HIGHLANDER_PROGRAM": self.config.name,
            "HIGHLANDER_NODE": self._origin.node,
            "HIGHLANDER_EPOCH": str(epoch),
            "HIGHLANDER_LOCK_ID": str(lock_id),
            "HIGHLANDER_CONTROL_SOCKET": str(self._origin.socket),
        }

    def _read(self, child: Child) -> None:
        for name, fd in child.pipes().items():
            self._streams.append(self._stream(name, fd))
        report = child.log_report()
        if report is not None:
            self._view_logger(report)

    def _view_logger(self, report: int) -> None:
        if self._view is not None:
            self._view.close()
            self.ring.keep(self._view.lines())
        self._view = LoggerView(report, self.config.name, self._origin.count)
        self.ring.continue_with(self._view.lines)

    def _stream(self, name: str, fd: int) -> Stream:
        config, writer = self.config, self._origin.writer
        where = config.stdout if name == "stdout" else config.stderr

        def count(lines: int) -> None:
            self._origin.count(config.name, name, lines)

        if where != "inherit" and may_write(config, where):
            return Stream(
                fd, writer.file(Path(where), config.log_max_bytes, config.log_backups), self.ring, count=count
            )
        sink = writer.descriptor(STANDARD[name], f"standard {'output' if name == 'stdout' else 'error'}")
        return Stream(fd, sink, self.ring, prefix=f"{config.name}: ", count=count)


EVERY_GROUP = range(1 << 32)


def may_write(config: ProgramConfig, path: str) -> bool:
    """Return whether the worker may write a program's log file, as a guardian that knows no logger lets it.

    It does not where the program's user could have put a link: then the lines go to the daemon's own output.
    """
    if config.user is None:
        return True
    try:
        return way.sheltered(os.fsencode((Path.cwd() / path).parent), EVERY_GROUP)
    except OSError:
        return False


def _log(config: ProgramConfig) -> Mapping[str, object] | None:
    """Return what goes to a logger; what is inherited is written by the worker."""
    where = {"stdout": config.stdout, "stderr": config.stderr}
    files = {name: bytes(Path.cwd() / path) for name, path in where.items() if path not in ("inherit", "null")}
    if not files:
        return None
    return {"files": files, "max_bytes": config.log_max_bytes, "backups": config.log_backups}
