"""Read the DSN again when a connection was refused: its password may have been changed since it was read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from highlanderd.errors import HighlanderError
from highlanderd.postgres.addresses import Addresses, Unfit
from highlanderd.threads import in_thread

log = logging.getLogger(__name__)

PAUSE: Final = 1.0
"""Seconds between two readings: as long as between two probes to a server that says no."""


class Credentials:
    """One reading at a time. A disk that hangs holds up nothing but the next reading."""

    def __init__(self, addresses: Addresses, read: Callable[[], str] | None) -> None:
        """``read`` returns the DSN as its file says now. It may wait, and raise HighlanderError; None for no file."""
        self._addresses, self._read = addresses, read
        self._under_way: asyncio.Future[str] | None = None
        self._next = 0.0

    def begin(self) -> None:
        """Read it, unless that is under way or has just been done. The next attempts to connect use what it says."""
        now = asyncio.get_running_loop().time()
        if self._read is None or self._under_way is not None or now < self._next:
            return
        self._next = now + PAUSE
        self._under_way = in_thread(self._read, "read the dsn again")
        self._under_way.add_done_callback(self._done)

    def _done(self, reading: asyncio.Future[str]) -> None:
        self._under_way = None
        try:
            changed = self._addresses.follow(reading.result())
        except (HighlanderError, Unfit, OSError) as error:
            log.debug("what postgres.dsn says now is not used: %s", error)
        else:
            if changed:
                log.info("postgres.dsn has other credentials than before: new connections use them")
