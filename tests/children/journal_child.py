"""A test's child: tells the journal when it starts, that it lives, and when it is told to end.

Executed by path with ``-I -S``: it imports next to nothing, so its first line comes early.
The main child of a term also holds an exclusive lock that dies with it; who finds it taken lives beside another one and
says ``doubled``. ``part`` makes it one more process of a tree, without that lock; ``stubborn`` deaf to SIGTERM.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time

TYPE_CHECKING = False  # ``typing`` takes a while to import
if TYPE_CHECKING:
    from typing import NoReturn

ALIVE_EVERY = 0.02
WHO = [os.environ[f"HIGHLANDER_{name}"] for name in ("PROGRAM", "LOCK_ID", "EPOCH", "NODE")]
JOURNAL = os.environ["JOURNAL"]
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def tell(kind: str) -> None:
    """Append one line: a single write with O_APPEND is never mixed with others'."""
    words = (kind, f"{time.clock_gettime(time.CLOCK_BOOTTIME):.4f}", *WHO, str(os.getpid()))
    os.write(journal, (" ".join(words) + "\n").encode())


def alone(name: str) -> bool:
    """Take the lock that only one may have, for the rest of our life."""
    try:
        fcntl.flock(os.open(f"{JOURNAL}.{name}", FLAGS, 0o666), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end(*_: object) -> None:
    """Obey."""
    tell("end")
    os._exit(0)


def begin(*how: str) -> None:
    """Say that we are there, and whether we are alone."""
    tell("start")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in how else end)
    if "part" not in how and not (alone(WHO[0]) and alone(WHO[1])):
        tell("doubled")


def live() -> NoReturn:
    """Say that we are there still."""
    while True:
        time.sleep(ALIVE_EVERY)
        tell("alive")


journal = os.open(JOURNAL, FLAGS, 0o666)
if __name__ == "__main__":
    begin(*sys.argv[1:])
    live()
