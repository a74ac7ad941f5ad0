"""``highlanderctl history``: who led what, from when to when, and why it ended."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from highlanderd.api import DEFAULT_TERMS, MOST_TERMS
from highlanderd.ctl import terminal
from highlanderd.ctl.client import ControlClient
from highlanderd.ctl.direct import asked
from highlanderd.ctl.exchange import query
from highlanderd.ctl.printing import Row, give
from highlanderd.ctl.tables import fitted, folded, plain
from highlanderd.durations import brief, since_epoch, span
from highlanderd.errors import DONE, HighlanderError, enumerated

TERMS: Final = ("PROGRAM", "NODE", "FROM (UTC)", "LED", "GAP", "CAUSE")
SUMMARY: Final = ("PROGRAM", "TERMS", "LED", "AFTER", "GAPS", "LONGEST")
NAME_COLUMNS: Final = (0, 1)
"""Of programs and nodes: they are cut where the terminal is too narrow."""


def history(daemon: ControlClient, arguments: Namespace) -> int:
    summary = arguments.summary or arguments.max_gap is not None
    usual = MOST_TERMS if summary else DEFAULT_TERMS
    limit = usual if arguments.number is None else arguments.number
    asking: list[tuple[str, object]] = [("limit", limit), *(("name", name) for name in arguments.names)]
    if summary:
        asking.append(("summary", "true"))
    answer = asked(daemon, arguments).ask("GET", f"/v1/history?{query(asking)}")
    if summary:
        rows = [SUMMARY, *(row for program in answer["programs"] for row in summary_cells(program))]
        give(arguments, answer, lambda: _summary(answer, rows), lambda: rows)
        faults = [*map(overlap, answer["overlaps"]), *map(unwritten, answer.get("unwritten", ()))]
        if arguments.max_gap is not None:
            faults += too_long(answer["programs"], arguments.max_gap)
        if faults:
            raise HighlanderError("\n".join(faults))
        return DONE
    now = time.time()
    found = [(term["from"], cells(term, now)) for term in answer["terms"]]
    found += [(skipped["from"], skipped_cells(skipped)) for skipped in answer.get("skipped", ())]
    rows = [TERMS, *(row for _, row in sorted(found, key=lambda one: str(one[0]))[-limit:])]
    give(arguments, answer, lambda: folded(rows, terminal.size()[0], NAME_COLUMNS), lambda: rows)
    return DONE


def cells(term: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """Return one row of the table; ``now`` is the time in seconds of the epoch, for a daemon that does not say more."""
    began, ended = since_epoch(term["from"]), now if term["to"] is None else since_epoch(term["to"])
    led = term.get("led", None if began is None or ended is None else ended - began)
    return (
        plain(term["program"]),
        plain(term["node"]),
        moment(term["from"]),
        span(led),
        gap(term["gap"]),
        _cause(term),
    )


def _cause(term: Mapping[str, Any]) -> str:
    """Return why a term ended, how its main process did, and who ordered it: ``exited (1)``, ``stopped by uid 0``.

    Of a scheduled run, that comes with the time that it was for.
    """
    signal, author, reason = term.get("exit_signal"), term.get("author"), term.get("reason")
    how = term.get("exit_status") if signal is None else signal
    parts = ["" if how is None else f" ({how})", f" by {author}" if author else "", f": {reason}" if reason else ""]
    scheduled = f", scheduled {moment(term['scheduled'])}" if term.get("scheduled") else ""
    why = "under way" if term["to"] is None else plain(term["cause"]) + (plain("".join(parts)) if any(parts) else "")
    return why + scheduled


def skipped_cells(skipped: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of scheduled times that were not run. ``FROM`` is the first of them."""
    many = {0: ", until", 1: ""}.get(skipped["times"], f", {plain(skipped['times'])} times until")
    many += f" {moment(skipped['to'])}" if many else ""
    begun = moment(skipped["from"])
    return plain(skipped["program"]), "-", begun, "-", "-", f"skipped: {plain(skipped['cause'])}{many}"


def moment(text: str) -> str:
    """Return a time of an answer as people read it, in UTC.

    >>> moment("2026-01-02T03:04:05.678Z")
    '2026-01-02 03:04:05'
    """
    found = since_epoch(text)
    return plain(text) if found is None else f"{datetime.fromtimestamp(found, UTC):%Y-%m-%d %H:%M:%S}"


def gap(seconds: float | None) -> str:
    """Return the time without a leader before a term.

    A gap of exactly 0 follows a term of which nothing tells when it ended: it ended where the next one began.

    >>> gap(0.0042), gap(10.62), gap(3725.0), gap(0.0), gap(-2.0), gap(None)
    ('4ms', '10.6s', '1h 2m', '?', 'overlap', '-')
    """
    if seconds is None:
        return "-"
    if seconds <= 0:
        return "overlap" if seconds < 0 else "?"
    return brief(seconds)


def _summary(answer: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    lines = fitted(rows, terminal.size()[0], (0,))
    if answer["since"] is None:
        return [*lines, "no terms"]
    terms = f"{answer['terms']} {'term' if answer['terms'] == 1 else 'terms'} since {moment(answer['since'])} UTC"
    verdict = "terms overlap" if answer["overlaps"] else "no two of one lock id overlap"
    lines.append(f"{terms}; {verdict}{', as far as the history goes' if answer.get('unwritten') else ''}")
    if scheduled := [plain(one["program"]) for one in answer["programs"] if one.get("scheduled")]:
        lines.append(f"gaps of {enumerated(scheduled)} are counted from the scheduled time on")
    return lines


def summary_cells(program: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return the rows of one program: one for each cause after which there was a gap."""
    head = (plain(program["program"]), str(program["terms"]), span(program["led"]))
    for gaps in program["gaps"]:
        yield *head, plain(gaps["cause"]), str(gaps["count"]), gap(gaps["longest"])
    if not program["gaps"]:
        yield *head, "-", "0", "-"


def overlap(found: Mapping[str, Any]) -> str:
    """Return the sentence about two terms that overlap."""
    seconds = found["overlap"]
    how = "while" if seconds is None else f"{gap(seconds)} before"
    not_ended = "had not ended" if seconds is None else "ended"
    return (
        f"terms of {plain(found['program'])} overlap by the ledger's own times: epoch {found['epoch']} on "
        f"{plain(found['node'])} began at {moment(found['from'])} UTC, {how} epoch {found['former_epoch']} on "
        f"{plain(found['former_node'])} {not_ended}. Either two nodes led at once, or the server's clock was set back"
    )


def unwritten(found: Mapping[str, Any]) -> str:
    """Return the sentence about epochs that stand in no line."""
    many = "1 term" if found["epochs"] == 1 else f"{plain(found['epochs'])} terms"
    return (
        f"{plain(found['program'])}: the history lacks {many} just before epoch {found['epoch']} on "
        f"{plain(found['node'])}, so it cannot show that nothing overlapped there: a node was lost right after its "
        "takeover, a failover of PostgreSQL lost the lines, or somebody has removed them"
    )


def too_long(programs: Iterable[Mapping[str, Any]], most: float) -> Iterator[str]:
    """Return a sentence about each program and cause with a gap of more than ``most`` seconds, or of unknown length."""
    for program in programs:
        for gaps in program["gaps"]:
            name, cause = plain(program["program"]), plain(gaps["cause"])
            if gaps["longest"] > most:
                long = gap(gaps["longest"])
                yield f"{name}: no node led it for {long} after a term that ended as {cause}: more than {most:g} s"
            if unknown := gaps.get("unknown", 0):
                many = "1 gap was" if unknown == 1 else f"{plain(unknown)} gaps were"
                yield f"{name}: how long {many} after a term that ended as {cause} is not known: no line tells its end"
