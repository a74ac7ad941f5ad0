"""The daemon's own log on its way to standard error: a bounded queue, and one thread that may block.

The event loop offers whole lines and never waits. What a slow reader or a disk that hangs does not take in time is
dropped, and a line in its place says how many. An output that fails (reader gone, disk full) keeps its queue and is
tried again every second.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
import time
from collections import deque
from typing import Final

log = logging.getLogger(__name__)

LIMIT: Final = 1 << 20
"""Bytes that may wait; half a second of a journal that is busy."""
RESERVE: Final = 1 << 18
"""Bytes beyond the limit for the daemon's own log, so that children's noise never drowns it."""
AGAIN: Final = 1.0
"""Seconds until an output that failed is tried again."""
DROPPED: Final = "[highlanderd: {} lines dropped here: they came faster than they could be written]\n"


class Writer:
    """One open descriptor, which other processes have, too: it is never made non-blocking, and never closed here.

    Its methods never block, except ``close``. ``name`` is for messages.
    """

    def __init__(self, fd: int, name: str = "standard error") -> None:
        self._fd, self._name = fd, name
        # A pipe that polls as writable takes so much without blocking
        self._piece = LIMIT if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        self._queue: deque[bytes] = deque()
        self._waiting = self._dropped = 0
        self._trouble: int | None = None
        self._end: float | None = None
        self._changed = threading.Condition()  # the loop and the thread meet here, for a few appends at a time
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def offer(self, data: bytes, lines: int, *, important: bool = False) -> bool:
        """Queue ``lines`` whole lines, or drop and count them when too much is waiting; never blocks.

        ``important`` lines may use the reserve. Returns False when they were dropped.
        """
        with self._changed:
            # Once dropping has begun it goes on to half the limit: few long gaps, not a marker in every other line
            limit = LIMIT + RESERVE if important else LIMIT // 2 if self._dropped else LIMIT
            if self._waiting >= limit:
                self._dropped += lines
                return False
            self._mark_gap()
            self._append(data)
            self._changed.notify()
        return True

    def close(self, within: float = 2.0) -> None:
        """Write what is queued, for ``within`` seconds at most, and end. Blocks: for the daemon's very end."""
        with self._changed:
            self._end = time.monotonic() + within
            self._changed.notify()
        self._thread.join(within + 0.5)  # a thread that hangs in a write dies with the process

    def _mark_gap(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._append(DROPPED.format(dropped).encode())

    def _append(self, data: bytes) -> None:
        self._queue.append(data)
        self._waiting += len(data)

    def _run(self) -> None:
        while (data := self._next()) is not None:
            while data and not self._over():
                data = data[self._write(data) :]

    def _next(self) -> bytes | None:
        """Wait for something to write; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._dropped or self._end is not None)
            if not self._queue:
                self._mark_gap()
            if not self._queue or self._over():
                return None
            data = self._queue.popleft()
            self._waiting -= len(data)
            return data

    def _over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _write(self, data: bytes) -> int:
        """Write a first piece, to the end of a line if there is one. Return its size: 0 if it has to be tried again."""
        piece = len(data)
        if piece > self._piece:
            piece = data.rfind(b"\n", 0, self._piece) + 1 or self._piece
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(AGAIN * 1000):
            return 0
        try:
            size = os.write(self._fd, data[:piece])
        except OSError as error:
            self._fail(error)
            return 0
        if self._trouble is not None:
            self._trouble = None
            log.info("%s takes output again", self._name)
        return size

    def _fail(self, error: OSError) -> None:
        if error.errno != self._trouble:
            self._trouble = error.errno
            log.warning(
                "cannot write to %s: %s; its newest output is dropped until that is mended", self._name, error.strerror
            )
        left = AGAIN if self._end is None else min(AGAIN, max(self._end - time.monotonic(), 0.0))
        time.sleep(left)
