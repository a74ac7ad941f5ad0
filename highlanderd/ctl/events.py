"""``highlanderctl events``: what has happened in the cluster lately, and what happens."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from highlanderd.ctl.client import ControlClient
from highlanderd.ctl.direct import Direct, asked
from highlanderd.ctl.following import followed
from highlanderd.ctl.tables import plain
from highlanderd.durations import clock
from highlanderd.errors import DONE, BadRequest

HEADINGS = ("TIME", "EVENT", "NODE", "PROGRAM", "EPOCH", "DETAIL")


def events(daemon: ControlClient, arguments: Namespace) -> int:
    if arguments.output == "tsv":
        print("\t".join(HEADINGS))
    try:
        for event in _found(daemon, arguments):
            print(_shown(event, arguments.output))
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not arguments.follow:
            raise
    return DONE


def _found(daemon: ControlClient, arguments: Namespace) -> Iterator[dict[str, Any]]:
    source = asked(daemon, arguments)
    if isinstance(source, Direct):
        if arguments.follow:
            raise BadRequest("-f asks the daemon of this machine; leave --dsn and --config out, or leave out -f")
        yield from source.ask("GET", "/v1/events")["events"][-arguments.number :]
    elif arguments.follow:
        first = f"/v1/events?follow=true&snapshot={str(arguments.snapshot).lower()}"
        yield from (one for one in followed(daemon, first, "/v1/events?follow=true&snapshot=false") if one is not None)
    else:
        yield from [*daemon.stream("/v1/events")][-arguments.number :]


def _shown(event: dict[str, Any], output: str) -> str:
    if output == "json":
        return json.dumps(event)
    cells = [plain(event[key]) for key in ("time", "event", "node", "program", "epoch")]
    if output == "tsv":
        return "\t".join([*cells, plain(detail(event))])
    return line(event, time.time())


def line(event: dict[str, Any], now: float) -> str:
    """Return an event as a line for people; ``now`` is in seconds of the epoch.

    >>> ended = {"event": "ended", "node": "a", "program": "beat", "epoch": 3, "cause": "exited", "exit_status": 1}
    >>> line({"time": "2026-01-02T03:04:05.678Z", **ended}, 1767312000.0)
    '03:04:05 UTC  a  beat  ended, epoch 3: exited (1)'
    """
    what = event["event"] + (f", epoch {event['epoch']}" if event["epoch"] is not None else "")
    more = detail(event)
    where = "  ".join(plain(event[key]) for key in ("node", "program"))
    return f"{plain(clock(event['time'], now))}  {where}  {plain(what)}" + (f": {plain(more)}" if more else "")


def detail(event: dict[str, Any]) -> str:
    """Return how, by whom and why.

    >>> detail({"cause": "fenced", "reason": "fenced: the lease could not be renewed in time"})
    'fenced: the lease could not be renewed in time'
    >>> detail({"event": "snapshot", "node": None, "reason": "next run at 2026-01-03T02:30:00Z"})
    'led by no node: next run at 2026-01-03T02:30:00Z'
    """
    signal, status = event.get("exit_signal"), event.get("exit_status")
    how = str(signal or ("" if status is None else status))
    cause, reason = event.get("cause") or "", event.get("reason") or ""
    leader = f"led by {event['node'] or 'no node'}" if event.get("event") == "snapshot" else ""
    parts = [
        leader,
        "" if reason.startswith(f"{cause}:") else cause,
        f"({how})" if how else "",
        f"by {event['author']}" if event.get("author") else "",
    ]
    told = " ".join(part for part in parts if part)
    return ": ".join(part for part in (told, reason) if part)
