"""One pipe of a child as its logger sees it, and the look at what a pipe holds."""

from __future__ import annotations

import fcntl
import os
import struct

from highlanderd.guardian.log_outlet import lasting
from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.log_outlet import Outlet
    from highlanderd.guardian.log_shape import Shape

CHUNK = 1 << 18  # bytes looked at in one turn
SHAPED_CHUNK = 1 << 16  # the same, where each line grows by what is put before it
SAMPLE = 1 << 12  # bytes by whose lines the faster way to count is chosen
LONG_LINE = 64  # bytes
PIECE = 1 << 16  # bytes, which stay in the processor's cache
FIONREAD = 0x541B
DROPPED = b"[highlanderd: %d lines dropped here: they came faster than they could be written]\n"
NOTHING = memoryview(b"")


class Peek:
    """Looks at what a pipe holds without taking it out: through a second pipe, into memory that is used again."""

    __slots__ = ("_buffer", "_in", "_out", "view")

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        linux.enlarge_pipe(self._in, CHUNK)
        self._buffer = bytearray(CHUNK)
        self.view = memoryview(self._buffer)

    def fill(self, pipe: int, most: int = CHUNK) -> int:
        """Copy what ``pipe`` holds to the buffer. Return its size, 0 at the end of file. Raises BlockingIOError."""
        size = linux.tee(pipe, self._in, most)
        at = 0
        while at < size:
            at += os.readv(self._out, [self.view[at:size]])
        return size

    def whole(self, size: int) -> int:
        """Return how many of the first bytes are whole lines."""
        return self._buffer.rfind(b"\n", 0, size) + 1

    def lines(self, size: int) -> int:
        """Return how many lines the first bytes are, one without its end included."""
        if not self.whole(size):  # to look for one end is much faster than to count all
            return 1
        sample = min(size, SAMPLE)
        if self._buffer.count(b"\n", 0, sample) * LONG_LINE > sample:
            ends = self._buffer.count(b"\n", 0, size)
        else:
            ends = size - sum(self._inside(at, min(at + PIECE, size)) for at in range(0, size, PIECE))
        return ends + (self._buffer[size - 1] != 0x0A)

    def _inside(self, start: int, end: int) -> int:
        """Return how many of these bytes end no line. Where lines are long, this is twice as fast as to count ends."""
        return len(self._buffer[start:end].replace(b"\n", b""))


def held(pipe: int) -> int:
    """Return how many bytes a pipe holds."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, FIONREAD, b"\0" * 4))[0])


class LoggedPipe:
    """One pipe of the child, what of it is under way, and what was counted."""

    __slots__ = (
        "all_dropped", "blocked", "bytes", "capacity", "drop_at", "dropped", "drops", "ended", "fd", "hung_up", "lines",
        "name", "outlet", "owed", "owed_lines", "pause", "ready", "rest", "room_at", "shape", "taken_at", "try_at",
        "waiting",
    )  # fmt: skip

    def __init__(self, name: str, fd: int, outlet: Outlet, counted: Message) -> None:
        self.name, self.fd, self.outlet = name, fd, outlet
        self.capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        self.shape: Shape | None = None
        self.drops = False
        """While the outlet has stalled, what does not fit is dropped, and the child does not wait."""
        self.ready = True
        """There may be something new in the pipe."""
        self.hung_up = self.ended = False
        self.waiting = linux.NEVER
        """When a line without its end is written as it is."""
        self.try_at = 0.0
        """When an outlet that failed is tried again; 0 after a success."""
        self.taken_at = 0.0
        """When the outlet last took all that was in the pipe."""
        self.drop_at = linux.NEVER
        """While nothing is taken: from when on lines may be dropped."""
        self.room_at, self.pause = linux.NEVER, 0.01
        """While nothing is taken: when to look whether lines have to be dropped, and how long after the last time."""
        self.blocked = False
        """The outlet takes nothing now."""
        self.rest = NOTHING
        """What is shaped and not written yet."""
        self.owed = self.owed_lines = 0
        """How much of the pipe that was, and still stands in it."""
        self.dropped = 0
        """Lines that were dropped and not announced yet."""
        self.lines, self.bytes, self.all_dropped = (
            counted[kind].get(name, 0) for kind in ("lines", "bytes", "dropped")
        )

    def due(self, now: float) -> float:
        """Return when to look at it: now, or at one of its times."""
        if self.blocked:
            return linux.NEVER
        return max(now, self.try_at) if self.ready or self.rest or self.dropped else max(self.waiting, self.try_at)

    def keep_rest(self) -> None:
        """Let what is not written outlive the memory that it was looked at in."""
        self.rest = lasting(self.rest)

    def take_out(self, null: int) -> None:
        """Take what is owed out of the pipe, as far as it is still there: a child may read its own pipe."""
        try:
            while self.owed and (size := os.splice(self.fd, null, self.owed, flags=os.SPLICE_F_NONBLOCK)):
                self.owed -= size
        except BlockingIOError:
            pass
        self.owed = 0
