"""Which programs names, globs and ``all`` mean."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from highlanderd.ctl.client import Answer
from highlanderd.errors import NoSuchProgram


def chosen(names: Sequence[str], programs: Sequence[Answer]) -> list[Answer]:
    """Return the programs that names, globs and ``all`` choose, each once, in the daemon's order; all without a name.

    Raises NoSuchProgram for a name or glob that chooses none.
    """
    found: set[str] = set()
    known = [str(program["name"]) for program in programs]
    for name in names:
        these = known if name == "all" else [other for other in known if other == name]
        these = these or fnmatch.filter(known, name)
        if not these and name != "all":
            raise NoSuchProgram.among(name, known)
        found.update(these)
    return [program for program in programs if not names or program["name"] in found]


def exact(names: Sequence[str]) -> set[str]:
    """Return those that name one program; globs and ``all`` do not."""
    return {name for name in names if name != "all" and not set(name) & set("*?[")}
