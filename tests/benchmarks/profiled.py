"""Run a command of the daemon, each worker of which profiles itself: ``python -m tests.benchmarks.profiled WORDS``.

``PROFILE_INTO`` is the file that the profile is written into, ``PROFILE_FROM`` the seconds of a worker's life after
which it begins, ``PROFILE_SECONDS`` how long it lasts. ``profile.py`` reads it.
"""

from __future__ import annotations

import cProfile
import os
import runpy
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from highlanderd.config import Loaded
from highlanderd.worker import daemon

INTO = Path(os.environ["PROFILE_INTO"])
FROM, SECONDS = float(os.environ["PROFILE_FROM"]), float(os.environ["PROFILE_SECONDS"])
unwatched = daemon.work


def work(path: Path, channel_fd: int, known: Loaded | None = None) -> int:
    """Be the worker, and be profiled."""
    rings = _rings(cProfile.Profile(time.thread_time))
    signal.signal(signal.SIGALRM, lambda _number, _frame: next(rings, None))
    signal.setitimer(signal.ITIMER_REAL, FROM or 1e-6, SECONDS)
    return unwatched(path, channel_fd, known)


def _rings(profile: cProfile.Profile) -> Iterator[None]:
    """Begin at the first alarm, and end at the second one."""
    profile.enable()
    yield
    profile.disable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    part = INTO.with_suffix(".part")
    profile.dump_stats(part)
    part.rename(INTO)  # it is there as a whole, or not at all
    yield


if __name__ == "__main__":
    daemon.work = work
    sys.argv = sys.argv[sys.argv.index("highlanderd") :]
    runpy.run_module("highlanderd", run_name="__main__")
