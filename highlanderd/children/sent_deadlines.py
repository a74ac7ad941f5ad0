"""The deadlines that were sent to a keeper and not acknowledged: one that owes that for too long is frozen."""

from __future__ import annotations

from collections import deque
from typing import Final

ACKNOWLEDGED_WITHIN: Final = 0.3
"""Of a lease: a keeper that has not acknowledged a deadline by then is frozen."""


class SentDeadlines:
    """Each deadline that awaits its acknowledgement, with when it was sent. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, float]] = deque()

    def send(self, kill_at: float, now: float) -> None:
        """Note that a deadline is sent ``now``."""
        self._sent.append((kill_at, now))

    def acknowledge(self, kill_at: float) -> None:
        """Drop the deadline that a report shows, and those before it. A report of another one acknowledges nothing."""
        if any(each == kill_at for each, _ in self._sent):
            while self._sent.popleft()[0] != kill_at:
                pass

    def overdue(self, now: float, lease: float) -> bool:
        """Return whether the oldest one was sent more than 3/10 of ``lease`` seconds ago."""
        return bool(self._sent) and now - self._sent[0][1] > ACKNOWLEDGED_WITHIN * lease
