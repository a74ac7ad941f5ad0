"""The command line of ``highlanderd run``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from highlanderd import durations
from highlanderd.core.key import LABEL, LABEL_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

SUMMARY: Final = (
    "run one command on one node of a cluster, without a file: wait for the lead, pass signals, the terminal, standard "
    "input and the exit code through"
)

EPILOG: Final = (
    "Exit codes: the command's own, 128+N if signal N ended it, 2 usage, 69 PostgreSQL unreachable, 70 the lead was "
    "lost, 75 another node leads, 78 configuration invalid, 126 or 127 the command cannot be executed or found."
)


def describe(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    said = "name of the program, the same on all nodes (default: the command's last part, as /usr/bin/backup is backup)"
    parser.add_argument("--name", metavar="NAME", help=said)
    said = "PostgreSQL's connection string, or file:PATH (default: $HIGHLANDER_DSN, else libpq's own variables)"
    parser.add_argument("--dsn", metavar="DSN", help=said)
    waits = parser.add_mutually_exclusive_group()
    said = "do not wait: exit with 75 if another node leads, or its lease has to be waited for"
    waits.add_argument("-n", "--no-wait", dest="wait", action="store_const", const=0.0, help=said)
    said = "wait for so long at most (30, 5m), and then exit with 75"
    waits.add_argument("-w", "--wait", type=_duration, metavar="SECS", help=said)
    said = "skip it, with exit code 0, if the last successful run on any node began less than this ago (1h, 23h30m)"
    parser.add_argument("--at-most-every", dest="every", type=_duration, metavar="D", help=said)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    said = "the command and its arguments, after --"
    parser.set_defaults(refuse=parser.error)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help=said)


def command_of(arguments: argparse.Namespace) -> list[str]:
    """Return the words of the command. Exits with 2 when there are none."""
    words: list[str] = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words or not words[0]:
        arguments.refuse("name a command, as in: highlanderd run --name backup -- /usr/local/bin/backup --all")
    return words


def name_of(arguments: argparse.Namespace, words: list[str]) -> str:
    """Return the program's name. Exits with 2 when it can be none."""
    name: str = words[0].rpartition("/")[2] if arguments.name is None else arguments.name
    if not re.fullmatch(LABEL, name) or name == "all":
        cure = (
            f'write {LABEL_WORDS}, and not the word "all"' if arguments.name is not None else "give it one with --name"
        )
        arguments.refuse(f"a program cannot be named {name!r}; {cure}")
    return name


def dsn_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return the connection string; one that says nothing leaves all to libpq's variables."""
    dsn: str = arguments.dsn or environ.get("HIGHLANDER_DSN") or "postgresql://"
    if dsn.partition(":")[0] == "embedded":
        arguments.refuse("an embedded server belongs to one daemon; name a server that all nodes reach")
    return dsn


def _duration(text: str) -> float:
    seconds = durations.seconds(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write seconds, or 90s, 5m, 1h30m")
    return seconds
