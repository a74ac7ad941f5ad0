"""How fast a listener answers: so many requests a second, and all who ask take turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Final

PER_SECOND: Final = 400.0
"""Requests that one listener answers in a second: each takes a fifth of a millisecond of the event loop, or more."""
AT_ONCE: Final = 40.0
"""Requests that are answered without a pause: a page of a few, from each of several clients."""


class Pace:
    """Gives the next turn to the one who asks and has waited longest for a turn, however many requests each makes."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """The requests of each who asks, who are in the order of their turns."""
        self._next = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self, who: Hashable) -> None:
        """Wait until one more request of theirs may be answered."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(future)
        if self._timer is None:
            self._give()
        await future

    def _give(self) -> None:
        """Let those whose turn is due go on, and plan the next turn."""
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        self._next = max(self._next, now - AT_ONCE / PER_SECOND)
        while self._waiting and self._next <= now:
            who = next(iter(self._waiting))
            requests = self._waiting.pop(who)
            request = requests.popleft()
            if requests:
                self._waiting[who] = requests
            if not request.done():  # its client is gone
                request.set_result(None)
                self._next += 1 / PER_SECOND
        if self._waiting:
            self._timer = loop.call_at(self._next, self._give)
