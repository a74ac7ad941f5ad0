"""Which lock ids a person means who asks for the history of programs by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from highlanderd.core.terms import PastTerm
from highlanderd.errors import NoSuchProgram
from highlanderd.postgres.history import History
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


def chosen(names: Sequence[str], known: Iterable[tuple[str, int]]) -> set[int]:
    """Return the lock ids of the programs that names, globs and ``all`` choose; of all programs without a name.

    >>> chosen(["web-*", "a"], [("web-1", 1), ("web-1", 2), ("a", 3), ("b", 4)])
    {1, 2, 3}

    Raises NoSuchProgram for a name or glob that chooses none.
    """
    pairs = list(known)
    programs = sorted({program for program, _ in pairs})
    found = set[str]() if names else set(programs)
    for name in names:
        these = programs if name == "all" else [name] if name in programs else fnmatch.filter(programs, name)
        if not these and name != "all":
            raise NoSuchProgram(f"no program {name!r} is in the ledger; it has {', '.join(programs) or 'none'}")
        found.update(these)
    return {lock_id for program, lock_id in pairs if program in found}
