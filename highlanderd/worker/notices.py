"""The messages to the service manager (sd_notify(3)): the daemon is ready, what it does, that it ends.

The worker words them, and the guardian sends them, because it is the service's main process. Without a service manager
it drops them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from highlanderd.core.states import STATE_NAMES
from highlanderd.errors import printable

EXTENSION: Final = 60.0
"""Seconds for which each sign of a drain holds: longer than a worker needs to be replaced."""
LONGEST_STATUS: Final = 500
"""Characters; systemd drops a datagram of more than 4096 bytes."""


def summary(states: Iterable[str], trouble: str, shut: Iterable[str] = ()) -> str:
    """Return one line: how many programs are in which state, why listeners are shut, and why PostgreSQL is away."""
    counts = Counter(states)
    words = ", ".join(f"{state} {counts[state]}" for state in STATE_NAMES.values() if counts[state]) or "no programs"
    parts = [words, *sorted(shut), *([f"PostgreSQL: {trouble}"] if trouble else ())]
    return printable(" ".join("; ".join(parts).split()))[:LONGEST_STATUS]


class Notices:
    """Words each message once, and hands it to ``send``."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._status = ""

    def ready(self) -> None:
        """Say that the daemon works."""
        self._send("READY=1")

    @contextmanager
    def reload(self) -> Iterator[None]:
        """Say that a reload begins, and at the end of the block that it is over, whether it succeeded or not."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            self.ready()

    def status(self, line: str) -> None:
        """Show a line in the service's status, unless it is the present one."""
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def draining(self) -> None:
        """Say that the end goes on. To be repeated: the service manager kills a service that is silent for too long."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}")
