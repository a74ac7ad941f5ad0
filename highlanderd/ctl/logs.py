"""``highlanderctl logs``: the last lines of programs, and the next ones as they come."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from highlanderd.ctl.choice import exact, one_named
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.exchange import query
from highlanderd.ctl.following import followed
from highlanderd.ctl.tables import plain
from highlanderd.errors import DONE

NOTHING_HERE: Final = "no lines on this node; those of a program that is named, without a glob, come from its leader"


def logs(daemon: ControlClient, arguments: Namespace) -> int:
    several = not one_named(arguments.names)
    if not arguments.follow:
        lines = sorted(daemon.stream(_resource(arguments, arguments.number)), key=_moment)
        for line in lines:
            _print(line, arguments.output, several=several)
        if not lines and not exact(arguments.names):
            print(f"highlanderctl: {NOTHING_HERE}", file=sys.stderr)
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
    printed = defaultdict[str, _Printed](_Printed)
    for line in followed(daemon, _resource(arguments, arguments.number), _resource(arguments, "all")):
        if line is None:
            for one in printed.values():
                one.begin_anew()
        elif printed[line["program"]].lacks(line):
            yield line


class _Printed:
    """What was printed of one program. Several lines may have the same time, so the newest ones are known by text."""

    def __init__(self) -> None:
        self._newest, self._lines = "", Counter[str]()
        self._before, self._again = "", Counter[str]()

    def begin_anew(self) -> None:
        """The last lines come once more from now on."""
        self._before, self._again = self._newest, self._lines.copy()

    def lacks(self, line: Answer) -> bool:
        """Return whether a line was not printed yet; it is printed then."""
        time, text = line["time"], f"{line['stream']} {line['line']}"
        if time < self._before:
            return False
        if time == self._before and self._again[text]:
            self._again[text] -= 1
            return False
        if time != self._newest:
            self._newest, self._lines = time, Counter()
        self._lines[text] += 1
        return True


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
