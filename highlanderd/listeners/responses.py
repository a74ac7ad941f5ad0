"""HTTP responses whose body is JSON."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from highlanderd.listeners.answers import encoded


def failure(status: int, code: str, message: str) -> web.Response:
    """Return the answer to a request that failed."""
    return answer({"error": {"code": code, "message": message}}, status)


def answer(facts: Mapping[str, object], status: int = 200) -> web.Response:
    """Return facts as JSON."""
    return page(encoded(facts), status)


def page(text: str, status: int = 200) -> web.Response:
    """Return the answer with this text."""
    return web.Response(text=text, status=status, content_type="application/json")
