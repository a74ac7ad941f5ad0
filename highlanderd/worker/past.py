"""Which lock ids a person means who asks for the history of programs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from highlanderd.postgres.history import chosen
from highlanderd.postgres.listener import Listener


async def named(listener: Listener, configured: Mapping[str, int], names: Sequence[str]) -> list[int]:
    """Return the lock ids of programs that are in the ledger, wherever they are configured.

    ``configured`` holds the lock ids of this node's programs. Raises NoSuchProgram for a name or glob that chooses
    none, HighlanderError when the ledger cannot be read.
    """
    await listener.fresh_facts()
    led = [(leader.program, lock_id) for lock_id, leader in listener.leaders.items()]
    return sorted(chosen(names, [*configured.items(), *led]))
