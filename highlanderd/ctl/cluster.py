"""``highlanderctl cluster``: every program and every node, who leads, who could take over and who could not."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from highlanderd.ctl import terminal
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.direct import asked
from highlanderd.ctl.printing import give
from highlanderd.ctl.tables import cut, fitted, ordered_by, plain
from highlanderd.durations import since_epoch, span
from highlanderd.errors import DONE, enumerated

PROGRAMS: Final = ("PROGRAM", "LEADER", "EPOCH", "SINCE", "READY", "STANDBYS", "CANDIDATES")
NODES: Final = ("NODE", "VERSION", "SEEN", "ADVERTISE", "STATE")
ELASTIC: Final = (0, 1, 6)
REFRESH: Final = 2.0
"""Seconds between two pictures of --watch."""


def cluster(daemon: ControlClient, arguments: Namespace) -> int:
    try:
        while True:
            _show(asked(daemon, arguments).ask("GET", "/v1/cluster"), arguments)
            if not arguments.watch:
                return DONE
            time.sleep(REFRESH)
    except KeyboardInterrupt:
        if arguments.watch:
            return DONE
        raise


def _show(answer: Answer, arguments: Namespace) -> None:
    width, height = terminal.size()
    now = _now(answer)
    if arguments.watch and arguments.output == "table" and sys.stdout.isatty():
        terminal.draw([cut(line, width) for line in picture(answer, width, now)], height)
        sys.stdout.flush()
    else:
        empty: tuple[str, ...] = ()  # between the two tables
        give(
            arguments,
            answer,
            lambda: picture(answer, width, now),
            lambda: [*_rows(answer, now), empty, NODES, *map(_node, answer["nodes"])],
        )


def _now(answer: Answer) -> float:
    """Return the time by the server's clock, which all times of the ledger are of; this host's may be another."""
    seen = ((since_epoch(node["seen"]), node.get("silent_for")) for node in answer["nodes"])
    return next((at + ago for at, ago in seen if at is not None and ago is not None), time.time())


def picture(answer: Mapping[str, Any], width: int | None, now: float) -> list[str]:
    """Return the lines: programs, nodes, and a line for whatever is out of the ordinary."""
    programs = fitted(_rows(answer, now), width, ELASTIC)
    nodes = fitted([NODES, *(_node(node) for node in answer["nodes"])], width, (0, 4))
    remarks = [line for remark in _remarks(answer) for line in _wrapped(remark, width)]
    return [*programs, "", *nodes, *([""] if remarks else []), *remarks]


def _wrapped(remark: str, width: int | None) -> list[str]:
    if width is None:
        return [remark]
    from textwrap import wrap  # for this alone

    return wrap(remark, max(width, 20), subsequent_indent="    ", break_on_hyphens=False)


def _rows(answer: Mapping[str, Any], now: float) -> list[tuple[str, ...]]:
    return [PROGRAMS, *(_program(program, now) for program in answer["programs"])]


def _program(program: Mapping[str, Any], now: float) -> tuple[str, ...]:
    return (
        plain(program["name"]),
        plain(program["leader"]),
        plain(program["epoch"]),
        span(_age(program["since"], now)),
        "-" if program["leader"] is None else "yes" if program["ready"] else "no",
        str(len(program["candidates"])),
        plain(", ".join(program["candidates"])),
    )


def _age(moment: str | None, now: float) -> float | None:
    began = since_epoch(moment)
    return None if began is None else now - began


def _node(node: Mapping[str, Any]) -> tuple[str, ...]:
    drained = "" if node["drained"] is None else f"drained {ordered_by(node['drained'])}"
    away = "" if node["present"] else "not connected"
    state = "; ".join(filter(None, (away, drained))) or "present"
    seen = "never" if node["seen"] is None else f"{span(node['silent_for'])} ago"
    return plain(node["name"]), plain(node["version"]), seen, plain(node["advertise"]), plain(state)


def _remarks(answer: Mapping[str, Any]) -> Iterator[str]:
    """Return a line for each thing that an operator should know: one for all programs of which it is true."""
    true_of: dict[str, list[str]] = {}
    for program in answer["programs"]:
        for sentence in _said_of(program):
            true_of.setdefault(sentence, []).append(plain(program["name"]))
    yield from (f"{enumerated(names)}: {sentence}" for sentence, names in true_of.items())
    if answer["maintenance"] is not None:
        under_way = answer["maintenance"]
        yield f"maintenance until {plain(under_way['until'])} by {plain(under_way['author'])}"


def _said_of(program: Mapping[str, Any]) -> Iterator[str]:
    stopped = "" if program["stopped"] is None else f"stopped everywhere {ordered_by(program['stopped'])}"
    if stopped:
        yield plain(stopped)
    elif program["leader"] is None and program.get("reason"):
        yield plain(program["reason"])
    for unable in program["unable"]:
        if unable["reason"] != stopped:  # which is true of all nodes
            yield f"{plain(unable['node'])} could not take over: {plain(unable['reason'])}"
    for drift in program["drift"]:
        yield f"{plain(drift['node'])} has another {plain(_listed(drift['keys']))}"


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys)
