"""Output that has no logger: the guardian is older than this worker, and gives the worker the pipes.

That lasts from an upgrade to the next restart of the daemon. The lines of all programs go to the daemon's own log
meanwhile, wherever they were to go: none is lost for being unexpected, and no file is written by two.
"""

from __future__ import annotations

import asyncio
import logging
import os

from highlanderd.output.writer import Writer

log = logging.getLogger(__name__)

CHUNK = 1 << 16
"""Bytes read in one turn of the loop, and of a line that is waited for to be whole."""


MOST_READS = 16
"""A pipe holds a MiB at most."""


class UnloggedPipe:
    """One pipe of one child. Owns the descriptor, and ends by itself when the other end closes."""

    def __init__(self, fd: int, program: str, writer: Writer) -> None:
        self._fd, self._prefix, self._writer = fd, f"{program}: ".encode(), writer
        self._partial = b""
        self._open = True
        log.warning(
            "an older highlanderd guards this node: output of %s goes here until that is restarted",
            program,
            extra={"program": program},
        )
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        """Take what the pipe holds, and close it. May be called again."""
        for _ in range(MOST_READS):  # a stranger who goes on writing does not keep us here
            if not self._open or not self._read():
                break
        self._end()

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        lines, end, rest = (self._partial + data).rpartition(b"\n")
        self._partial = rest
        if end or len(rest) >= CHUNK:
            self._emit(lines if end else rest)
            self._partial = rest if end else b""
        return True

    def _emit(self, text: bytes) -> None:
        self._writer.offer(self._prefix + text.replace(b"\n", b"\n" + self._prefix) + b"\n", text.count(b"\n") + 1)

    def _end(self) -> None:
        if self._open:
            self._open = False
            if self._partial:
                self._emit(self._partial)
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
