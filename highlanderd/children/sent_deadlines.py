"""The deadlines that were sent to a keeper and not acknowledged: one that owes that for too long is frozen."""

from __future__ import annotations

from collections import deque
from typing import Final

ACKNOWLEDGED_WITHIN: Final = 0.3
"""Of a lease: a keeper that has not acknowledged a deadline by then is frozen."""


class SentDeadlines:
    """Each deadline that awaits its acknowledgement, with when it was sent. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, bytes, float]] = deque()

    def send(self, kill_at: float, memo: bytes, now: float) -> None:
        """Note that a deadline is sent ``now``, with its memo."""
        self._sent.append((kill_at, memo, now))

    def acknowledge(self, kill_at: float) -> bytes | None:
        """Drop this deadline and those before it, and return its memo. One that was not sent acknowledges nothing.

        The same one may have been sent twice, with another memo: a keeper that reads both at once answers once.
        """
        memo = None
        while any(each == kill_at for each, *_ in self._sent):
            _, memo, _ = self._sent.popleft()
        return memo

    def overdue(self, now: float, lease: float) -> bool:
        """Return whether the oldest one was sent more than 3/10 of ``lease`` seconds ago."""
        return bool(self._sent) and now - self._sent[0][2] > ACKNOWLEDGED_WITHIN * lease
