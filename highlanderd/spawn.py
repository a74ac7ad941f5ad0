"""From a program's configuration and a granted term to the order for its child, and to the pipes of its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from highlanderd.child import Child, Guardian
from highlanderd.config import ProgramConfig, child_environment, identity
from highlanderd.core import words as w
from highlanderd.report import Order
from highlanderd.output import Ring, Stream, Writer

STANDARD = {"stdout": 1, "stderr": 2}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where children come from: what is the same for all programs of this node."""

    guardian: Guardian
    writer: Writer
    node: str
    namespace: str
    socket: Path
    environ: Mapping[str, str]
    count: Callable[[str, str, int], None]
    """Told the lines of a program's stream."""


class Spawner:
    """Starts the children of one program, and reads what they write."""

    def __init__(self, origin: Origin, config: ProgramConfig) -> None:
        self.config = config
        self.ring = Ring()
        self._origin = origin
        self._streams: list[Stream] = []

    def __call__(self, effect: w.Spawn, memo: bytes, tell: Callable[[w.Event], None]) -> Child:
        """Ask the guardian for the term's one child. Raises HighlanderError when its order cannot be written."""
        order = self._order(effect, memo)
        child = self._origin.guardian.spawn(order, lambda event: self._told(child, event, tell))
        return child

    def adopt(self, child: Child, tell: Callable[[w.Event], None]) -> None:
        """Go on reading and hearing of a child that an earlier worker started."""
        self._read(child)
        child.listen(lambda event: self._told(child, event, tell))

    def _told(self, child: Child, event: w.Event, tell: Callable[[w.Event], None]) -> None:
        if isinstance(event, w.Started):
            self._read(child)
        if isinstance(event, w.Emptied):
            self._read(child)
            self.close()
        tell(event)

    def close(self) -> None:
        """Take what the pipes still hold; whoever else has them open does not matter any more."""
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.close()

    def _order(self, effect: w.Spawn, memo: bytes) -> Order:
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
        return Order(
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
