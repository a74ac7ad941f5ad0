"""Claims about what many nodes' presences say together, and how that looks on a terminal."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from highlanderd.config import ProgramConfig
from highlanderd.core.cluster import (
    CandidatePresence,
    ClusterNode,
    ClusterOverview,
    Drift,
    Held,
    Lead,
    Overviews,
    UnableNode,
)
from highlanderd.ctl.cluster import cluster, picture
from highlanderd.structs import replace
from highlanderd.worker.presence import digests

BEAT = CandidatePresence("beat", 7, "waiting", True, "", False, "2026-01-02T03:04:05Z", {"command": "12ab"})
NODES = [ClusterNode(name, "i", "1", "2026-01-02T03:04:05Z", None, None, present=True) for name in "abc"]
LED = Lead("beat", 7, "a", 3, "2026-01-02T03:00:00Z", led=True)


def overview(
    nodes: Sequence[ClusterNode],
    candidates: Iterable[tuple[str, CandidatePresence]],
    leads: Iterable[Lead],
    stopped: Mapping[int, Held],
) -> ClusterOverview:
    return Overviews().overview(nodes, candidates, leads, stopped)


def test_all_but_the_leader_are_candidates() -> None:
    found = (
        Overviews()
        .overview(NODES, [("a", replace(BEAT, ready=True)), ("b", BEAT), ("c", BEAT)], [LED], {})
        .by_name["beat"]
    )
    assert (found.leader, found.epoch, found.since, found.ready) == ("a", 3, LED.since, True)
    assert (found.candidates, found.unable, found.drift) == (("b", "c"), (), ())


def test_rows_in_another_order_are_put_together_once() -> None:
    overviews, mail = Overviews(), Lead("mail", 8, "b", 1, LED.since, led=True)
    first = overviews.overview(NODES, [("a", BEAT)], [LED, mail], {})
    assert overviews.overview(NODES, [("a", BEAT)], [mail, LED], {}).programs is first.programs


def test_where_nobody_leads_every_able_node_is_a_candidate() -> None:
    found = overview(NODES, [("a", BEAT), ("b", BEAT)], [replace(LED, led=False)], {}).by_name["beat"]
    assert (found.leader, found.epoch, found.since, found.ready) == (None, 3, None, False)
    assert found.candidates == ("a", "b")


def test_a_node_that_is_away_drained_or_unable_is_no_candidate() -> None:
    away = replace(NODES[1], present=False)
    drained = replace(NODES[2], drained=Held("uid 0 on node a", "new disk", "2026-01-02T03:04:05Z"))
    d = ClusterNode("d", "i", "1", None, None, None, present=True)
    broken = replace(BEAT, able=False, reason="exited with status 1")
    found = overview([NODES[0], away, drained, d], [("a", BEAT), ("b", BEAT), ("c", BEAT), ("d", broken)], [LED], {})
    program = found.by_name["beat"]
    assert program.candidates == ()
    assert program.unable == (
        UnableNode("b", "its daemon is not connected, last seen 2026-01-02T03:04:05Z"),
        UnableNode("c", "drained by uid 0 on node a: new disk"),
        UnableNode("d", "exited with status 1"),
    )


def test_a_program_with_a_schedule_is_known_by_its_key_on_any_node() -> None:
    scheduled = replace(BEAT, digests={"schedule": "12ab"})
    assert overview(NODES, [("a", BEAT), ("b", scheduled)], [LED], {}).by_name["beat"].scheduled
    assert not overview(NODES, [("a", BEAT)], [LED], {}).by_name["beat"].scheduled


def test_another_lock_key_is_drift_and_the_leaders_counts() -> None:
    other = replace(BEAT, lock_id=8, digests={"command": "12ab", "user": "99ff"})
    found = overview(NODES, [("a", BEAT), ("b", other)], [LED], {}).by_name["beat"]
    assert found.lock_id == 7
    assert found.drift == (Drift("b", ("lock_key", "user")),)


def test_a_program_that_is_stopped_everywhere_says_by_whom() -> None:
    held = Held("uid 0 on node a", "corrupts data", "2026-01-02T03:04:05Z")
    found = overview(NODES, [("a", BEAT)], [replace(LED, led=False)], {7: held})
    assert found.by_name["beat"].stopped == held


def test_a_program_that_is_led_is_shown_even_if_no_node_says_that_it_has_it() -> None:
    assert overview([], [], [LED, Lead("old", 9, "a", 1, "", led=False)], {}).by_name.keys() == {"beat"}


PRESENCES = st.builds(
    replace,
    st.just(BEAT),
    program=st.sampled_from(["beat", "relay"]),
    lock_id=st.sampled_from([7, 8]),
    able=st.booleans(),
    digests=st.sampled_from([{}, {"command": "12ab"}, {"command": "99ff"}]),
)
CLUSTERS = st.tuples(
    st.lists(
        st.builds(replace, st.sampled_from(NODES), present=st.booleans(), seen=st.sampled_from(["1", "2"])),
        unique_by=lambda node: node.name,
    ),
    st.lists(st.tuples(st.sampled_from("abcd"), PRESENCES), max_size=4),
    st.lists(
        st.builds(
            replace,
            st.just(LED),
            program=st.sampled_from(["beat", "relay"]),
            node=st.sampled_from("ab"),
            led=st.booleans(),
        ),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from([7, 8]), st.sampled_from([Held("uid 0", "", "1"), Held("uid 1", "", "2")])),
)


@given(st.lists(CLUSTERS, min_size=2, max_size=6))
def test_what_is_kept_of_former_overviews_changes_none(clusters: list[Any]) -> None:
    overviews = Overviews()
    for one in clusters:
        assert overviews.overview(*one) == overview(*one)


def test_digests_differ_where_values_do_and_hide_them() -> None:
    one = ProgramConfig(name="beat", command=("beat",))
    two = ProgramConfig(name="beat", command=("beat",), environment={"TOKEN": SecretStr("secret")}, backoff=3.0)
    assert digests(one).keys() == {"command"}
    assert digests(two).keys() == {"command", "environment", "backoff"}
    assert digests(two) == digests(two.model_copy())
    other = two.model_copy(update={"environment": {"TOKEN": SecretStr("another")}})
    assert digests(two)["environment"] != digests(other)["environment"]
    assert all(len(digest) == 4 for digest in digests(two).values())


def answer(**facts: Any) -> dict[str, Any]:
    program = {
        "name": "beat",
        "leader": "a",
        "epoch": 3,
        "since": "2026-01-02T03:00:00Z",
        "ready": True,
        "candidates": ["b"],
        "unable": [],
        "stopped": None,
        "drift": [],
        **facts,
    }
    node = {
        "name": "a",
        "version": "1",
        "seen": None,
        "silent_for": 0,
        "advertise": None,
        "drained": None,
        "present": True,
    }
    return {"nodes": [node], "programs": [program], "maintenance": None}


def test_the_picture_has_a_row_for_each_program_and_node_and_a_line_for_each_trouble() -> None:
    trouble = answer(
        candidates=[],
        unable=[{"node": "b", "reason": "drained by uid 0\x1b[2J"}],
        drift=[{"node": "b", "keys": ["command", "user"]}],
        stopped={"by": "uid 0 on node a", "reason": "corrupts data", "since": ""},
    )
    lines = picture(trouble, 80, 1767322860.0)
    assert max(map(len, lines[:4])) <= 80
    assert lines[1].split() == ["beat", "a", "3", "1m", "yes", "0", "-"]
    assert "beat: stopped everywhere by uid 0 on node a: corrupts data" in lines
    assert "beat: b could not take over: drained by uid 0\ufffd[2J" in lines
    assert "beat: b has another command, user" in lines
    assert picture(answer(), 80, 0.0)[-1].split() == ["a", "1", "never", "-", "present"]


def test_a_drained_node_whose_daemon_is_gone_is_said_to_be_both() -> None:
    shown = answer()
    drained = {"by": "ann", "reason": "new disk", "since": ""}
    shown["nodes"][0] |= {"present": False, "drained": drained}
    assert picture(shown, 120, 0.0)[-1].endswith("not connected; drained by ann: new disk")
    shown["nodes"][0]["present"] = True
    assert picture(shown, 120, 0.0)[-1].endswith("-          drained by ann: new disk")


def test_how_long_a_node_leads_is_by_the_clock_of_postgresql(capsys: pytest.CaptureFixture[str]) -> None:
    shown = answer(since="2026-01-02T03:00:00Z")
    shown["nodes"][0] |= {"seen": "2026-01-02T04:00:00Z", "silent_for": 2.5}
    daemon: Any = SimpleNamespace(ask=lambda *_: shown)
    assert cluster(daemon, Namespace(dsn=None, config=None, watch=False, output="table")) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[3:6] == ["1h", "2s", "yes"]


def test_what_is_true_of_many_programs_or_of_all_nodes_is_said_once() -> None:
    lost = answer(unable=[{"node": "b", "reason": "its daemon is not connected"}])
    [program] = lost["programs"]
    lost["programs"] = [{**program, "name": f"beat-{number}"} for number in range(500)]
    line = "beat-0, beat-1, beat-2, beat-3, beat-4 and 495 more: b could not take over: its daemon is not connected"
    assert picture(lost, None, 0.0)[505:] == [line]
    assert picture(lost, 80, 0.0)[505:] == [
        "beat-0, beat-1, beat-2, beat-3, beat-4 and 495 more: b could not take over: its",
        "    daemon is not connected",
    ]
    why = "stopped everywhere by ann: corrupts data"
    held = {"by": "ann", "reason": "corrupts data", "since": ""}
    stopped = answer(stopped=held, unable=[{"node": "a", "reason": why}, {"node": "b", "reason": "drained by ann"}])
    assert picture(stopped, 80, 0.0)[-2:] == [f"beat: {why}", "beat: b could not take over: drained by ann"]
