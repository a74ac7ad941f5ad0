"""An event loop whose clock stands still while anything is to be done, and jumps to the next timer when nothing is."""

from __future__ import annotations

import asyncio
import selectors


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: the clock goes on by what the loop would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("no timer is left that could end the wait")
        self.now += max(0.0, timeout)
        return super().select(0)


class DrivenLoop(asyncio.SelectorEventLoop):
    """For what waits for its loop's timers alone: no socket and no thread."""

    def __init__(self) -> None:
        self._clock = _Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def work(self, seconds: float) -> None:
        """Let time go by as if a callback took so long."""
        self._clock.now += seconds
