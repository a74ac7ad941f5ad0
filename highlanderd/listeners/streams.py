"""Answers that go on: one JSON object a line, for as long as the client wants. No client can hold the daemon up.

A line is made when the client has taken the one before, so nothing queues up here. What a slow client misses meanwhile
is for its stream to say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from aiohttp import web

from highlanderd.errors import BadRequest, HighlanderError

MOST: Final = 64
"""Streams at once: as many people as look at one node, and few enough that others find a place."""
TAKEN_WITHIN: Final = 60.0
"""Seconds for which a client may take nothing of what it is sent."""
SIGN_EVERY: Final = 10.0
"""Seconds after which an empty line shows that both ends are still there."""

Object = Mapping[str, object]
Part = Object | None
"""An object to send; ``None`` where there is nothing to say at the moment."""


class Streams:
    """All streams of a listener."""

    def __init__(self) -> None:
        self._open = 0

    async def send(self, request: web.Request, parts: AsyncGenerator[Part]) -> web.StreamResponse:
        """Send each part as it comes, until there are no more or the client is gone. Raises HighlanderError."""
        if self._open >= MOST:
            raise HighlanderError(f"{MOST} clients follow logs or events of this node already; end one of them")
        self._open += 1
        try:
            async with aclosing(parts):
                return await self._send(request, parts)
        finally:
            self._open -= 1

    async def _send(self, request: web.Request, parts: AsyncGenerator[Part]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        loop = asyncio.get_running_loop()
        await response.prepare(request)
        sent = loop.time()
        async for part in parts:
            if request.transport is None:
                break
            if part is not None or loop.time() >= sent + SIGN_EVERY:
                text = "" if part is None else json.dumps(part)
                if not await _written(response, f"{text}\n".encode()):
                    request.transport.abort()
                    break
                sent = loop.time()
        return response


async def _written(response: web.StreamResponse, data: bytes) -> bool:
    """Return whether the client has taken it, or the kernel for it."""
    try:
        async with asyncio.timeout(TAKEN_WITHIN):
            await response.write(data)
    except (TimeoutError, ConnectionError):
        return False
    return True


def flag(request: web.Request, name: str, *, default: bool = False) -> bool:
    """Return what ``?NAME=true`` or ``?NAME=false`` says. Raises BadRequest."""
    value = request.query.get(name, str(default).lower())
    if value not in ("true", "false"):
        raise BadRequest(f"{name}={value!r} must be true or false")
    return value == "true"
