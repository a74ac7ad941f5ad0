"""A test's child that floods: its tree forks without end, or leaves zombies, orphans or threads by the hundred.

Executed by path with ``-I -S``: ``flood_child.py KIND COUNT``; deaf to SIGTERM. It keeps the journal, and says ``full``
there when the flood is at its height. Every process of it holds the journal's locks, by having been forked: whoever
leads next says ``doubled`` when a single one is left. The kernel keeps forking floods to ``COUNT`` processes
(RLIMIT_NPROC, which counts a user's): root becomes a user that nobody else is.
"""

from __future__ import annotations

import _thread
import math
import os
import resource
import signal
import sys
import time

TYPE_CHECKING = False  # ``typing`` takes a while to import
if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib takes a while to import
import journal_child  # noqa: E402

FIRST_STRANGER = 60_000
"""The first of the users that only a flood is; which one, its pid tells."""
PAUSE = 0.02
"""Seconds before a refused fork is tried again: the machine is shared."""


def bomb(count: int) -> None:
    """Every process forks for as long as it may, each in a session of its own."""
    _keep_to(count)
    while _forked(lambda: _swarm(math.inf)):
        pass


def spray(count: int) -> None:
    """As a bomb, but every process ends once it has forked twice: no pid is worth knowing."""
    _keep_to(count)
    while _forked(lambda: _swarm(2)):
        pass


def chains(count: int) -> None:
    """So many chains: each process forks the next one and ends at once."""
    _keep_to(3 * count)
    for _ in range(count):
        _forked(lambda: _swarm(1))


def zombies(count: int) -> None:
    """So many children that have ended and that nobody takes note of."""
    for _ in range(count):
        _forked(lambda: None)


def orphans(count: int) -> None:
    """So many processes, one after the other, that lose their parent and end a moment later."""
    for _ in range(count):
        _forked(lambda: _forked(lambda: None))
        os.wait()


def threads(count: int) -> None:
    """So many threads in one process."""
    for _ in range(count):
        _thread.start_new_thread(signal.pause, ())


FLOODS = {each.__name__: each for each in (bomb, spray, chains, zombies, orphans, threads)}


def _keep_to(count: int) -> None:
    if os.geteuid() == 0:
        os.setuid(FIRST_STRANGER + os.getpid() % 4096)
    ours = sum(os.stat(f"/proc/{name}").st_uid == os.geteuid() for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH116, PTH208
    resource.setrlimit(resource.RLIMIT_NPROC, (ours + count, ours + count))


def _fork() -> int:
    """Fork; -1, a moment later, when that is refused."""
    try:
        return os.fork()
    except BlockingIOError:
        time.sleep(PAUSE)
        return -1


def _forked(run: Callable[[], object]) -> bool:
    """Fork a process that is ``run`` and nothing else; whether that was allowed."""
    pid = _fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(0)
    return pid > 0


def _swarm(leave_after: float) -> None:
    """Fork so often, then end; the forked do the same."""
    os.setsid()
    born = 0
    while born < leave_after:
        pid = _fork()
        born = born + (pid > 0) if pid else 0
        if pid == 0:
            os.setsid()


def main(kind: str, count: int) -> None:
    """Flood, say so, and live."""
    journal_child.begin("stubborn")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    FLOODS[kind](count)
    journal_child.tell("full")
    journal_child.live()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
