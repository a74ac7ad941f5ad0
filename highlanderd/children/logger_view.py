"""What a child's logger reports: the last lines for ``show``, counts for metrics, troubles for the log."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Final

from highlanderd.guardian import log_report
from highlanderd.guardian.channel import Message

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at what was counted and at what is wrong."""
LAST_LOOK: Final = 2.0
"""Seconds from the end of a child until its logger has written its last lines."""


class LoggerView:
    """The report of one term's logger. Owns the descriptor, until a moment after ``finish()``."""

    def __init__(self, fd: int, program: str, count: Callable[[str, str, int], None]) -> None:
        self._fd: int | None = fd
        self._program, self._count = program, count
        self._counted: dict[str, int] = {}
        self._troubles: dict[str, str] = {}
        self._unrotated: dict[str, str] = {}
        self._recovered: dict[str, int] | None = None
        self._lines: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(LOOK_EVERY, self._look_again)

    def lines(self) -> list[bytes]:
        """Return the term's last lines."""
        if self._fd is not None:
            self._lines = log_report.read(self._fd)["last"]
        return self._lines

    def look(self) -> None:
        """Take note of what the logger has reported since the last look."""
        if self._fd is None:
            return
        report = log_report.read(self._fd)
        self._lines = report["last"]
        for name, lines in report["lines"].items():
            self._count(self._program, name, lines - self._counted.get(name, 0))
            self._counted[name] = lines
        self._say(report)

    def finish(self) -> None:
        """The child has ended: look once more when its logger has, too, and close the report."""
        self._timer.cancel()
        self._timer = self._loop.call_later(LAST_LOOK, self.close)

    def close(self) -> None:
        """Look a last time, and close the report."""
        self._timer.cancel()
        if self._fd is not None:
            self.look()
            os.close(self._fd)
            self._fd = None

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(LOOK_EVERY, self._look_again)
        self.look()

    def _say(self, report: Message) -> None:
        told = {"program": self._program}
        if self._recovered is None:  # what happened before this worker was reported by an earlier one
            self._recovered = report["recovered"]
        for path, times in report["recovered"].items():
            if times > self._recovered.get(path, 0):
                log.info("%s takes output again", path, extra=told)
                self._troubles.pop(path, None)
        for path, why in report["troubles"].items():
            if self._troubles.get(path) != why:
                log.warning("cannot write to %s: %s; output is dropped until that is mended", path, why, extra=told)
        for path, why in report["unrotated"].items():
            if self._unrotated.get(path) != why:
                log.warning("cannot rotate %s: %s; it grows beyond log_max_bytes", path, why, extra=told)
        self._troubles, self._unrotated = report["troubles"], report["unrotated"]
        self._recovered = report["recovered"]
