"""Which lock ids a person means who asks for the history of programs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from highlanderd.core.terms import PastTerm
from highlanderd.postgres.history import History, chosen
from highlanderd.postgres.listener import Listener


async def past(
    listener: Listener, history: History, configured: Mapping[str, int], names: Sequence[str], limit: int
) -> tuple[PastTerm, ...]:
    """Return the newest terms of programs that are in the ledger, wherever they are configured.

    ``configured`` holds the lock ids of this node's programs. Raises NoSuchProgram for a name or glob that chooses
    none, HighlanderError when the ledger cannot be read.
    """
    await listener.fresh_facts()
    led = [(leader.program, lock_id) for lock_id, leader in listener.leaders.items()]
    return await history.read(sorted(chosen(names, [*configured.items(), *led])), limit)
