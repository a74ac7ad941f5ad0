"""The arguments of the commands that only read."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from highlanderd.api import DEFAULT_LINES, DEFAULT_TERMS, DEFAULT_TIMEOUT, MOST_EVENTS, MOST_LINES, MOST_TERMS
from highlanderd.ctl.argument_values import (
    OUTCOMES,
    STATES,
    duration,
    event_number,
    line_number,
    logged_name,
    naming,
    term_number,
)

Add = Callable[..., argparse.ArgumentParser]
"""Called with a command's name, its help and its aliases."""


def add_questions(add: Add) -> None:
    """Add every command that only reads."""
    _programs(add)
    _logs(add)
    _events(add)
    _top(add)
    _predicates(add)
    _history(add)
    add("version", "print the versions of highlanderctl and of the running daemon")


def _programs(add: Add) -> None:
    status = add("status", "show what runs where; with names, exit 3 unless all of them are led here")
    naming(status, number="*")
    status.add_argument(
        "--state", action="append", choices=STATES, help="only programs in this state; may be given several times"
    )
    status.add_argument("-w", "--watch", action="store_true", help="print it again at every change, until Ctrl-C")
    naming(add("show", "show everything about programs, with their processes and last output"))
    naming(add("pid", "print the ids of programs' main processes here; exit 3 where one of them has none"))
    config = add("config", "show the keys of one program as they are in force, and where each value was written")
    config.add_argument("name", metavar="NAME", help="one program of this node")
    config.add_argument("--config", metavar="FILE", help="read this file itself: no daemon is needed")
    config.set_defaults(dsn=None)
    cluster = add("cluster", "show every program and node of the cluster: who leads, and who could take over", "list")
    _without_daemon(cluster)
    cluster.add_argument("-w", "--watch", action="store_true", help="print it again and again, until Ctrl-C")
    explain = add("explain", "say why programs are led where they are, or nowhere, and when that may change by itself")
    naming(explain)
    _without_daemon(explain)


def _logs(add: Add) -> None:
    logs = add(
        "logs", "print the last lines of programs where they are led; without a name, those of this node", "tail"
    )
    naming(logs, number="*", kind=logged_name)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with each new line, until Ctrl-C")
    logs.add_argument(
        "-n",
        dest="number",
        type=line_number,
        metavar="N",
        default=str(DEFAULT_LINES),
        help=f"the last N lines of each program: 1 to {MOST_LINES}, or all that are kept (default: {DEFAULT_LINES})",
    )


def _events(add: Add) -> None:
    events = add("events", "print what has happened in the cluster lately, and on this node in detail; the newest last")
    how_much = events.add_mutually_exclusive_group()
    how_much.add_argument("-f", "--follow", action="store_true", help="go on with each new event, until Ctrl-C")
    how_much.add_argument(
        "-n",
        dest="number",
        type=event_number,
        metavar="N",
        default=MOST_EVENTS,
        help=f"the newest N events, 1 to {MOST_EVENTS} (default: {MOST_EVENTS})",
    )
    events.add_argument(
        "--snapshot",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with -f: begin with who leads what (default: do)",
    )
    _without_daemon(events)


def _top(add: Add) -> None:
    top = add("top", "show programs and events on the whole screen, until q or Ctrl-C")
    naming(top, number="*")


def _predicates(add: Add) -> None:
    leading = add("is-leading", "say whether this node leads a program: exit 0 where it does, 3 where not")
    leading.add_argument("name", metavar="NAME", help="one program")
    leading.add_argument("-q", "--quiet", action="store_true", help="print nothing about it")
    wait = add("wait", "return once each program has been as wanted, even if the daemon is away meanwhile")
    naming(wait)
    wait.add_argument(
        "--for",
        dest="state",
        choices=OUTCOMES,
        metavar=f"{{{','.join(OUTCOMES)}}}",
        required=True,
        help="leading, ready or finished: on any node; stopped: on this one",
    )
    wait.add_argument(
        "--timeout",
        type=duration,
        default=DEFAULT_TIMEOUT,
        metavar="DURATION",
        help=f"wait for so long at most (default: {DEFAULT_TIMEOUT:g}s)",
    )
    _without_daemon(wait)


def _history(add: Add) -> None:
    history = add("history", "show who led what on all nodes, when, and why it ended; the newest last")
    naming(history, number="*")
    _without_daemon(history)
    history.add_argument(
        "--summary",
        action="store_true",
        help="sum up by program; exit 1 when two terms of one lock id overlap, or the history lacks some",
    )
    history.add_argument(
        "--max-gap", type=duration, metavar="DURATION", help="as --summary, and exit 1 also when a gap was longer"
    )
    history.add_argument(
        "-n",
        dest="number",
        type=term_number,
        metavar="N",
        help=f"show the newest N terms, 1 to {MOST_TERMS} (default: {DEFAULT_TERMS}, with --summary {MOST_TERMS})",
    )


def _without_daemon(command: argparse.ArgumentParser) -> None:
    """Let a command ask PostgreSQL itself."""
    one = command.add_mutually_exclusive_group()
    one.add_argument("--dsn", metavar="DSN", help="ask this PostgreSQL itself: no daemon is needed")
    one.add_argument("--config", metavar="FILE", help="ask the PostgreSQL that a daemon's configuration names")
