"""Read which other nodes wait for programs that they could lead: placement goes by it.

It is read a fifth of a lease apart, and at once when an order was written. Nobody may lead because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from highlanderd.postgres.listener import Listener
from highlanderd.postgres.replies import document
from highlanderd.postgres.sql import sharing

Standing = Mapping[str, Mapping[str, str]]
"""By node, and by program that it waits for: a token that changes with each break."""

NOBODY: Final[Standing] = {}


class StandingReader:
    """Reads who stands by. ``run`` does that until cancelled."""

    def __init__(self, listener: Listener, node: str, on_read: Callable[[Standing], None]) -> None:
        self._listener, self._node, self._on_read = listener, node, on_read

    async def run(self) -> None:
        """Read it again and again. What cannot be read at present holds as it was read last."""
        await self._listener.follow(sharing.ORDERED, self._look)

    async def _look(self) -> None:
        if not self._listener.shares:
            if self._listener.facts is not None:  # a schema that is too old to say it
                self._on_read(NOBODY)
            return
        reply = await self._listener.inquire("peers", sharing.PEERS, self._node)
        if reply.error is None:
            self._on_read({node or "": _tokens(programs) for node, programs in reply.rows})


def _tokens(text: str | None) -> dict[str, str]:
    """Return the tokens by program. Each role that may write to the ledger may have written something else."""
    found = document(text)
    return {name: str(token) for name, token in found.items()} if isinstance(found, dict) else {}
