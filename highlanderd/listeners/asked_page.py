"""A page about the whole cluster: PostgreSQL is asked for it at most once a second, however many look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from highlanderd.errors import HighlanderError, TimedOut
from highlanderd.listeners.shared_page import SharedPage

Asked = TypeVar("Asked")
Page = TypeVar("Page")
KEEP: Final = 1.0
"""Seconds for which it is shared, a refusal as well: each costs PostgreSQL a question."""
ANSWER_WITHIN: Final = 2.0
"""Seconds that PostgreSQL gets for its answer: those who look have little patience."""


def asked_page(ask: Callable[[], Awaitable[Asked]], render: Callable[[Asked], Page]) -> SharedPage[Asked, Page]:
    """Return a page that ``render`` makes of what ``ask`` returns, which must not raise: see ``refusable``."""
    return SharedPage(ask, render, keep=KEEP)


async def refusable(answer: Awaitable[Asked]) -> Asked | HighlanderError:
    """Return an answer or its refusal; a refusal, too, when there is none in time."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            return await answer
    except HighlanderError as error:
        return error
    except TimeoutError:
        return TimedOut(f"PostgreSQL has not answered within {ANSWER_WITHIN:g} s")
