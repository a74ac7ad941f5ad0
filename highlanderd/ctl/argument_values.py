"""What the values of arguments may be, and the arguments that many commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Final

from highlanderd.api import MOST_EVENTS, MOST_LINES, MOST_TERMS, is_number
from highlanderd.durations import LONGEST_OUTAGE, seconds

STATES: Final = ("waiting", "leading", "draining", "backoff", "stopped")
OUTCOMES: Final = ("leading", "ready", "stopped", "finished")
"""What ``wait`` may wait for."""


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


def signal_name(text: str) -> str:
    """Return the name or number of a signal, in capitals. Raises argparse.ArgumentTypeError."""
    from signal import Signals  # for this alone

    name = text.upper()
    numbered = re.fullmatch(r"(SIG)?(RTMIN\+|RTMAX-)?[0-9]{1,2}", name)
    if numbered or f"SIG{name.removeprefix('SIG')}" in Signals.__members__:
        return name
    raise argparse.ArgumentTypeError(
        f"{text!r} is not the name or number of a signal, which stands before the programs, as in 'signal HUP beat'"
    )


def logged_name(text: str) -> str:
    """Return a name of a program whose lines are wanted. Raises argparse.ArgumentTypeError."""
    if re.fullmatch(r"-[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: the number of lines is written '-n {text[1:]}'")
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


def naming(command: argparse.ArgumentParser, *, number: str = "+", kind: Callable[[str], str] = str) -> None:
    """Let a command take programs."""
    command.add_argument(
        "names", nargs=number, type=kind, metavar="NAME", help="programs; globs such as 'web-*', or all"
    )
