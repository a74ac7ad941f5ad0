"""A process that is forked before it is needed: a handover waits for its keeper, and a fork takes 2 to 3 ms.

At most one waits. The next one is forked when none was needed for a while: until then the processors belong to what
was begun.
"""

from __future__ import annotations

import os

from highlanderd.system import linux, proctree
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable

    from highlanderd.guardian.channel import Channel

    Process = tuple[int, Channel]

LATER = 0.1  # seconds without a fork, after which one is forked ahead
AGAIN = 1.0  # seconds until the next try where that was refused, or where the process has died
ABLE = ("S", "R")  # states of a process that is neither stopped nor dead


class WaitingFork:
    """The process that waits, with the guardian's end of the channel to it.

    ``fork`` returns one, or None where there is none to be had now.
    """

    __slots__ = ("_fork", "_poller", "_process", "at")

    def __init__(self, fork: Callable[[], Process | None], poller: linux.Poller) -> None:
        self._fork, self._poller = fork, poller
        self._process: Process | None = None
        self.at = 0.0
        """When to fork the next one."""

    def take(self) -> Process | None:
        """Return the process that waits, the caller's from now on; None without one that can run."""
        process, self._process = self._process, None
        self._plan(LATER)
        if process is None or proctree.state(process[0]) in ABLE:
            return process
        pid, channel = process
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is its own
        channel.close()
        return None

    def judge(self, now: float) -> float:
        """Fork one if it is time. Return when that will be."""
        if now >= self.at:
            self.at = linux.NEVER
            try:
                self._process = self._fork()
            except OSError:
                self._process = None
            if self._process is None:
                self._plan(AGAIN)
        return self.at

    def pids(self) -> set[int]:
        """Return its pid, while there is one."""
        return set() if self._process is None else {self._process[0]}

    def reaped(self, pid: int) -> bool:
        """Take in the death of a child of the guardian's. Return whether it was the one that waited."""
        if self._process is None or pid != self._process[0]:
            return False
        self._process[1].close()
        self._process = None
        self._plan(AGAIN)
        return True

    def _plan(self, seconds: float) -> None:
        self.at = linux.boottime() + seconds
        self._poller.by(self.at)
