"""What the logger of one child reports: the last lines, counts for metrics, troubles for the log."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from typing import Final

from highlanderd.guardian import log_report
from highlanderd.guardian.channel import Message

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at what is wrong, for the log. Who asks for counts, or for a program, looks at once."""
LAST_LOOK: Final = 2.0
"""Seconds from the end of a child until its logger has written its last lines."""
COUNTED: Final = ("lines", "bytes", "dropped")

HINTS: Final = {os.strerror(errno.EACCES): ": let the program's user write to it and to its directory"}
"""Why a log cannot be written, and how that is mended."""

Count = Callable[[str, str, str, int], None]
"""Called with a program, its stream, one of ``COUNTED``, and how many more there are."""


class LoggerView:
    """The reports of one term's logger. Owns the descriptor, until a moment after ``finish()``."""

    def __init__(self, fd: int, program: str, count: Count) -> None:
        self._fd: int | None = fd
        self._program, self._count = program, count
        self._seen = 0
        """The number of the latest report that was read."""
        self._noted = 0
        """The number of the latest one that was taken note of: it may be read for who asks before that."""
        self._report: Message = dict(log_report.NOTHING)
        self._counted: dict[tuple[str, str], int] = {}
        self._troubles: dict[str, str] = {}
        self._unrotated: dict[str, str] = {}
        self._recovered: dict[str, int] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(LOOK_EVERY, self._look_again)

    @property
    def report(self) -> Message:
        """What the logger has reported last."""
        if self._fd is not None and log_report.number(self._fd) != self._seen:
            self._seen = log_report.number(self._fd)
            try:
                self._report = log_report.read(self._fd) or self._report
            except ValueError as error:
                self._give_up(self._fd, error)
        return self._report

    def catch_up(self) -> None:
        """Take note of what the logger has reported since the last look, if that is anything."""
        if self._fd is not None and log_report.number(self._fd) != self._noted:
            self.look()

    def look(self) -> None:
        """Take note of what the logger has reported since the last look."""
        report = self.report
        self._noted = self._seen
        for kind in COUNTED:
            for stream, number in report[kind].items():
                more = number - self._counted.get((stream, kind), 0)
                if more > 0:
                    self._count(self._program, stream, kind, more)
                    self._counted[stream, kind] = number
        self._say(report)

    def finish(self) -> None:
        """The child has ended: look once more when its logger has, too, and close the report."""
        self._timer.cancel()
        self._timer = self._loop.call_later(LAST_LOOK, self.close)

    def close(self) -> None:
        """Look a last time, and close the report."""
        self._timer.cancel()
        self.look()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _give_up(self, fd: int, error: ValueError) -> None:
        """The logger runs as the program's user: what it reports is not to be trusted."""
        self._report = dict(log_report.NOTHING)
        os.close(fd)
        self._fd = None
        log.warning(
            "what the logger of %s reports cannot be read: %s; its output is not shown or counted until it is started "
            "again; look whether a process of its user has tampered with it",
            self._program,
            error,
            extra={"program": self._program},
        )

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(LOOK_EVERY, self._look_again)
        self.catch_up()

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
                hint = HINTS.get(why, "")
                log.warning(
                    "cannot write to %s: %s; output is dropped until that is mended%s", path, why, hint, extra=told
                )
        for path, why in report["unrotated"].items():
            if self._unrotated.get(path) != why:
                log.warning("cannot rotate %s: %s; it grows beyond log_max_bytes", path, why, extra=told)
        self._troubles, self._unrotated = report["troubles"], report["unrotated"]
        self._recovered = report["recovered"]
