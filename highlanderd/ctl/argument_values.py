"""What the values of arguments may be, and the arguments that many commands share."""

from __future__ import annotations

import argparse
from typing import Final

from highlanderd.api import MOST_EVENTS, MOST_LINES, MOST_TERMS, is_number
from highlanderd.durations import LONGEST_OUTAGE, seconds

STATES: Final = ("waiting", "leading", "draining", "backoff", "stopped")


def duration(text: str) -> float:
    """Return the seconds of ``10s``, ``1m30s`` or a plain number. Raises argparse.ArgumentTypeError."""
    if text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write a positive one, such as 60s")
    found = seconds(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write it as 10s, 1m30s or a number of seconds")
    return found


def outage(text: str) -> float:
    """Return the seconds of an outage that a maintenance may be for. Raises argparse.ArgumentTypeError."""
    found = duration(text)
    if not 0 < found <= LONGEST_OUTAGE:
        raise argparse.ArgumentTypeError(f"{text!r} is no outage to bear: name more than 0s, and 24h at most")
    return found


def line_number(text: str) -> str:
    """Return a number of lines, or ``all``. Raises argparse.ArgumentTypeError."""
    if text != "all" and not is_number(text, MOST_LINES):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines: name 1 to {MOST_LINES}, or all")
    return text


def term_number(text: str) -> int:
    """Return a number of terms. Raises argparse.ArgumentTypeError."""
    return _number(text, "terms", MOST_TERMS)


def event_number(text: str) -> int:
    """Return a number of events. Raises argparse.ArgumentTypeError."""
    return _number(text, "events", MOST_EVENTS)


def _number(text: str, things: str, most: int) -> int:
    if not is_number(text, most):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of {things}: name 1 to {most}")
    return int(text)


def naming(command: argparse.ArgumentParser, *, number: str = "+") -> None:
    """Let a command take programs."""
    command.add_argument("names", nargs=number, metavar="NAME", help="programs; globs such as 'web-*', or all")
