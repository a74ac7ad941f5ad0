"""Children's output: read without ever stopping, cut into lines, passed on to a sink, the last lines kept for ``show``.

Nothing here waits: what the sink cannot take is dropped and counted by it. A child that writes without pause gets a
bounded share of the event loop; it is slowed down then, but never stopped.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from highlanderd.output.writer import Sink, Writer

__all__ = ["Ring", "Stream", "Writer"]

CHUNK: Final = 1 << 16
"""Bytes read in one turn of the loop: a millisecond's work at worst."""
LONGEST: Final = 1 << 16
"""Bytes of a line; a longer one is cut into pieces."""
PAUSE: Final = 0.004
"""Seconds of rest after a full chunk: 16 MB/s per stream, and other programs' leases are renewed in between."""
PATIENCE: Final = 1.0
"""Seconds for which a line without its end waits for the rest."""
KEPT_LINES: Final = 200
KEPT_BYTES: Final = 1000
"""Of each line kept in memory: 200 KB per program at worst."""


class Ring:
    """The last lines of one program, stdout and stderr as they came."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._more: Callable[[], list[bytes]] = list

    def keep(self, lines: list[bytes]) -> None:
        """Add lines, without their ends."""
        self._lines.extend(line[:KEPT_BYTES] for line in lines[-KEPT_LINES:])

    def continue_with(self, more: Callable[[], list[bytes]]) -> None:
        """Show the lines that ``more`` returns after these: the present child's logger has kept them."""
        self._more = more

    def lines(self) -> tuple[str, ...]:
        """Return the last lines, oldest first; what is not UTF-8 shows as replacement characters."""
        lines = [*self._lines, *self._more()][-KEPT_LINES:]
        return tuple(line.decode("utf-8", "replace") for line in lines)


class Stream:
    """One pipe of one child. Owns the descriptor, and ends by itself when the other end closes.

    With a ``prefix`` each line gets it, and lines longer than 64 KiB or unfinished for a second are cut: for a
    destination that many programs share. Without one the sink gets the very bytes of the child.
    """

    def __init__(
        self, fd: int, sink: Sink, ring: Ring, *, prefix: str = "", count: Callable[[int], None] | None = None
    ) -> None:
        self._fd = fd
        self._sink = sink
        self._ring = ring
        self._prefix = prefix.encode()
        self._count = count
        self._partial = b""
        self._partial_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._open = True
        os.set_blocking(fd, False)
        self._resume()

    def close(self) -> None:
        """Read what the pipe holds, pass it on, and close it. May be called again."""
        if not self._open:
            return
        try:
            left = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)  # a stranger who goes on writing does not keep us here
            while left > 0 and (data := os.read(self._fd, CHUNK)):
                left -= len(data)
                self._take(data)
        except OSError:  # empty; or no pipe, and then nothing that a child could have written to
            pass
        self._end()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._take(data)
        if len(data) == CHUNK:
            self._loop.remove_reader(self._fd)
            self._pause = self._loop.call_later(PAUSE, self._resume)

    def _end(self) -> None:
        self._open = False
        self._flush()
        self._loop.remove_reader(self._fd)
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        os.close(self._fd)

    def _take(self, data: bytes) -> None:
        """Split off whole lines, all at once: a flood has 30,000 of them in a chunk."""
        end = data.rfind(b"\n") + 1
        if end:
            self._emit(self._partial + data[:end])
            self._partial, self._partial_since = b"", self._loop.time()
        elif not self._partial:
            self._partial_since = self._loop.time()
        self._partial += data[end:]
        if len(self._partial) >= LONGEST:
            self._flush()
        elif self._partial and self._timer is None:
            self._timer = self._loop.call_later(PATIENCE, self._look_at_partial)

    def _look_at_partial(self) -> None:
        self._timer = None
        if not self._partial:
            return
        due = self._partial_since + PATIENCE
        if self._loop.time() >= due - 0.01:
            self._flush()
        else:  # it is a later line than the one the timer was set for
            self._timer = self._loop.call_at(due, self._look_at_partial)

    def _flush(self) -> None:
        partial, self._partial = self._partial, b""
        if partial:
            self._emit(partial)

    def _emit(self, text: bytes) -> None:
        lines = text.count(b"\n")
        kept = text.rsplit(b"\n", KEPT_LINES + 1)
        if text.endswith(b"\n"):
            kept.pop()
        else:
            lines += 1
        self._ring.keep(kept[-KEPT_LINES:])
        if self._count is not None:
            self._count(lines)
        self._sink.offer(self._prefixed(text) if self._prefix else text, lines)

    def _prefixed(self, text: bytes) -> bytes:
        first = text.find(b"\n")
        if first > LONGEST or (first < 0 and len(text) > LONGEST):
            text = text[:LONGEST] + b"\n" + text[LONGEST:]
        return self._prefix + text.removesuffix(b"\n").replace(b"\n", b"\n" + self._prefix) + b"\n"
