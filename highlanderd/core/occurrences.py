"""What has happened, for people: what the ledger remembers of the whole cluster, and what a node has seen by itself.

The beginning and the end of a term are in both. Their key is the same, so nobody is shown one of them twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

from msgspec import Struct

LED: Final = "leading"
"""A term has begun."""
ENDED: Final = "ended"
"""A term has ended."""


class Occurrence(Struct, frozen=True):
    """One line of ``highlanderctl events``."""

    time: str
    """RFC 3339: by the server's clock for what the ledger remembers, by the node's for what it saw."""
    event: str
    node: str | None
    """Which node it concerns; ``None`` for all."""
    program: str | None = None
    """``None`` for all."""
    epoch: int | None = None
    cause: str | None = None
    """Why a term ends or has ended."""
    exit_status: int | None = None
    """Of a main process; ``None`` as well where a signal has ended it."""
    exit_signal: str | None = None
    author: str | None = None
    """Who has ordered it."""
    reason: str | None = None
    """What the author gave as the reason; or why it is so, in words."""

    @property
    def key(self) -> Hashable:
        """Return what tells it from all others."""
        if self.event in (LED, ENDED):
            return self.event, self.node, self.program, self.epoch
        return self


def latest(remembered: Iterable[Occurrence], seen: Iterable[Occurrence], most: int) -> list[Occurrence]:
    """Return the newest of both, the newest last, each once: as the ledger remembers it, if it does."""
    found = {one.key: one for one in (*seen, *remembered)}
    return sorted(found.values(), key=lambda one: one.time)[-most:]
