"""The places of a listener: how many connections it serves at once, which one makes room, and how fast it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

PER_SECOND: Final = 400.0
"""Requests that one listener answers in a second: each takes a fifth of a millisecond of the event loop, or more."""
AT_ONCE: Final = 40.0
"""Requests that are answered without a pause: a page of a few, from each of several clients."""


class Places:
    """At most ``limit`` connections. When all places are taken, the one that has been idle for longest makes room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: dict[asyncio.BaseProtocol, None] = {}
        """Those without a request under way, the longest idle first."""
        self._next = 0.0

    def take(self, connection: web.RequestHandler, connected: Iterable[object]) -> bool:
        """Give a new connection a place; False when all have a request under way. ``connected`` are those of now."""
        living = set(connected)
        self._idle = {each: None for each in self._idle if each in living}
        if len(living) >= self._limit:
            oldest = next(iter(self._idle), None)
            if not isinstance(oldest, web.RequestHandler):
                return False
            del self._idle[oldest]
            if oldest.transport is not None:
                oldest.transport.abort()
        self._idle[connection] = None
        return True

    def middleware(self) -> Middleware:
        """Return what notes who has a request under way, and answers no faster than the listener may."""

        @web.middleware
        async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            self._idle.pop(connection, None)
            try:
                await self._turn()
                return await handler(request)
            finally:
                self._idle[connection] = None

        return hold

    async def _turn(self) -> None:
        """Wait until one more request may be answered."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - AT_ONCE / PER_SECOND) + 1 / PER_SECOND
        if self._next > now:
            await asyncio.sleep(self._next - now)
