"""The places of a listener: how many connections it serves at once, which one makes room, and how fast it answers."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

PER_SECOND: Final = 400.0
"""Requests that one listener answers in a second: each takes a fifth of a millisecond of the event loop, or more."""
AT_ONCE: Final = 40.0
"""Requests that are answered without a pause: a page of a few, from each of several clients."""
LEAST: Final = 16
"""Connections that a listener serves even where descriptors run short."""
AT_A_TIME: Final = 16
"""Connections that are accepted before the first of them is given a place or closed."""
AMPLE: Final = 1 << 16
"""A limit on descriptors that no configuration comes near."""
SPARE: Final = 3 * LEAST
"""Descriptors that clients beyond those leave to others; two listeners and what is being accepted fit in."""


def scarce() -> bool:
    """Return whether descriptors run short. To count them costs more than a connection, where there are thousands."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit > AMPLE:
        return False
    try:
        return len(os.listdir("/proc/self/fd")) > limit - SPARE  # noqa: PTH208 - their names are not needed
    except OSError:
        return True


class Places:
    """At most ``limit`` connections, and fewer where descriptors are scarce.

    When all places are taken, the one that has been idle for longest makes room.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: dict[asyncio.BaseProtocol, None] = {}
        """Those without a request under way, the longest idle first."""
        self._next = 0.0

    def take(self, connection: web.RequestHandler, connected: Iterable[object]) -> bool:
        """Return whether a new connection gets a place: not if all others, ``connected``, have a request under way."""
        living = set(connected)
        self._idle = {each: None for each in self._idle if each in living}
        if len(living) >= self._limit or (len(living) >= LEAST and scarce()):
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
