"""The terminal that answers are written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

COLUMNS: Final = 80
LINES: Final = 24
"""What a terminal has that does not know its size."""


def size() -> tuple[int | None, int | None]:
    """Return the columns and lines there are to write on; None without a terminal, or where it does not know."""
    if not sys.stdout.isatty():
        return None, None
    found = os.get_terminal_size(sys.stdout.fileno())
    return found.columns or None, found.lines - 1 if found.lines > 1 else None


def screen() -> tuple[int, int]:
    """Return the columns and lines of the whole screen; a serial console, or one in a container, may say 0 of each."""
    found = os.get_terminal_size(sys.stdout.fileno())
    return found.columns or COLUMNS, found.lines or LINES


def draw(lines: Sequence[str], height: int | None) -> None:
    """Draw over the last picture: clearing first would flicker."""
    print("\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines[:height]) + "\x1b[J", end="")
