"""Which programs names, globs and ``all`` mean."""

from __future__ import annotations

from collections.abc import Sequence

from highlanderd import choice
from highlanderd.ctl.client import Answer
from highlanderd.errors import NoSuchProgram


def chosen(
    names: Sequence[str], programs: Sequence[Answer], none: choice.Refusal = NoSuchProgram.among
) -> list[Answer]:
    """Return the programs that names, globs and ``all`` choose, each once, in the daemon's order; all without a name.

    Raises what ``none`` makes, for a name or glob that chooses none.
    """
    found = set(choice.chosen(names, [str(program["name"]) for program in programs], none))
    return [program for program in programs if program["name"] in found]


def exact(names: Sequence[str]) -> set[str]:
    """Return those that name one program; globs and ``all`` do not."""
    return {name for name in names if name != "all" and not set(name) & set("*?[")}


def one_named(names: Sequence[str]) -> bool:
    """Return whether one program is asked for, by its name: then its facts alone are the answer."""
    return len(names) == len(exact(names)) == 1
