"""SIGKILL to all that is below a process of ours, at every depth, so that none forks another one in the meantime.

Who kills only his own children comes too late for a fork bomb: those below fork more than he kills. A help where there
is no cgroup, and never the proof that a tree is empty.
"""

from __future__ import annotations

import errno
import os

from highlanderd import linux
from highlanderd.lean import signal

SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # these pass
UNDYING_AFTER = 2.0  # seconds after SIGKILL; hundreds of processes die in milliseconds, a flood in a tenth of this
MOST_NAMED = 100  # of the processes that do not die
ANEW = 0.05  # seconds after which whoever got SIGKILL gets it again: it may have become another user, and be ours again


class Killing:
    """Rounds of SIGKILL. Whoever got it is left alone for a moment, so that a round costs what is new in it."""

    __slots__ = ("_anew_at", "_sent")

    def __init__(self) -> None:
        self._sent: set[int] = set()
        self._anew_at = 0.0

    def round(self, children: list[int]) -> None:
        """Kill these children of ours, none of which is reaped, and then what is below them.

        Raises OSError where there is no descriptor to look below with; the children themselves are dead by then.
        """
        now = linux.boottime()
        if now >= self._anew_at:
            self._anew_at = now + ANEW
            self._sent.clear()
        new = [pid for pid in children if pid not in self._sent]
        for pid in new:
            linux.send(pid, signal.SIGKILL)
        self._sent.update(new)
        while new:
            above = new.pop()  # it has its signal, so that it forks no more: who is below it now is all there is
            for pid in linux.below(above):
                if pid not in self._sent and send_below(pid, signal.SIGKILL, above):
                    self._sent.add(pid)
                    new.append(pid)


def send_below(pid: int, signum: int, ancestor: int) -> bool:
    """Signal somebody else's child: once its descriptor is held, the pid is checked to be still below ``ancestor``.

    Whether it was. Raises OSError when there is no descriptor for that.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in SCARCE:
            raise
        return False  # it is gone; or this system knows no such descriptors, or forbids them
    try:
        above = linux.parent(pid)
        while above not in (0, 1, ancestor):
            above = linux.parent(above)
        if above == ancestor:
            signal.pidfd_send_signal(fd, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(fd)
    return above == ancestor
