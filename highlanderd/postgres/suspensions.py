"""Watch the ledger for orders that keep programs from being led on this node.

They are read a fifth of a lease apart, and at once when a notification says that an order was written. Programs that
wait see them with every look as well; a leader learns of them here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from highlanderd.core.observation import Suspension
from highlanderd.postgres import ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.replies import WireLost
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import dialect, sharing

Read = Callable[[Mapping[int, Suspension], Suspension | None], None]
"""Called with what stops programs everywhere, by lock id, and with what drains this node."""


class Suspensions:
    """Reads the orders. ``run`` does that until cancelled."""

    def __init__(self, server: Server, listener: Listener, node: str, on_read: Read) -> None:
        self._server, self._listener, self._node, self._on_read = server, listener, node, on_read
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Read them again and again. What cannot be read at present holds as it was read last."""
        end = self._listener.hint(sharing.ORDERED, self._wake.set)
        try:
            while True:
                self._wake.clear()
                with suppress(WireLost):
                    await self._look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._server.lease.renew_every):
                        await self._wake.wait()
        finally:
            end()

    async def _look(self) -> None:
        facts = self._listener.facts
        if facts is None or facts.version < dialect.SHARED:
            return
        reply = await self._listener.inquire("suspensions", sharing.SUSPENSIONS, self._node)
        if reply.error is not None:
            return
        found = {lock_id: ledger.suspension(order) for lock_id, order in reply.rows}
        everywhere = {int(lock_id): one for lock_id, one in found.items() if lock_id is not None and one is not None}
        self._on_read(everywhere, found.get(None))
