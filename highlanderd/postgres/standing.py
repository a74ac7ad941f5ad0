"""Read which other nodes wait for programs that they could lead, and which programs are up: placement goes by it.

The reader looks a fifth of a lease apart, and at once when an order was written. No node may lead because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct, field

from highlanderd.postgres.listener import Listener
from highlanderd.postgres.replies import document
from highlanderd.postgres.sql import sharing


class Standing(Struct, frozen=True):
    """What the ledger shows of programs on all nodes."""

    waiting: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By other node, and by program that it waits for: a token that changes with each break."""
    others: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By other node that is present: the programs that it has, and does not wait for or could not lead."""
    ready: frozenset[str] = frozenset()
    """The programs that are ready somewhere."""
    finished: Mapping[str, tuple[int | None, str | None]] = field(default_factory=dict)
    """By program that has finished: its exit status, or the name of a signal; neither where that is not known."""


class StandingReader:
    """Reads all that. ``run`` does so until cancelled; ``wants_all`` returns whether it matters which are up."""

    def __init__(
        self, listener: Listener, node: str, on_read: Callable[[Standing], None], wants_all: Callable[[], bool]
    ) -> None:
        self._listener, self._node, self._on_read, self._wants_all = listener, node, on_read, wants_all

    async def run(self) -> None:
        """Read it again and again. What cannot be read at present holds as it was read last."""
        await self._listener.follow(sharing.ORDERED, self._look)

    async def _look(self) -> None:
        if not self._listener.shares:
            if self._listener.facts is not None:  # a schema that is too old to say it
                self._on_read(Standing())
            return
        peers = await self._listener.inquire("peers", sharing.PEERS, self._node)
        up = await self._listener.inquire("up", sharing.UP) if self._wants_all() else None
        if peers.error is not None or (up is not None and up.error is not None):
            return
        rows = () if up is None else up.rows
        self._on_read(
            Standing(
                {node or "": _tokens(programs) for node, programs, _ in peers.rows},
                {node or "": frozenset(_tokens(programs)) for node, _, programs in peers.rows},
                frozenset(name or "" for name, ready, *_ in rows if ready == "t"),
                {name or "": _ended(status, signal) for name, ready, status, signal in rows if ready != "t"},
            )
        )


def _tokens(text: str | None) -> dict[str, str]:
    """Return the tokens by program. Each role that may write to the ledger may have written something else."""
    found = document(text)
    return {name: str(token) for name, token in found.items()} if isinstance(found, dict) else {}


def _ended(status: str | None, signal: str | None) -> tuple[int | None, str | None]:
    return (int(status) if status is not None and status.isdigit() else None), signal
