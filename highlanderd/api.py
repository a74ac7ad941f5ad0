"""The numbers that a client and the daemon share: how much a request may ask for, and what it asks for by default."""

from __future__ import annotations

from typing import Final

MOST_LINES: Final = 200
"""Of one program: a logger keeps as many."""
DEFAULT_LINES: Final = 30
"""Of each program."""
MOST_TERMS: Final = 1000
"""Of one answer: it costs the daemon's event loop some milliseconds. A summary looks at as many."""
DEFAULT_TERMS: Final = 100
MOST_EVENTS: Final = 100
"""Of one answer that does not go on; it is the default, too."""
DEFAULT_TIMEOUT: Final = 60.0
"""Seconds to wait for the outcome of an order: six times the default stop_timeout."""
LONGEST_REASON: Final = 500
"""Characters of an operator's reason: a sentence or two."""


def is_number(text: str, most: int) -> bool:
    """Return whether a text is a whole number from 1 to ``most``.

    >>> is_number("30", 200), is_number("0", 200), is_number("1e2", 200), is_number("000000010999", 200)
    (True, False, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) < 10 and 0 < int(text) <= most
