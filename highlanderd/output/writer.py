"""Everything that is written out of the daemon and might block: one thread, and a bounded queue per destination.

Standard output, standard error and log files are each a ``Sink``. The event loop offers whole lines and never waits:
what a destination cannot take in time is dropped, and a line in its place says how many. A destination that fails (disk
full, reader gone, directory removed) keeps its queue and is tried again every second; that is logged once per change.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

log = logging.getLogger(__name__)

LIMIT: Final = 1 << 20
"""Bytes waiting for one destination; half a second of a journal that is busy."""
RESERVE: Final = 1 << 18
"""Bytes beyond the limit for the daemon's own log, so that children's noise never drowns it."""
PIECE: Final = 1 << 16
"""Most bytes of one write to a file."""
ATOMIC: Final = 4096
"""Most bytes of one write elsewhere: a pipe that polls as writable takes them without blocking."""
AGAIN: Final = 1.0
"""Seconds between two tries of a destination that fails, two looks whether a file was moved, and for which an unused
file stays open."""
DROPPED: Final = "[highlanderd: {} lines dropped here: they came faster than they could be written]\n"


class Target(Protocol):
    """Where a sink's bytes go. Used by the writer's thread alone."""

    name: str
    piece: int
    """Most bytes of one write."""

    def descriptor(self, size: int) -> int:
        """Return the descriptor that the next ``size`` bytes go to. Raises OSError."""

    def wrote(self, size: int) -> None:
        """Take note of ``size`` bytes written."""

    def rest(self) -> None:
        """Let go of what is not in use."""


class Descriptor:
    """Standard output or error: open for the daemon's life, shared with others, so never made non-blocking."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd
        self.piece = PIECE if stat.S_ISREG(os.fstat(fd).st_mode) else ATOMIC

    def descriptor(self, size: int) -> int:  # noqa: ARG002 - a target's shape
        return self._fd

    def wrote(self, size: int) -> None:
        pass

    def rest(self) -> None:
        pass


class File:
    """A log file: appended to, rotated by size, opened again when it was moved, closed while unused."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self.name = str(path)
        self.piece = min(PIECE, max_bytes) if max_bytes else PIECE
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._fd: int | None = None
        self._size = 0
        self._looked = 0.0
        self._used = 0.0
        self._rotates = True

    def descriptor(self, size: int) -> int:
        self._used = time.monotonic()
        if self._fd is not None and self._used - self._looked > AGAIN and self._moved():
            self._close()
        fd = self._open() if self._fd is None else self._fd
        if self._rotates and self._max_bytes and self._size and self._size + size > self._max_bytes:
            fd = self._rotate(fd)
        return fd

    def wrote(self, size: int) -> None:
        self._size += size

    def rest(self) -> None:
        if self._fd is not None and time.monotonic() - self._used > AGAIN:
            self._close()

    def _open(self) -> int:
        # O_NONBLOCK: a FIFO without a reader is an error, not a thread that hangs
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o640)
        found = os.fstat(fd)
        self._fd, self._size, self._looked = fd, found.st_size, time.monotonic()
        self._rotates = stat.S_ISREG(found.st_mode)
        return fd

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _moved(self) -> bool:
        self._looked = time.monotonic()
        try:
            there = self._path.stat()
        except OSError:
            return True
        ours = os.fstat(self._fd) if self._fd is not None else there
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _rotate(self, fd: int) -> int:
        """Shift the backups by one. A failure is reported once, and the file then grows beyond its size."""
        try:
            if not self._backups:
                os.ftruncate(fd, 0)
                self._size = 0
                return fd
            for number in range(self._backups - 1, 0, -1):
                _replace(self._backup(number), self._backup(number + 1))
            _replace(self._path, self._backup(1))
        except OSError as error:
            self._rotates = False
            log.warning("cannot rotate %s: %s; it grows beyond log_max_bytes", self.name, error.strerror)
            return fd
        self._close()
        return self._open()

    def _backup(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _replace(old: Path, new: Path) -> None:
    with suppress(FileNotFoundError):
        old.replace(new)


class Sink:
    """One destination's queue: offered to by the event loop, emptied by the writer's thread."""

    def __init__(self, writer: Writer, target: Target) -> None:
        self._writer = writer
        self._target = target
        self._queue: deque[bytes] = deque()
        self._waiting = 0
        self._dropped = 0
        # The thread's own:
        self._blob = b""
        self._at = 0
        self._trouble: int | None = None
        self.try_at = 0.0
        """When the thread tries again, on time.monotonic()."""

    def offer(self, data: bytes, lines: int, *, important: bool = False) -> bool:
        """Queue ``lines`` whole lines, or drop and count them when too much is waiting; never blocks.

        ``important`` lines may use the reserve. Returns False when they were dropped.
        """
        with self._writer.lock:
            # Once dropping has begun it goes on to half the limit: few long gaps, not a marker in every other line
            limit = LIMIT + RESERVE if important else LIMIT // 2 if self._dropped else LIMIT
            if self._waiting >= limit:
                self._dropped += lines
                return False
            self._mark_gap()
            self._queue.append(data)
            self._waiting += len(data)
            self._writer.wake(self)
        return True

    def _mark_gap(self) -> None:
        if self._dropped:
            marker = DROPPED.format(self._dropped).encode()
            self._queue.append(marker)
            self._waiting += len(marker)
            self._dropped = 0

    def descriptor(self) -> int | None:
        """Return what the next piece goes to, or None when it cannot be had or nothing is left. For the thread."""
        if self._at == len(self._blob) and not self._next():
            return None
        try:
            return self._target.descriptor(self._cut() - self._at)
        except OSError as error:
            self._fail(error)
            return None

    def write(self, fd: int) -> None:
        """Write one piece. For the thread."""
        try:
            size = os.write(fd, memoryview(self._blob)[self._at : self._cut()])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        self._target.wrote(size)
        self._at += size
        if self._trouble is not None:
            self._trouble = None
            log.info("%s takes output again", self._target.name)

    def rest(self) -> None:
        """Let go of what is not in use. For the thread."""
        self._target.rest()

    def _next(self) -> bool:
        """Take the next blob from the queue; when there is none, the sink leaves the writer's list."""
        with self._writer.lock:
            if not self._queue:
                self._mark_gap()
            if not self._queue:
                self._writer.pending.discard(self)
                return False
            self._blob, self._at = self._queue.popleft(), 0
            self._waiting -= len(self._blob)
            return True

    def _cut(self) -> int:
        """Return where the next piece ends: at the end of a line if there is one, as two sinks may share one pipe."""
        most = self._at + self._target.piece
        if len(self._blob) <= most:
            return len(self._blob)
        return self._blob.rfind(b"\n", self._at, most) + 1 or most

    def _fail(self, error: OSError) -> None:
        self.try_at = time.monotonic() + AGAIN
        if error.errno != self._trouble:
            self._trouble = error.errno
            log.warning(
                "cannot write to %s: %s; its newest output is dropped until that is mended",
                self._target.name,
                error.strerror,
            )


class Writer:
    """The one thread that writes. Its methods never block, except ``close``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # the loop and the thread meet here, for a few appends at a time
        self.pending: set[Sink] = set()
        self._sinks: dict[int | Path, Sink] = {}
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._end: float | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def descriptor(self, fd: int, name: str) -> Sink:
        """Return the sink of an open descriptor; ``name`` is for messages. Raises OSError when it is not open."""
        return self._sink(fd, Descriptor(fd, name))

    def file(self, path: Path, max_bytes: int, backups: int) -> Sink:
        """Return the sink of a log file. All that name the same path share it, and the sizes of the first one count.

        ``max_bytes`` 0 never rotates; ``backups`` 0 keeps none.
        """
        return self._sink(path, File(path, max_bytes, backups))

    def _sink(self, key: int | Path, target: Target) -> Sink:
        with self.lock:
            return self._sinks.setdefault(key, Sink(self, target))

    def wake(self, sink: Sink) -> None:
        """Tell the thread that ``sink`` has something. The caller holds the lock."""
        if sink not in self.pending and self._end is None:
            self.pending.add(sink)
            os.eventfd_write(self._bell, 1)

    def close(self, within: float = 2.0) -> None:
        """Write what is queued, for ``within`` seconds at most, and end. Blocks: for the daemon's very end."""
        self._end = time.monotonic() + within
        os.eventfd_write(self._bell, 1)
        self._thread.join(within + 0.5)  # a thread that hangs in a write dies with the process
        if not self._thread.is_alive():
            os.close(self._bell)

    def _run(self) -> None:
        rested = time.monotonic()
        while True:
            now = time.monotonic()
            with self.lock:
                pending = list(self.pending)
            sinks = {fd: sink for sink in pending if sink.try_at <= now and (fd := sink.descriptor()) is not None}
            if self._end is not None and (now >= self._end or not sinks):
                return
            for fd in self._wait(sinks):
                sinks[fd].write(fd)
            if now - rested > AGAIN:
                self._rest()
                rested = now

    def _wait(self, sinks: dict[int, Sink]) -> list[int]:
        """Wait until something can be written or something new was queued, a second at most."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        for fd in sinks:
            poll.register(fd, select.POLLOUT)
        ready = [fd for fd, _ in poll.poll(AGAIN * 1000)]
        if self._bell in ready:
            os.eventfd_read(self._bell)
        return [fd for fd in ready if fd in sinks]

    def _rest(self) -> None:
        with self.lock:
            sinks = list(self._sinks.values())
        for sink in sinks:
            sink.rest()
