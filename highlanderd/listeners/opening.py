"""Opens the listeners, and tries again those that cannot be opened: a daemon leads without them, too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

from highlanderd.errors import HighlanderError

if TYPE_CHECKING:
    from highlanderd.listeners.sockets import Closer

log = logging.getLogger(__name__)

Door = Callable[[], "Awaitable[Closer]"]
"""What opens a listener. Raises HighlanderError."""
LISTEN_AGAIN: Final = 5.0
"""Seconds until a listener that could not be opened is tried again."""
TRIED_WITHIN: Final = 5.0
"""Seconds after which a listener counts as tried, whatever it waits for: a name server, a user database."""


class Doors:
    """All listeners of a daemon; none waits for another."""

    def __init__(self) -> None:
        self._reasons: dict[Door, str] = {}

    @property
    def shut(self) -> frozenset[str]:
        """Why listeners could not be opened yet."""
        return frozenset(self._reasons.values())

    async def open(self, doors: Sequence[Door], opened: AsyncExitStack, on_tried: Callable[[], None]) -> None:
        """Open them on the stack, which closes them; ``on_tried`` is called once each has been tried."""
        async with asyncio.TaskGroup() as group:
            tried = [asyncio.Event() for _ in doors]
            for door, event in zip(doors, tried, strict=True):
                group.create_task(self._insist(opened, door, event))
            with suppress(TimeoutError):
                async with asyncio.timeout(TRIED_WITHIN):
                    for event in tried:
                        await event.wait()
            on_tried()

    async def _insist(self, opened: AsyncExitStack, door: Door, tried: asyncio.Event) -> None:
        while why := await self._opened(opened, door):
            if self._reasons.get(door) != why:
                log.error("%s", why)
            self._reasons[door] = why
            tried.set()
            await asyncio.sleep(LISTEN_AGAIN)
        self._reasons.pop(door, None)
        tried.set()

    async def _opened(self, opened: AsyncExitStack, door: Door) -> str:
        """Open one; return why it cannot be opened, or nothing."""
        try:
            opened.push_async_callback(await door())
        except HighlanderError as error:
            return f"{error}; trying again every {LISTEN_AGAIN:g} s"
        return ""
