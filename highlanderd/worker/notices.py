"""What the service manager is to hear of this daemon (sd_notify(3)): that it is ready, what it does, and that it ends.

Worded here, sent by the guardian, which is the service's main process. Where there is no service manager, the guardian
drops it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

STATES: Final = ("leading", "draining", "waiting", "backoff", "stopped")
"""In the order in which an operator looks for them."""
EXTENSION: Final = 60.0
"""Seconds for which each sign of a drain holds: longer than a worker needs to be replaced."""
LONGEST_STATUS: Final = 500
"""Characters; systemd drops a datagram of more than 4096 bytes."""


def summary(states: Iterable[str], trouble: str) -> str:
    """Count programs by their state, and say what keeps them from PostgreSQL, in one line."""
    counts = Counter(states)
    words = ", ".join(f"{state} {counts[state]}" for state in STATES if counts[state]) or "no programs"
    return " ".join(f"{words}; PostgreSQL: {trouble}".split())[:LONGEST_STATUS] if trouble else words


class Notices:
    """Says each thing once, through ``tell``."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._status = ""

    def ready(self) -> None:
        """The daemon works."""
        self._tell("READY=1")

    @contextmanager
    def reload(self) -> Iterator[None]:
        """Begin a reload, and end it, whatever came of it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self.ready()

    def status(self, line: str) -> None:
        """Show a line, when it is another one than before."""
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line}")

    def draining(self) -> None:
        """The end has begun and goes on: to be repeated, for the service manager kills what is silent for too long."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}")
