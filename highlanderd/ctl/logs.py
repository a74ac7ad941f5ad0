"""``highlanderctl logs``: the last lines of programs, and the next ones as they come."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator

from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.exchange import query
from highlanderd.ctl.following import followed
from highlanderd.ctl.tables import plain
from highlanderd.errors import DONE


def logs(daemon: ControlClient, arguments: Namespace) -> int:
    several = len(arguments.names) != 1 or arguments.names[0] == "all" or bool(set(arguments.names[0]) & set("*?["))
    if not arguments.follow:
        lines = sorted(daemon.stream(_resource(arguments, arguments.number)), key=_moment)
        for line in lines:
            _print(line, arguments.output, several=several)
        return DONE
    try:
        for line in _following(daemon, arguments):
            _print(line, arguments.output, several=several)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    return DONE


def _resource(arguments: Namespace, number: str) -> str:
    asking = [("n", number), ("follow", str(arguments.follow).lower()), *(("name", name) for name in arguments.names)]
    return f"/v1/logs?{query(asking)}"


def _following(daemon: ControlClient, arguments: Namespace) -> Iterator[Answer]:
    """Return lines as they come. After the worker was replaced, go on with those that came meanwhile."""
    newest, before = dict[str, str](), dict[str, str]()
    for line in followed(daemon, _resource(arguments, arguments.number), _resource(arguments, "all")):
        if line is None:
            before = dict(newest)
        elif line["time"] > before.get(line["program"], ""):
            newest[line["program"]] = line["time"]
            yield line


def _moment(line: Answer) -> str:
    return str(line["time"])


def _print(line: Answer, output: str, *, several: bool) -> None:
    if output == "json":
        print(json.dumps(line))
        return
    program = plain(line["program"])
    if line["line"] is None:
        print(f"highlanderctl: {program}: {line['missed']} lines came too fast to be shown", file=sys.stderr)
    elif output == "tsv":
        print("\t".join((line["time"], program, plain(line["stream"]), _text(line))))
    else:
        print(f"{line['time']} {f'{program}: ' if several else ''}{_text(line)}")


def _text(line: Answer) -> str:
    return plain(line["line"]) if line["line"] else ""
