"""A page that is rendered once for all who wait for it, so that what it costs is bounded however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

Asked = TypeVar("Asked")
Page = TypeVar("Page")
SHARE: Final = 0.1
"""The part of the event loop's time that rendering one page takes at most."""
AT_ONCE: Final = 0.5
"""Seconds of rendering that need no rest before them: thirty commands one after the other, with 500 programs."""
LEAST_COST: Final = 0.005
"""Seconds that each page counts for at least: what prepares it may cost other processes."""


class SharedPage(Generic[Asked, Page]):
    """One page. ``get`` returns one that is at most ``keep`` seconds older than the request, 0 by default."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Asked]],
        render: Callable[[Asked], Page],
        *,
        keep: float = 0.0,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        """Make a page: ``render`` makes it of what ``ask`` returns, and only what that takes counts as its cost.

        The cost is taken from ``processor``, in seconds: on a busy machine rendering lasts longer, and costs no more.
        """
        self._ask, self._render, self._keep, self._processor = ask, render, keep, processor
        self._begun = -1.0
        self._due = 0.0
        """When what was rendered has had its rest."""
        self._lock = asyncio.Lock()
        self._page: Page | None = None

    async def get(self) -> Page:
        """Return the page. Raises what ``ask`` and ``render`` raise."""
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        async with self._lock:
            if self._page is not None and self._begun >= arrived - self._keep:
                return self._page
            await asyncio.sleep(max(0.0, self._due - AT_ONCE / SHARE - loop.time()))
            begun = loop.time()
            asked = await self._ask()
            began = self._processor()
            try:
                page = self._render(asked)
            finally:
                cost = max(LEAST_COST, self._processor() - began)
                self._due = max(self._due, loop.time() - cost) + cost / SHARE
            self._page, self._begun = page, begun
            return page
