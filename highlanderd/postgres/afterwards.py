"""What can wait until handovers are over, so that the takeovers have processors and server for themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

APART: Final = 0.05
"""Seconds without another handover, after which they count as over."""


class Afterwards:
    """Calls what was put off."""

    def __init__(self) -> None:
        self._put_off: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0
        """When it has waited long enough, on the loop's clock."""

    def call(self, action: Callable[[], None], within: float) -> None:
        """Call ``action`` once nothing was put off for ``APART`` seconds, but ``within`` seconds in any case."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._until = min(self._until, now + within) if self._put_off else now + within
        self._put_off.append(action)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(min(now + APART, self._until), self._call_all)

    def _call_all(self) -> None:
        put_off, self._put_off, self._timer = self._put_off, [], None
        for action in put_off:
            action()
