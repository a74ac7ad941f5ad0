"""SIGKILL to every level of a process tree, top down.

Killing direct children only loses the race against a fork bomb: the processes below fork faster. This is best effort,
for where there is no cgroup; only ECHILD proves that a tree is empty.
"""

from __future__ import annotations

import os

from highlanderd.system import linux, proctree
from highlanderd.system.stdlib import signal

UNKILLABLE_AFTER = 2.0  # seconds after SIGKILL; hundreds of processes die in milliseconds, a flood in a tenth of this
MOST_NAMED = 100  # of the processes that do not die
ANEW = 0.05  # seconds until a killed process gets SIGKILL again: it had perhaps become another user, and is ours again
LONGEST_WALK = 5.0  # seconds until the walk begins anew, even if it has not reached the whole tree
AT_ONCE = 0.02  # seconds that one round walks: the killer has to report, and to read its channels
DEEPEST = 100  # levels, each of which takes a descriptor; deeper processes are reparented to us, for the next round


class TreeKill:
    """Rounds of SIGKILL. A round skips what was just killed with all below it, so it costs only what is new."""

    __slots__ = ("_done", "_since", "unfinished")

    def __init__(self) -> None:
        self._done: set[int] = set()
        self._since = 0.0
        self.unfinished = False
        """Whether the last round had no time for all: the next one must follow at once."""

    def round(self, children: list[int]) -> None:
        """Kill these children of this process, none of them reaped yet, and while there is time what is below them.

        Raises OSError when there is no descriptor to look below with. The children themselves are dead by then.
        """
        now = linux.boottime()
        if now >= self._since + (LONGEST_WALK if self.unfinished else ANEW):
            self._since = now
            self._done.clear()
        self.unfinished = False
        new = [pid for pid in children if pid not in self._done]
        for pid in new:
            linux.send(pid, signal.SIGKILL)
        until = linux.boottime() + AT_ONCE
        for pid in new:
            self._kill_below(pid, None, until, DEEPEST)
            if self.unfinished:
                return
            self._done.add(pid)

    def _kill_below(self, above: int, held: int | None, until: float, levels: int) -> None:
        """Kill all below ``above``, which has got SIGKILL and forks no more, so its list of children is complete.

        ``held`` is its pidfd; an unreaped child of this process keeps its pid without one.
        """
        for pid in proctree.below(above) if levels else ():
            if pid in self._done:
                continue
            if linux.boottime() >= until:
                self.unfinished = True
                return
            fd = _hold(pid)
            if fd is None:
                continue
            try:
                # In this order: as long as ``above`` is not reaped, its pid is nobody else's.
                if proctree.parent(pid) == above and (held is None or _is_held(held)):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    self._kill_below(pid, fd, until, levels - 1)
                    if self.unfinished:
                        return
                    self._done.add(pid)
            except (ProcessLookupError, PermissionError):
                continue
            finally:
                os.close(fd)


def unkillable(since: float, left: list[int]) -> list[int]:
    """Return the processes that SIGKILL has not ended: none until two seconds after ``since``."""
    return left[:MOST_NAMED] if linux.boottime() >= since + UNKILLABLE_AFTER else []


def send_below(pid: int, signum: int, ancestor: int) -> None:
    """Signal a process that is still below ``ancestor``; its pidfd is opened first, so its pid cannot be reused.

    Raises OSError when there is no descriptor for that.
    """
    fd = _hold(pid)
    if fd is None:
        return
    try:
        above = proctree.parent(pid)
        while above not in (0, 1, ancestor):
            above = proctree.parent(above)
        if above == ancestor:
            signal.pidfd_send_signal(fd, signum)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        os.close(fd)


def _hold(pid: int) -> int | None:
    """Open the descriptor of a process; None when it is gone. Raises OSError when there is no descriptor to be had."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in proctree.SCARCE:
            raise
        return None  # or this system knows no such descriptors, or forbids them


def _is_held(fd: int) -> bool:
    """Whether the process of this descriptor is not reaped yet."""
    try:
        signal.pidfd_send_signal(fd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it has become another user
    return True
