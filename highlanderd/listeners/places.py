"""The places of a listener: how many connections it serves at once, whose they are, and which one makes room."""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from highlanderd.listeners.pace import Pace

LEAST: Final = 16
"""Connections that a listener serves even where descriptors run short."""
KEPT: Final = 8
"""Places that only the preferred ones get: for an operator, his scripts, and a package that is being upgraded."""
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

    A client is a user or an address. When all places are taken, a connection makes room: the one that has been idle for
    longest, of those clients who hold no fewer than the new one; when none is idle, the oldest one of the client who
    holds the most. A client takes no place of one who holds fewer. Some places are kept for the ``preferred`` ones.
    """

    def __init__(self, limit: int, preferred: Iterable[Hashable] = ()) -> None:
        self._limit, self._preferred = limit, frozenset(preferred)
        self._clients: dict[web.RequestHandler, Hashable] = {}
        """Whose each connection is, the oldest first."""
        self._idle: dict[web.RequestHandler, None] = {}
        """Those without a request under way, the longest idle first."""
        self._pace = Pace()

    def take(self, client: Hashable, connected: Iterable[object]) -> bool:
        """Return whether a new connection of ``client`` gets a place. ``connected`` are all others."""
        living = set(connected)
        self._clients = {each: whose for each, whose in self._clients.items() if each in living}
        self._idle = {each: None for each in self._idle if each in living}
        if not self._full(client):
            return True
        leaver = self._leaver(client)
        if leaver is None:
            return False
        del self._clients[leaver]
        self._idle.pop(leaver, None)
        if leaver.transport is not None:
            leaver.transport.abort()
        return True

    def fill(self, connection: web.RequestHandler, client: Hashable) -> None:
        """Give a connection its place."""
        self._clients[connection] = client
        self._idle[connection] = None

    def _full(self, client: Hashable) -> bool:
        held = len(self._clients)
        kept = KEPT if self._preferred and client not in self._preferred else 0
        return held >= self._limit - kept or (held >= LEAST and scarce())

    def _leaver(self, client: Hashable) -> web.RequestHandler | None:
        """Return the connection that makes room for a new one; None if none has to."""
        held = Counter(self._clients.values())
        for each in self._idle:
            if held[self._clients[each]] >= held[client]:
                return each
        greediest, most = held.most_common(1)[0]
        if most <= held[client] + 1:
            return None
        return next(each for each, whose in self._clients.items() if whose == greediest)

    def middleware(self) -> Middleware:
        """Return what notes who has a request under way, and answers no faster than the listener may."""

        @web.middleware
        async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            self._idle.pop(connection, None)
            try:
                await self._pace.turn(self._clients.get(connection))
                return await handler(request)
            finally:
                if connection in self._clients:  # it has not made room meanwhile
                    self._idle[connection] = None

        return hold
