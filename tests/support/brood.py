"""A brood that never ends by itself, and a process that kills it as a keeper does: it is run apart from the tests."""

from __future__ import annotations

import os
import signal
import time

from highlanderd.guardian.killing import TreeKill
from highlanderd.system import linux, proctree


def pause() -> int:
    """Wait to be killed."""
    signal.pause()
    return 0


def kill_brood(count: int) -> int:
    """Return how many hundredths of a second of its own time the longest round of killing took, 100 at most."""
    linux.become_subreaper()
    hears, told = os.pipe()
    linux.fork(lambda: _brood(told, count))
    os.close(told)
    if os.read(hears, 1) != b"!":
        raise OSError(f"{count} processes could not be forked")
    killing, longest = TreeKill(), 0.0
    while True:
        before = time.process_time()
        killing.round(proctree.children(os.getpid()))
        longest = max(longest, time.process_time() - before)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return min(int(longest * 100), 100)
        if not killing.unfinished:
            time.sleep(0.05)  # as a keeper does: the dying need the processor, too


def _brood(told: int, count: int) -> int:
    for _ in range(count):
        linux.fork(pause)
    os.write(told, b"!")
    return pause()
