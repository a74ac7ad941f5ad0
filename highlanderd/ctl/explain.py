"""``highlanderctl explain``: why a program is led where it is, or nowhere."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime

from highlanderd.ctl import terminal
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.ctl.direct import asked
from highlanderd.ctl.exchange import segment
from highlanderd.ctl.printing import give
from highlanderd.ctl.tables import plain
from highlanderd.durations import clock, span
from highlanderd.errors import DONE


def explain(daemon: ControlClient, arguments: Namespace) -> int:
    answer = asked(daemon, arguments).ask("GET", f"/v1/explain/{segment(arguments.name)}")
    rows = [("verdict", answer["verdict"]), *(("because", one) for one in answer["because"])]
    rows.append(("earliest", answer["earliest"] or ""))
    give(arguments, answer, lambda: _lines(answer, terminal.size()[0], time.time()), lambda: rows)
    return DONE


def _lines(answer: Answer, width: int | None, now: float) -> Iterator[str]:
    """Return the verdict, and what it is due to below it."""
    from textwrap import wrap  # for this alone

    yield plain(answer["verdict"])
    for sentence in answer["because"]:
        text = plain(sentence)
        first, *more = [text] if width is None else wrap(text, max(width - 4, 20)) or [""]
        yield f"  - {first}"
        yield from (f"    {line}" for line in more)
    if answer["earliest"] is None:
        yield "only an order or an event changes that"
    else:
        left = datetime.fromisoformat(answer["earliest"]).timestamp() - now
        yield f"time alone may change that at {clock(answer['earliest'], now)}, in {span(left)}"
