"""A test's child that floods: its tree forks without end, or leaves zombies, orphans or threads by the hundred.

Executed by path with ``-I -S``: ``flood_child.py KIND COUNT``; deaf to SIGTERM. The first of a test floods, those after
it are quiet. It keeps the journal, and says ``full``
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
    _seed(count, math.inf)


def spray(count: int) -> None:
    """As a bomb, but every process ends once it has forked twice: no pid is worth knowing."""
    _keep_to(count)
    _seed(count, 2)


def chains(count: int) -> None:
    """So many chains: each process forks the next one and ends at once."""
    _keep_to(3 * count)
    _seed(count, 1)


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
    ours = sum(_is_ours(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NPROC, (ours + count, ours + count))


def _is_ours(pid: str) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()  # noqa: PTH116
    except OSError:  # it has ended
        return False


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


def _seed(count: int, leave_after: float) -> None:
    for _ in range(count):
        if not _forked(lambda: _swarm(leave_after)):
            return  # it is full already


def _swarm(leave_after: float) -> None:
    """Fork so often, then end; the forked do the same."""
    os.setsid()
    born = 0
    while born < leave_after:
        pid = _fork()
        born = born + (pid > 0) if pid else 0
        if pid == 0:
            os.setsid()


def _first() -> bool:
    """Whether no life before this one has flooded: a test's second leader is quiet."""
    try:
        os.close(os.open(f"{journal_child.JOURNAL}.flooded", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def main(kind: str, count: int) -> None:
    """Flood, say so, and live."""
    journal_child.begin("stubborn")
    if not _first():
        journal_child.live()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    FLOODS[kind](count)
    journal_child.tell("full")
    journal_child.live()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
