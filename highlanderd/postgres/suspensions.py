"""Watch the ledger for orders that keep programs from being led on this node.

They are read a fifth of a lease apart, and at once when a notification says that an order was written. Programs that
wait see them with every look as well; a leader learns of them here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from highlanderd.core.observation import Suspension
from highlanderd.postgres import ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.sql import sharing

Read = Callable[[Mapping[int, Suspension], Suspension | None], None]
"""Called with what stops programs everywhere, by lock id, and with what drains this node."""


class Suspensions:
    """Reads the orders. ``run`` does that until cancelled."""

    def __init__(self, listener: Listener, node: str, on_read: Read) -> None:
        self._listener, self._node, self._on_read = listener, node, on_read

    async def run(self) -> None:
        """Read them again and again. What cannot be read at present holds as it was read last."""
        await self._listener.follow(sharing.ORDERED, self._look)

    async def _look(self) -> None:
        if not self._listener.shares:
            return
        reply = await self._listener.inquire("suspensions", sharing.SUSPENSIONS, self._node)
        if reply.error is not None:
            return
        found = {lock_id: ledger.suspension(order) for lock_id, order in reply.rows}
        everywhere = {int(lock_id): one for lock_id, one in found.items() if lock_id is not None and one is not None}
        self._on_read(everywhere, found.get(None))
