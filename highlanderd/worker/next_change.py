"""The next change of any program of this node, for those who wait for it."""

from __future__ import annotations

import asyncio


class Changes:
    """Lets many wait for the next change of any program."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def note(self) -> None:
        """Wake all who wait."""
        self._next.set()
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """What is set at the next change."""
        return self._next

    async def wait(self) -> None:
        """Return at the next change."""
        await self._next.wait()
