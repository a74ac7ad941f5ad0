"""Which programs a name, a glob or ``all`` means."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence

from highlanderd.errors import HighlanderError, NoSuchProgram

Refusal = Callable[[str, Iterable[str]], HighlanderError]
"""Makes the refusal of a name that none of the known ones is."""


def meant(name: str, known: Sequence[str]) -> list[str]:
    """Return those of ``known`` that a name, a glob or ``all`` means; a program of that very name comes first.

    >>> meant("web-*", ["web-1", "beat", "web-2"]), meant("all", ["beat"]), meant("baet", ["beat"])
    (['web-1', 'web-2'], ['beat'], [])
    """
    if name in known:
        return [name]
    return list(known) if name == "all" else fnmatch.filter(known, name)


def chosen(names: Sequence[str], known: Sequence[str], none: Refusal = NoSuchProgram.anywhere) -> list[str]:
    """Return those that names, globs and ``all`` choose, each once; all without a name.

    Raises what ``none`` makes, for a name or glob that chooses none.
    """
    found = set[str]() if names else set(known)
    for name in names:
        these = meant(name, known)
        if not these and name != "all":
            raise none(name, known)
        found.update(these)
    return [name for name in known if name in found]
