"""Read from the ledger what has happened. All who follow it share one question a second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from highlanderd.core.occurrences import Occurrence
from highlanderd.postgres.events import occurrences
from highlanderd.postgres.history import History
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.overview import refuse_older
from highlanderd.postgres.sql.remembering import EVENTS
from highlanderd.system.linux import boottime

AGE: Final = 1.0
"""Seconds for which it is not asked again what is new."""
FRESH: Final = 100
"""Events that may come in the meantime, all programs together."""
TERMS: Final = 5
"""Terms of one program that may begin in the meantime."""


class Events:
    """The events of one ledger."""

    def __init__(self, listener: Listener, history: History) -> None:
        self._listener, self._history = listener, history
        self._turn = asyncio.Lock()
        self._fresh: tuple[float, Sequence[Occurrence]] = (-AGE, ())

    async def newest(self, most: int) -> Sequence[Occurrence]:
        """Return the newest events, the newest last. Raises HighlanderError."""
        refuse_older((await self._listener.fresh_facts()).version)
        return await self._history.events(most)

    async def fresh(self) -> Sequence[Occurrence]:
        """Return what is new, at most a second old. Raises HighlanderError."""
        async with self._turn:
            if boottime() - self._fresh[0] >= AGE:
                refuse_older((await self._listener.fresh_facts()).version)
                asked, reply = boottime(), await self._listener.answer("events", EVENTS, FRESH, TERMS)
                self._fresh = asked, occurrences(reply)
            return self._fresh[1]
