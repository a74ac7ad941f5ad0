"""Claims about the status page: what it says of a cluster, and that no text of others is more than text on it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from highlanderd.core.cluster import ClusterNode, ClusterOverview, ClusterProgram, Drift, Held, UnableNode
from highlanderd.core.status import MaintenanceStatus, NodeStatus, PostgresStatus
from highlanderd.core.terms import Former, PastTerm
from highlanderd.errors import HighlanderError
from highlanderd.listeners.status_page import HEADERS, Seen, status_page
from highlanderd.listeners.status_style import STYLE
from highlanderd.structs import replace
from tests.support.memory_node import leading, program

HOSTILE = "</title></style><script>alert(1)</script>\" onload='x' &lt;\x1b[2J\u202e"
SHOWN = "</title></style><script>alert(1)</script>\" onload='x' &lt;\\x1b[2J\\u202e"
AT = "2026-01-02T03:04:05.678Z"
NOW = 1767323046.0
"""A second later."""


def node(name: str, *, present: bool = True, drained: Held | None = None) -> ClusterNode:
    return ClusterNode(name, "i", "0.1.0", AT, None, drained, present, 0.0 if present else 3725.0)


def led(name: str, **facts: object) -> ClusterProgram:
    usual = {"leader": "a", "epoch": 7, "since": AT, "ready": True, "candidates": ("b",), "unable": (), "drift": ()}
    return ClusterProgram(name=name, lock_id=1, **{"stopped": None, **usual, **facts})  # type: ignore[arg-type]


def cluster(*programs: ClusterProgram, nodes: tuple[ClusterNode, ...] = ()) -> ClusterOverview:
    return ClusterOverview(nodes or (node("a"), node("b")), programs, {one.name: one for one in programs})


def status(*programs: object, word: str = "a", **facts: object) -> NodeStatus:
    postgres = PostgresStatus(True, "db1/ops", "18.0", "", 10.0, 1, 2)
    return NodeStatus(word, "i", "0.1.0", postgres, programs, **facts)  # type: ignore[arg-type]


def text(seen: Seen) -> str:
    """Return what a reader sees, in one line."""
    return " ".join(" ".join(Reader(status_page(seen)).words).split())


class Reader(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] != ["style"]:
            self.words.append(data)


def test_a_quiet_cluster_is_shown_from_every_side() -> None:
    terms = [
        PastTerm("beat", 6, "b", AT, AT, 60.0, "exited", None, None, 1),
        PastTerm("beat", 7, "a", AT, None, 3725.0, None, Former(6, "b", "exited"), 10.62),
    ]
    shown = text(Seen(status(), cluster(led("beat")), terms, NOW))
    assert "The cluster as node a sees it" in shown
    assert "Nothing is out of the ordinary." in shown
    assert "beat a ready 0s 7 b" in shown
    assert "a present 1 0.1.0" in shown
    assert "beat a 7 03:04:05 UTC 1h 2m 10.6s under way beat b 6 03:04:05 UTC 1m exited (status 1)" in shown


def test_what_is_out_of_the_ordinary_is_said_first() -> None:
    held = Held("uid 0 on a", "new disk", AT)
    found = cluster(
        led("beat", candidates=(), unable=(UnableNode("b", "no such command"),)),
        led("bot", ready=False),
        led("relay", leader=None, since=None, candidates=("b",)),
        led("report", leader=None, since=None, stopped=held, drift=(Drift("b", ("command",)),)),
        led("once", leader=None, since=None),
        nodes=(node("a"), node("b", present=False), node("c", drained=held)),
    )
    under_way = MaintenanceStatus(60.0, 90.0, AT, AT, "uid 0 on a", "PostgreSQL 18.5")
    here = status(program("once", finished=True), warnings=("look here",), maintenance=under_way)
    shown = text(Seen(here, found, (), NOW)).partition(" Programs ")[0]
    sentences = (
        "Nobody leads relay",
        "Led, but not ready: bot",
        "No other node could take over beat",
        "Not connected: b",
        "c is drained since 2026-01-02 03:04:05 UTC by uid 0 on a: new disk",
        "report is stopped everywhere since 2026-01-02 03:04:05 UTC by uid 0 on a: new disk",
        "b has another configuration of report: command",
        "Maintenance of PostgreSQL until 2026-01-02 03:04:05 UTC, begun by uid 0 on a: PostgreSQL 18.5",
        "look here",
    )
    assert shown.endswith(" ".join(sentences))


def test_what_has_finished_or_waits_for_its_time_needs_nobody_and_says_why() -> None:
    found = cluster(
        led("nightly", leader=None, since=None, reason="next run at 2026-01-02T04:00:00Z"),
        led("once", leader=None, since=None, reason="finished on b; `start` runs it again"),
        led("relay", leader=None, since=None),
        led("alone", candidates=()),
    )
    page = status_page(seen := Seen(status(program("once", finished=True)), found, (), NOW))
    shown = text(seen)
    assert "Nobody leads relay No other node" in shown
    assert "nightly nobody 7 b, not now: next run at 2026-01-02T04:00:00Z" in shown
    assert "once nobody 7 b, not now: finished on b; `start` runs it again" in shown
    assert page.count('<span class="badge quiet">nobody</span>') == 2
    assert page.count('<span class="badge bad">nobody</span>') == 1
    rows = shown.partition("Could not ")[2]
    assert [rows.index(name) for name in ("relay", "alone", "nightly", "once")] == sorted(
        rows.index(name) for name in ("relay", "alone", "nightly", "once")
    )


def test_how_long_a_node_leads_is_by_the_clock_of_postgresql() -> None:
    found = cluster(led("beat"), nodes=(replace(node("a"), seen="2026-01-02T03:09:05Z", silent_for=2.0), node("b")))
    assert "beat a ready 5m 1s 7 b" in text(Seen(status(), found, (), NOW))


def test_a_stop_everywhere_is_said_once_and_not_of_each_node() -> None:
    held = Held("uid 0 on a", "it corrupts data", AT)
    unable = (UnableNode("a", f"stopped everywhere {held}"), UnableNode("b", "no such command"))
    shown = text(Seen(status(), cluster(led("beat", leader=None, stopped=held, unable=unable)), (), NOW))
    assert shown.count("it corrupts data") == 1
    assert "b : no such command" in shown


def test_terms_that_overlap_are_the_first_thing_that_is_said() -> None:
    late = PastTerm("beat", 7, "a", AT, None, 1.0, None, Former(6, "b", "released"), -2.0)
    endless = PastTerm("relay", 3, "a", AT, None, 1.0, None, Former(2, "b", None), None)
    first = PastTerm("bot", 1, "a", AT, None, 1.0, None, None, None)
    shown = text(Seen(status(), cluster(led("beat", leader=None)), (late, endless, first), NOW))
    sentence = "Terms overlap: beat, relay; 'highlanderctl history --summary' says which Nobody leads beat"
    assert sentence in shown
    assert shown.partition("Last terms")[2].count("overlap") == 2


def test_the_pages_of_other_nodes_are_linked_and_nothing_else() -> None:
    addresses = ("http://web-1:9841", "javascript:alert(1)", None)
    nodes = tuple(replace(node(f"n{number}"), advertise=address) for number, address in enumerate(addresses))
    page = status_page(Seen(status(), cluster(nodes=nodes), (), NOW))
    assert '<a href="http://web-1:9841">http://web-1:9841</a>' in page
    assert re.findall(r'href="([^"]*)"', page) == ["http://web-1:9841", "/cluster", "/history", "/metrics"]


def test_programs_that_need_somebody_stand_first() -> None:
    programs = [led("a-quiet"), led("b-unready", ready=False), led("c-alone", candidates=())]
    shown = text(Seen(status(), cluster(*programs, led("d-unled", leader=None)), (), NOW)).partition(" Could not ")[2]
    assert re.findall(r"\b[abcd]-\w+", shown) == ["d-unled", "c-alone", "b-unready", "a-quiet"]


def test_without_postgresql_it_shows_what_the_node_knows_by_itself() -> None:
    trouble = HighlanderError("PostgreSQL does not answer: no session")
    here = status(leading("beat"), program("relay", "backoff", reason="it ended"))
    shown = text(Seen(here, trouble, trouble, NOW))
    assert f"Only what the node knows by itself can be shown: {trouble}" in shown
    assert "beat leading 0s web-1 relay backoff 0s not known it ended" in shown
    assert "Last terms" not in shown


def test_a_large_cluster_gets_few_sentences() -> None:
    many = [led(f"p{number}", candidates=(), drift=(Drift("b", ("command",)),)) for number in range(500)]
    shown = text(Seen(status(), cluster(*many), (), NOW)).partition(" Programs ")[0]
    assert "and 490 more" in shown
    assert len(shown) < 2000


def test_no_text_of_others_is_more_than_text() -> None:
    held, word = Held(HOSTILE, HOSTILE, HOSTILE), HOSTILE
    quiet = Reader(status_page(Seen(status(), cluster(led("beat")), (), NOW)))
    hostile = ClusterNode(word, word, word, word, word, held, False, 1.0)
    sick = led(word, leader=word, candidates=(word,), unable=(UnableNode(word, word),), stopped=held)
    drift = led(word, leader=None, since=None, drift=(Drift(word, (word,)),))
    term = PastTerm(word, 7, word, AT, AT, 1.0, word, None, None, None, word, word, word)
    under_way = MaintenanceStatus(60.0, 90.0, AT, AT, word, word)
    here = status(program(word, reason=word, leader=word), word=word, warnings=(word,), maintenance=under_way)
    trouble = HighlanderError(word)
    for seen in (Seen(here, cluster(sick, drift, nodes=(hostile,)), (term,), NOW), Seen(here, trouble, trouble, NOW)):
        found = Reader(status_page(seen))
        assert set(found.elements) <= {*quiet.elements, "p", "b", "time"}
        assert found.attributes <= quiet.attributes
        assert SHOWN in "".join(found.words)
        assert "\x1b" not in "".join(found.words)
        assert found.elements.count("title") == found.elements.count("style") == 1


def test_a_browser_may_load_and_run_nothing_but_this_style() -> None:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    page = status_page(Seen(status(), cluster(led("beat")), (), NOW))
    assert f"<style>{STYLE}</style>" in page
    found = Reader(page)
    assert not {"script", "form", "button", "input", "img", "link", "iframe"} & set(found.elements)
    assert not {"style", "src", "onclick", "onload"} & found.attributes
