"""What a request on the control socket may say: a small JSON object, and how long it may wait."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Final

from aiohttp import web

from highlanderd.errors import BadRequest
from highlanderd.listeners.fields import FIELDS, LONGEST_WAIT, checked

WHOLE_WITHIN: Final = 5.0
"""Seconds for the rest of a request, while it holds a place: a Unix socket brings it in less than a millisecond."""


async def body_of(request: web.Request) -> dict[str, Any]:
    """Return the fields of a request, each checked. Raises BadRequest with what it takes instead."""
    resource = request.match_info.route.resource
    assert resource is not None  # noqa: S101 - only routed requests come here
    return checked(_object(await whole(request)), FIELDS[resource.canonical])


async def whole(request: web.Request) -> bytes:
    """Return the body, once all of it has come. Raises BadRequest when it does not, or cannot be unpacked."""
    try:
        async with asyncio.timeout(WHOLE_WITHIN):
            return await request.read()
    except (TimeoutError, web.RequestPayloadError):
        raise BadRequest("the request's body never came whole") from None


def _object(raw: bytes) -> object:
    try:
        return json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def wait_of(request: web.Request) -> float | None:
    """Return the seconds of ``?wait=SECONDS``; None without it. Raises BadRequest."""
    wait = request.query.get("wait")
    if wait is None:
        return None
    try:
        seconds = float(wait)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_WAIT:
        raise BadRequest(f"wait={wait!r} must be a number of seconds from 0 to {LONGEST_WAIT:g}")
    return seconds
