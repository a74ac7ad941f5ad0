"""``highlanderctl status``: this node's rows, and a line for whatever is out of the ordinary."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any, Final

from highlanderd.ctl import tables, terminal
from highlanderd.ctl.ahead import MEASURED
from highlanderd.ctl.choice import chosen, exact
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.printing import give
from highlanderd.errors import DONE, NOT_LEADING, enumerated

REFRESH: Final = 2.0
"""Seconds between two pictures of --watch when nothing changes: uptimes go on."""
BREATH: Final = 0.2
"""Seconds between two pictures when much changes."""


def status(daemon: ControlClient, arguments: Namespace) -> int:
    if not arguments.watch:
        measured = arguments.output != "table"  # the table has no column of what children use
        return _show_status(daemon.ask("GET", MEASURED) if measured else daemon.status(), arguments)
    wait, drawn = None, 0.0
    try:
        while True:
            answer = daemon.status(wait, REFRESH)
            wait = REFRESH
            time.sleep(max(0.0, drawn + BREATH - time.monotonic()))
            drawn = time.monotonic()
            _show_status(answer, arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print()  # the picture ends within its last line
        return DONE


def _show_status(answer: Answer, arguments: Namespace) -> int:
    wanted = chosen(arguments.names, answer["programs"])
    programs = [one for one in wanted if not arguments.state or one["state"] in arguments.state]
    asked = {**answer, "programs": programs}
    if arguments.output == "table":
        _print_table(asked, arguments.watch)
    else:
        now = time.time()
        rows = [tables.HEADINGS, *(tables.cells(program, tables.age(program, now)) for program in programs)]
        give(arguments, asked, list, lambda: rows)
    named = exact(arguments.names)
    return NOT_LEADING if any(p["name"] in named and p["state"] != "leading" for p in wanted) else DONE


def _print_table(answer: Answer, watch: bool) -> None:
    on_terminal = sys.stdout.isatty()
    width, height = terminal.size()
    colour = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    now = time.time()
    drawn, programs = watch and on_terminal, answer["programs"]
    shown = tables.sickest_first(programs) if drawn else programs
    rows = [tables.cells(program, tables.age(program, now)) for program in shown]
    lines = [tables.counts(programs)] if drawn else []
    lines += tables.table(rows, width=width, colour=colour)
    troubles = list(footer(answer, now))
    if drawn:
        lines[1:1] = [tables.cut(trouble, width) for trouble in troubles]
        terminal.draw(lines, height)
    else:
        print("\n".join([*lines, *([tables.counts(programs)] if on_terminal else [])]), flush=True)
        print("".join(f"{trouble}\n" for trouble in troubles), end="", file=sys.stderr)


def footer(answer: Mapping[str, Any], now: float) -> Iterator[str]:
    """Return a line for each thing that is out of the ordinary. A daemon of an earlier release knows fewer of them."""
    if answer.get("maintenance"):
        yield from tables.maintenance(answer["maintenance"], answer["postgres"], now)
    if answer.get("drained"):
        yield f"this node is drained {tables.plain(tables.ordered_by(answer['drained']))}"
    stopped: dict[str, list[str]] = {}
    for program in answer["programs"]:
        if program.get("stopped"):
            stopped.setdefault(tables.plain(tables.ordered_by(program["stopped"])), []).append(program["name"])
    for by, names in stopped.items():
        yield f"stopped everywhere {by}: {tables.plain(enumerated(names))}"
    alone = [one["name"] for one in answer["programs"] if one["state"] == "leading" and one.get("candidates") == 0]
    if alone:
        yield f"no standby: no other node could take over {tables.plain(enumerated(alone))} now"
    if not answer["postgres"]["connected"]:
        yield f"warning: {_unconnected(answer)}"
    yield from (f"warning: {tables.plain(trouble)}" for trouble in answer["warnings"])


def _unconnected(answer: Mapping[str, Any]) -> str:
    """Return why the latest attempt to connect has failed, and for whom: it may have been one of many."""
    why = tables.plain(answer["postgres"]["trouble"] or "not connected yet")
    without = [one["name"] for one in answer["programs"] if not one["connected"]]
    if 0 < len(without) < len(answer["programs"]):
        return f"no connection to PostgreSQL for {tables.plain(enumerated(without))}: {why}"
    return f"PostgreSQL cannot be used: {why}"
