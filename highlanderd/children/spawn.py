"""From a program's configuration and a granted term to the order for its child, and to the pipes of its output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.messages import SpawnRequest
from highlanderd.config import ProgramConfig, child_environment, identity
from highlanderd.core.effects import Spawn
from highlanderd.core.events import Emptied, Event, SpawnFailed, Started
from highlanderd.errors import HighlanderError
from highlanderd.output.streams import Ring, Stream, Writer
from highlanderd.threads import in_thread

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
    """Told the lines of a program's stream."""
    killed: Callable[[str, str], None]
    """Told a program whose tree got SIGKILL, and why."""


class Birth:
    """A child from the moment it is wanted: its order is still being written, by reading files and asking for users.

    Told to stop before the guardian was asked, it is never started, and says so at once.
    """

    def __init__(
        self, written: asyncio.Future[SpawnRequest], ask: Callable[[SpawnRequest], Child], tell: Callable[[Event], None]
    ) -> None:
        self._ask, self._tell = ask, tell
        self._deadline: tuple[float, bytes] | None = None
        self._cancelled = False
        self.child: Child | None = None
        """The guardian's, once it was asked."""
        written.add_done_callback(self._written)

    def _written(self, written: asyncio.Future[SpawnRequest]) -> None:
        if self._cancelled or written.cancelled():
            return
        error = written.exception()
        if error is not None:
            self._fail(str(error) if isinstance(error, HighlanderError) else f"its order cannot be written: {error!r}")
            return
        order = written.result()
        if self._deadline is not None:
            deadline, memo = self._deadline
            order = replace(order, deadline=deadline, memo=memo)
        self.child = self._ask(order)

    def _fail(self, why: str) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._tell(SpawnFailed(why))

    @property
    def pid(self) -> int | None:
        """The main process, once it was forked."""
        return self.child.pid if self.child is not None else None

    @property
    def unprovable(self) -> bool:
        """Nobody is left who could prove that its tree is empty."""
        return self.child is not None and self.child.unprovable

    @property
    def killed_at(self) -> float | None:
        """When its tree first got SIGKILL."""
        return self.child.killed_at if self.child is not None else None

    @property
    def unkillable(self) -> tuple[int, ...]:
        """Its processes that SIGKILL has not ended for a while."""
        return self.child.unkillable if self.child is not None else ()

    def signal(self, signum: int, to: Literal["tree", "main"]) -> None:
        """Send a signal."""
        if self.child is not None:
            self.child.signal(signum, to)
        else:
            self._fail("it was stopped before it was started")

    def kill(self) -> None:
        """SIGKILL to its tree until it is empty."""
        if self.child is not None:
            self.child.kill()
        else:
            self._fail("it was stopped before it was started")

    def set_deadline(self, deadline: float, memo: bytes) -> None:
        """Tell its keeper the deadline."""
        if self.child is not None:
            self.child.set_deadline(deadline, memo)
        else:
            self._deadline = deadline, memo


class Spawner:
    """Starts the children of one program, and reads what they write."""

    def __init__(self, origin: Origin, config: ProgramConfig) -> None:
        self.config = config
        self.ring = Ring()
        self._origin = origin
        self._streams: list[Stream] = []

    def __call__(self, effect: Spawn, memo: bytes, tell: Callable[[Event], None]) -> Birth:
        """Start the term's one child; what becomes of it is told to ``tell``."""
        written = in_thread(lambda: self._order(effect, memo), f"order {self.config.name}")

        def ask(order: SpawnRequest) -> Child:
            child = self._origin.guardian.spawn(order, lambda event: self._told(child, event, tell))
            return child

        return Birth(written, ask, tell)

    def adopt(self, child: Child, tell: Callable[[Event], None]) -> None:
        """Go on reading and hearing of a child that an earlier worker started."""
        self._read(child)
        child.on_pipes = lambda: self._read(child)  # its keeper may be reached later
        child.listen(lambda event: self._told(child, event, tell))

    def _told(self, child: Child, event: Event, tell: Callable[[Event], None]) -> None:
        if isinstance(event, Started):
            self._read(child)
        if isinstance(event, Emptied):
            self._read(child)
            self.close()
            if child.report is not None and child.report.killed is not None:
                self._origin.killed(self.config.name, child.report.killed)
        tell(event)

    def close(self) -> None:
        """Take what the pipes still hold; whoever else has them open does not matter any more."""
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.close()

    def _order(self, effect: Spawn, memo: bytes) -> SpawnRequest:
        config, origin = self.config, self._origin
        lock_id = config.lock_id(origin.namespace)
        who = identity(config)
        environment = child_environment(config, origin.environ) | {
            "HIGHLANDER_PROGRAM": config.name,
            "HIGHLANDER_NODE": origin.node,
            "HIGHLANDER_EPOCH": str(effect.epoch),
            "HIGHLANDER_LOCK_ID": str(lock_id),
            "HIGHLANDER_CONTROL_SOCKET": str(origin.socket),
        }
        return SpawnRequest(
            program=config.name,
            lock_id=lock_id,
            epoch=effect.epoch,
            not_after=effect.not_after,
            deadline=effect.deadline,
            memo=memo,
            argv=config.argv,
            env=environment,
            cwd=None if config.directory is None else str(config.directory),
            umask=config.umask,
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            stdout="null" if config.stdout == "null" else "pipe",
            stderr="null" if config.stderr == "null" else "pipe",
        )

    def _read(self, child: Child) -> None:
        for name, fd in child.pipes().items():
            self._streams.append(self._stream(name, fd))

    def _stream(self, name: str, fd: int) -> Stream:
        config, writer = self.config, self._origin.writer
        where = config.stdout if name == "stdout" else config.stderr

        def count(lines: int) -> None:
            self._origin.count(config.name, name, lines)

        if where != "inherit":
            return Stream(
                fd, writer.file(Path(where), config.log_max_bytes, config.log_backups), self.ring, count=count
            )
        sink = writer.descriptor(STANDARD[name], f"standard {'output' if name == 'stdout' else 'error'}")
        return Stream(fd, sink, self.ring, prefix=f"{config.name}: ", count=count)
