"""The pauses before something that has ended is started again: none at first, then longer each time."""

from __future__ import annotations

LONGEST = 5.0  # seconds


class Pauses:
    """The pauses of one row of failures: none, ``first`` seconds, and each time twice as many, up to five."""

    __slots__ = ("_first", "_pause")

    def __init__(self, first: float) -> None:
        self._first = first
        self._pause = 0.0

    def next(self) -> float:
        """Return the seconds to wait now."""
        pause = self._pause
        self._pause = min(max(2 * pause, self._first), LONGEST)
        return pause
