"""The status page: the cluster as this node reads it from the ledger, for a browser. No script, and no orders.

Every text on it was written by somebody: operators, children, other nodes. ``html.py`` escapes it, and the header that
goes with the page forbids the browser to load or run anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Container, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from highlanderd.core.cluster import ClusterNode, ClusterOverview, ClusterProgram
from highlanderd.core.status import NodeStatus, ProgramStatus
from highlanderd.core.terms import PastTerm
from highlanderd.durations import brief, clock, since_epoch, span
from highlanderd.errors import HighlanderError
from highlanderd.listeners.html import Markup, element, joined
from highlanderd.listeners.status_notes import Note, notes, resting
from highlanderd.listeners.status_style import STYLE

REFRESH: Final = "30"
"""Seconds after which a browser loads it again: it may hang on a wall."""
LATEST_TERMS: Final = 20
"""How many terms it shows."""
WIDE: Final = frozenset({"Could take over", "Could not", "End", "Reason"})
"""Columns whose text may be long."""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Seen(Struct, frozen=True):
    """What the page is made of."""

    status: NodeStatus
    cluster: ClusterOverview | HighlanderError
    terms: Sequence[PastTerm] | HighlanderError
    now: float
    """In seconds of the epoch."""


def status_page(seen: Seen) -> str:
    """Return the whole page."""
    terms = () if isinstance(seen.terms, HighlanderError) else seen.terms
    found = list(notes(seen.status, seen.cluster, terms))
    parts = [_header(seen), _notes(found), *_tables(seen), _footer(seen.status)]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="refresh", content=REFRESH),
        element("title", f"highlanderd: {seen.status.node}"),
        element("style", Markup(STYLE)),
    )
    return "<!doctype html>\n" + element("html", head, element("body", parts), lang="en") + "\n"


def _header(seen: Seen) -> Markup:
    where = joined("The cluster as node ", element("b", seen.status.node), " sees it, ", _at(seen.now, seen.now))
    return element("header", element("h1", "highlanderd"), element("p", where, class_="quiet"))


def _notes(found: Sequence[Note]) -> Markup:
    lines = [element("li", note.text, class_=note.kind) for note in found]
    return element("ul", lines or element("li", "Nothing is out of the ordinary.", class_="good"), class_="notes")


def _footer(status: NodeStatus) -> Markup:
    links = [element("a", name, href=f"/{name}") for name in ("cluster", "history", "metrics")]
    return element("footer", element("span", f"highlanderd {status.version}"), links)


def _tables(seen: Seen) -> Iterator[Markup]:
    if isinstance(seen.cluster, HighlanderError):
        yield from _section("Programs on this node", OWN, [_own(program, seen.now) for program in seen.status.programs])
    else:
        rests, now = resting(seen.status, seen.cluster), _server_time(seen)
        programs = sorted(seen.cluster.programs, key=lambda program: _calm(program, rests))
        yield from _section("Programs", PROGRAMS, [_program(program, rests, now) for program in programs])
        yield from _section("Nodes", NODES, [_node(node, seen.cluster) for node in seen.cluster.nodes])
    if not isinstance(seen.terms, HighlanderError):
        latest = list(reversed(seen.terms))[:LATEST_TERMS]
        yield from _section("Last terms", TERMS, [_term(term, seen.now) for term in latest])


def _calm(program: ClusterProgram, rests: Container[str]) -> tuple[bool, bool, bool, str]:
    """Return where a program stands in the table: those that need somebody come first."""
    calm = program.leader is None and program.name in rests
    return calm or program.leader is not None, bool(program.candidates), calm or program.ready, program.name


def _section(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[Markup]:
    yield element("h2", title)
    if not rows:
        yield element("p", "None.", class_="quiet")
        return
    names = element("thead", element("tr", [element("th", name, scope="col") for name in headings]))
    yield element("table", names, element("tbody", [_row(headings, row) for row in rows]))


def _row(headings: Sequence[str], cells: Sequence[str]) -> Markup:
    first, *others = cells
    labelled = zip(headings[1:], others, strict=True)
    data = [element("td", element("div", cell), data_label=name, class_=_kind(name, cell)) for name, cell in labelled]
    return element("tr", element("th", first, scope="row"), data)


def _kind(heading: str, cell: str) -> str:
    return ("wide" if heading in WIDE else "short") if cell else "empty"


def _badge(kind: str, text: str) -> Markup:
    return element("span", text, class_=f"badge {kind}")


PROGRAMS: Final = ("Program", "Leader", "Led for", "Epoch", "Could take over", "Could not")


def _program(program: ClusterProgram, rests: Container[str], now: float) -> tuple[str, ...]:
    everywhere = f"stopped everywhere {program.stopped}"  # a note says that, once for all nodes
    unable = [one for one in program.unable if one.reason != everywhere]
    return (
        program.name,
        _leader(program, rests),
        "" if program.since is None else element("span", span(_age(program.since, now)), title=program.since),
        "" if program.epoch is None else str(program.epoch),
        _able(program) if program.candidates else _badge("warn", "no node"),
        joined([element("p", element("b", one.node), f": {one.reason}") for one in unable]),
    )


def _able(program: ClusterProgram) -> Markup:
    names = ", ".join(program.candidates)
    return joined(f"{names}, not now: {program.reason}" if program.reason else names)


def _leader(program: ClusterProgram, rests: Container[str]) -> Markup:
    if program.leader is None:
        if program.stopped is not None:
            return _badge("warn", "stopped everywhere")
        return _badge("quiet" if program.name in rests else "bad", "nobody")
    return joined(program.leader, " ", _badge("good", "ready") if program.ready else _badge("warn", "not ready"))


NODES: Final = ("Node", "State", "Leads", "Version", "Last seen", "Address")


def _node(node: ClusterNode, cluster: ClusterOverview) -> tuple[str, ...]:
    state = _badge("good", "present") if node.present else _badge("bad", "not connected")
    drained = "" if node.drained is None else _badge("warn", "drained")
    return (
        node.name,
        joined(state, " ", drained),
        str(sum(program.leader == node.name for program in cluster.programs)),
        node.version or "",
        "" if node.present else "never" if node.seen is None else f"{span(node.silent_for)} ago",
        _link(node.advertise or ""),
    )


def _link(address: str) -> str:
    """Return a link to another node's page. The address comes from the ledger, so only http(s) becomes a link."""
    return element("a", address, href=address) if address.startswith(("http://", "https://")) else address


TERMS: Final = ("Program", "Node", "Epoch", "From", "Led for", "Gap before", "End")


def _term(term: PastTerm, now: float) -> tuple[str, ...]:
    return (
        term.program,
        term.node,
        str(term.epoch),
        _at(term.began, now),
        span(term.lasted),
        _gap(term),
        _badge("good", "under way") if term.ended is None and term.cause is None else _end(term),
    )


def _gap(term: PastTerm) -> str:
    if term.overlaps:
        return _badge("bad", "overlap")
    if term.of_unknown_gap:
        return "not known"
    return "" if term.gap is None else brief(term.gap)


def _end(term: PastTerm) -> str:
    how = term.exit_signal or ("" if term.exit_status is None else f"status {term.exit_status}")
    parts = (f" ({how})" if how else "", f" by {term.author}" if term.author else "")
    return (term.cause or "") + "".join(parts) + (f": {term.remark}" if term.remark else "")


OWN: Final = ("Program", "State", "For", "Led by", "Reason")


def _own(program: ProgramStatus, now: float) -> tuple[str, ...]:
    kind = "good" if program.state in ("leading", "waiting") else "warn"
    state, since = _badge(kind, program.state), span(_age(program.since, now))
    return program.name, state, since, program.leader or "not known", program.reason


def _server_time(seen: Seen) -> float:
    """Return the time by the server's clock, which all times of the ledger are of; this host's may be another."""
    nodes = () if isinstance(seen.cluster, HighlanderError) else seen.cluster.nodes
    known = ((since_epoch(node.seen), node.silent_for) for node in nodes)
    return next((at + ago for at, ago in known if at is not None), seen.now)


def _age(moment: str, now: float) -> float | None:
    began = since_epoch(moment)
    return None if began is None else now - began


def _at(moment: str | float, now: float) -> Markup:
    text = moment if isinstance(moment, str) else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    return element("time", clock(text, now), datetime=text)
