"""``highlanderctl explain``: why a program is led where it is, or nowhere."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime
from itertools import chain

from highlanderd.ctl import terminal
from highlanderd.ctl.choice import one_named
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.direct import asked
from highlanderd.ctl.exchange import query, segment
from highlanderd.ctl.printing import give
from highlanderd.ctl.tables import plain
from highlanderd.durations import clock, span
from highlanderd.errors import DONE, enumerated


def explain(daemon: ControlClient, arguments: Namespace) -> int:
    source, names = asked(daemon, arguments), arguments.names
    if one_named(names):
        answer = source.ask("GET", f"/v1/explain/{segment(names[0])}")
        found = [answer]
    else:
        answer = source.ask("GET", f"/v1/explain?{query([('name', name) for name in names])}")
        found = answer["programs"]
    give(arguments, answer, lambda: _all_lines(found), lambda: chain.from_iterable(map(_rows, found)))
    return DONE


def _rows(answer: Answer) -> list[tuple[str, str, str]]:
    facts = [("verdict", answer["verdict"]), *(("because", one) for one in answer["because"])]
    facts.append(("earliest", answer["earliest"] or ""))
    return [(plain(answer["program"]), kind, text and plain(text)) for kind, text in facts]


def _all_lines(found: list[Answer]) -> Iterator[str]:
    for number, answer in enumerate(found):
        if number:
            yield ""
        yield from _lines(answer, terminal.size()[0], time.time())


def _lines(answer: Answer, width: int | None, now: float) -> Iterator[str]:
    """Return the verdict, and what it is due to below it."""
    from textwrap import wrap  # for this alone

    yield plain(answer["verdict"])
    for sentence in answer["because"]:
        text = plain(sentence)
        first, *more = [text] if width is None else wrap(text, max(width - 4, 20)) or [""]
        yield f"  - {first}"
        yield from (f"    {line}" for line in more)
    yield _last(answer["earliest"], [plain(node) for node in answer.get("known_to", ())], now)


def _last(earliest: str | None, nodes: list[str], now: float) -> str:
    """Return the last line. ``nodes`` know of a moment, or of an earlier one; early daemons do not name them.

    >>> _last(None, [], 0.0), _last(None, ["a", "b"], 0.0)
    ('only an order or an event changes that', 'time alone may change that; when, `explain` says on a, b')
    >>> _last("1970-01-01T00:00:09Z", [], 0.0), _last("1970-01-01T00:00:09Z", ["b"], 0.0)[51:]
    ('time alone may change that at 00:00:09 UTC, in 9s', 'or earlier: see `explain` on b')
    """
    others = enumerated(nodes)
    if earliest is None:
        at_all = f"time alone may change that; when, `explain` says on {others}"
        return at_all if nodes else "only an order or an event changes that"
    left = datetime.fromisoformat(earliest).timestamp() - now
    sooner = f", or earlier: see `explain` on {others}" if nodes else ""
    return f"time alone may change that at {clock(earliest, now)}, in {span(left)}{sooner}"
