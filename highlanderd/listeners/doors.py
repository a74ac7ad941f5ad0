"""Opens the listeners, and tries again what cannot be opened: leads matter more than being looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from highlanderd.errors import HighlanderError
from highlanderd.listeners.listen import Closer

log = logging.getLogger(__name__)

Door = Callable[[], Awaitable[Closer]]
"""What opens a listener. Raises HighlanderError."""
LISTEN_AGAIN: Final = 5.0
"""Seconds until a listener that could not be opened is tried again."""


class Doors:
    """All listeners of a daemon."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self._doors = doors
        self.shut: frozenset[str] = frozenset()
        """Why some could not be opened yet."""

    async def open(self, opened: AsyncExitStack, on_tried: Callable[[], None]) -> None:
        """Open them on the stack, which closes them; ``on_tried`` is called once each has been tried."""
        shut = await self._try(opened, self._doors)
        on_tried()
        while shut:
            await asyncio.sleep(LISTEN_AGAIN)
            shut = await self._try(opened, shut)

    async def _try(self, opened: AsyncExitStack, doors: Sequence[Door]) -> list[Door]:
        """Try some side by side; gives those that stay shut."""
        reasons = await asyncio.gather(*(self._opened(opened, door) for door in doors))
        known, self.shut = self.shut, frozenset(why for why in reasons if why)
        for why in self.shut - known:
            log.error("%s", why)
        return [door for door, why in zip(doors, reasons, strict=True) if why]

    async def _opened(self, opened: AsyncExitStack, door: Door) -> str:
        """Open one; gives the reason when that cannot be."""
        try:
            opened.push_async_callback(await door())
        except HighlanderError as error:
            return f"{error}; trying again every {LISTEN_AGAIN:g} s"
        return ""
