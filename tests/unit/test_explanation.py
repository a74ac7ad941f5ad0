"""Claims about why a program is led where it is, in sentences."""

from __future__ import annotations

from typing import Any

from highlanderd.core.cluster import ClusterNode, ClusterOverview, ClusterProgram, Drift, Held, UnableNode
from highlanderd.core.explanation import Explanation, LocalView, explained
from highlanderd.core.status import MaintenanceStatus, NodeStatus, PostgresStatus, ProgramStatus
from highlanderd.structs import replace
from tests.support.memory_node import leading, program

T = "2026-01-02T03:04:05.678Z"
POSTGRES = PostgresStatus(True, "db1:5432/ops", "18.1", "", 10.0, 1, 3, replaced_within=13.0)
WEB_1 = NodeStatus("web-1", "3f1e", "0.1.0", POSTGRES, ())


def overview(*present: str, **facts: Any) -> ClusterOverview:
    quiet: dict[str, Any] = {
        "name": "beat",
        "lock_id": 1,
        "leader": None,
        "epoch": 7,
        "since": None,
        "ready": False,
        "candidates": (),
        "unable": (),
        "stopped": None,
        "drift": (),
    }
    nodes = tuple(ClusterNode(name, "i", "0.1.0", T, None, None, present=True) for name in present)
    found = ClusterProgram(**{**quiet, **facts})
    return ClusterOverview(nodes, (found,), {"beat": found})


def here(
    cluster: ClusterOverview | None, status: ProgramStatus | None, changes: str | None = None, unknown: str = ""
) -> Explanation:
    return explained("beat", cluster, LocalView(WEB_1, status, changes), unknown)


def test_a_leader_explains_itself_and_names_who_could_follow() -> None:
    cluster = overview(
        "web-1", "web-2", leader="web-1", candidates=("web-2",), unable=(UnableNode("web-3", "drained"),)
    )
    found = here(cluster, leading("beat"))
    assert found.verdict == "beat is led by web-1, which is this node"
    assert found.because == (
        f"web-1 leads it since {T}, in epoch 7; its child is ready",
        "it could be led now by web-2",
        "web-3 could not lead it: drained",
    )
    assert found.earliest is None


def test_a_leader_says_since_when_it_leads_as_the_ledger_does() -> None:
    ledger_s = "2026-01-02T03:04:05.600Z"
    found = here(overview("web-1", leader="web-1", since=ledger_s), leading("beat"))
    assert found.because[0] == f"web-1 leads it since {ledger_s}, in epoch 7; its child is ready"
    later = here(overview("web-1", leader="web-1", since=ledger_s), leading("beat", epoch=8))
    assert later.because[0] == f"web-1 leads it since {T}, in epoch 8; its child is ready"


def test_a_leader_that_lets_go_is_not_said_to_lead_and_not_to_lead_at_once() -> None:
    status = program("beat", state="draining", leader="web-1", reason="fenced: the lease could not be renewed in time")
    found = here(None, status, unknown="PostgreSQL does not answer")
    assert found.because[0] == (
        "this node, web-1, ends its term: draining, fenced: the lease could not be renewed in time"
    )


def test_a_standby_says_what_it_waits_for_and_promises_no_moment() -> None:
    cluster = overview("web-1", "web-2", leader="web-2", since=T, candidates=("web-1",))
    found = here(cluster, program("beat", leader="web-2", reason="led by web-2"), changes=T)
    assert found.verdict == "beat is led by web-2"
    assert found.because[1].startswith("this node, web-1, stands by: if web-2 releases it or is lost")
    assert found.because[1].endswith("replaced within 13 s")
    assert found.earliest is None


def test_where_the_leader_s_daemon_is_gone_the_end_of_its_lease_is_named() -> None:
    cluster = overview("web-1", leader="web-2", since=T)
    assert here(cluster, program("beat", leader="web-2"), changes=T).earliest == T


def test_a_leader_whose_daemon_is_gone_is_told_with_what_ends_its_term() -> None:
    cluster = overview("web-1", leader="web-2", since=T, ready=True)
    gone = ClusterNode("web-2", "i", "0.1.0", T, None, None, present=False)
    lost = replace(cluster, nodes=(*cluster.nodes, gone))
    sentence = f"the daemon of web-2 is not connected, last seen {T}: another node may lead once its lease is over"
    assert here(lost, program("beat", leader="web-2"), changes=T).because[1] == sentence
    assert explained("beat", lost, None).because[1] == sentence
    never = replace(cluster, nodes=(*cluster.nodes, replace(gone, seen=None)))
    assert explained("beat", never, None).because[1] == sentence.replace(f", last seen {T}", "")
    itself = replace(cluster, nodes=(replace(gone, name="web-1"),))
    assert not any("not connected" in one for one in here(itself, leading("beat", leader="web-1")).because)


def test_a_backoff_ends_at_a_moment_and_the_failures_are_counted() -> None:
    found = here(overview("web-1"), program("beat", "backoff", reason="exited with status 1", failures=3), changes=T)
    assert found.verdict == "no node leads beat"
    assert found.because == (
        "this node, web-1, does not lead it: backoff, exited with status 1",
        "it has failed 3 times in a row here",
        "no other node has it",
    )
    assert found.earliest == T


def test_what_was_stopped_everywhere_waits_for_an_order_and_for_no_moment() -> None:
    held = Held("uid 0 on node a", "it corrupts data", T)
    found = here(overview("web-1", stopped=held), program("beat", "stopped", reason="stopped everywhere"), changes=T)
    assert found.because[0] == (
        f"it was stopped everywhere by uid 0 on node a: it corrupts data, at {T}; "
        "'highlanderctl start --everywhere beat' lifts that"
    )
    assert found.earliest is None
    why = "stopped everywhere by uid 0 on node a"
    twice = here(overview("web-1", stopped=held), program("beat", "stopped", reason=why))
    assert twice.because[1] == f"this node, web-1, does not lead it: {why}"
    ready = here(overview("web-1", "web-2", stopped=held, candidates=("web-2",)), program("beat", "stopped"))
    assert "it could be led by web-2, once it is started everywhere" in ready.because


def test_what_this_host_lacks_is_told_though_it_waits() -> None:
    cluster = overview("web-1", "web-2", leader="web-2", unable=(UnableNode("web-1", "there is no file /x"),))
    found = here(cluster, program("beat", leader="web-2", reason="led by web-2"))
    assert "this node, web-1, could not lead it: there is no file /x" in found.because


def test_what_another_node_waits_for_is_told_by_a_node_that_never_leads_it() -> None:
    why = "starts after migrate, which is neither ready anywhere nor finished with success"
    never = (UnableNode("web-1", 'the key "never" names this node'),)
    found = here(overview("web-1", "web-2", candidates=("web-2",), unable=never, reason=why), program("beat"))
    assert f"it could be led by web-2, but not now: {why}" in found.because


def test_a_node_without_the_program_speaks_of_the_others() -> None:
    drift = (Drift("web-3", ("command", "user")),)
    found = here(overview("web-1", "web-2", leader="web-2", since=T, candidates=("web-3",), drift=drift), None)
    assert found.verdict == "beat is led by web-2"
    assert found.because[1:] == (
        "this node, web-1, does not have it in its configuration",
        "it could be led now by web-3",
        "web-3 has it with another command, user",
    )


def test_without_postgresql_this_node_tells_what_it_knows() -> None:
    away = replace(WEB_1, postgres=replace(POSTGRES, connected=False, trouble="connection refused"))
    status = program("beat", reason="connection refused")
    found = explained("beat", None, LocalView(away, status, None), "PostgreSQL does not answer")
    assert "this node, web-1, cannot use PostgreSQL: connection refused" in found.because
    assert "what other nodes could do is not known: PostgreSQL does not answer" in found.because


def test_without_a_daemon_it_is_the_cluster_s_side() -> None:
    found = explained("beat", overview("web-2", leader="web-2", since=T, ready=True), None)
    assert found.verdict == "beat is led by web-2"
    assert found.because == (f"web-2 leads it since {T}, in epoch 7; its child is ready",)


def test_a_maintenance_is_named_with_its_price() -> None:
    under_way = MaintenanceStatus(60.0, 90.0, T, T, "ann", "")
    node = replace(WEB_1, maintenance=under_way, postgres=replace(POSTGRES, replaced_within=97.0))
    found = explained("beat", overview("web-1"), LocalView(node, leading("beat"), None))
    assert found.because[-1] == f"maintenance of PostgreSQL until {T}: a lost node is replaced only within 97 s"


def test_a_leader_says_when_it_gives_a_program_back_to_a_node_that_is_preferred() -> None:
    found = explained("beat", overview("web-1"), LocalView(WEB_1, leading("beat"), None, ("web-2", T)))
    assert found.because[1] == f"it goes back to web-2, which is preferred, at {T}, if web-2 could lead it until then"


def test_a_leader_names_when_its_term_ends_unless_its_child_is_ready_or_when_it_gives_the_program_back() -> None:
    late, back = "2026-01-02T03:05:00Z", "2026-01-02T03:04:30Z"
    assert here(overview("web-1"), leading("beat"), changes=late).earliest == late
    view = LocalView(WEB_1, leading("beat"), late, ("web-2", back))
    assert explained("beat", overview("web-1"), view).earliest == back


def test_a_scheduled_time_is_named_without_a_daemon_and_by_a_node_that_never_leads_it() -> None:
    next_run = {"candidates": ("web-2",), "reason": f"next run at {T}; PostgreSQL's clock is behind", "scheduled": True}
    never = (UnableNode("web-1", 'the key "never" names this node'),)
    cluster = overview("web-1", "web-2", unable=never, **next_run)
    assert explained("beat", cluster, None).earliest == T
    assert here(cluster, None).earliest == T
    assert here(cluster, program("beat")).earliest == T
    later = "9999-12-31T00:00:00.000Z"  # the end of this node's backoff
    assert here(cluster, program("beat", "backoff"), changes=later).earliest == T
    garbled = overview("web-2", candidates=("web-2",), reason="next run at some time")
    assert explained("beat", garbled, None).earliest is None


def test_where_another_node_knows_the_moment_it_is_named() -> None:
    paused = (UnableNode("web-2", "exited with status 1", in_backoff=True), UnableNode("web-3", "drained"))
    assert explained("beat", overview("web-2", unable=paused), None).known_to == ("web-2",)
    both = here(overview("web-1", "web-2", unable=paused), program("beat", "backoff"), changes=T)
    assert (both.earliest, both.known_to) == (T, ("web-2",))
    late = {"leader": "web-2", "since": T, "candidates": ("web-1", "web-3")}
    assert here(overview("web-1", "web-2", **late), program("beat", leader="web-2")).known_to == ("web-2",)
    assert explained("beat", overview("web-2", **late, ready=True), None).known_to == ()
    assert explained("beat", overview("web-1", **late, ready=True), None).known_to == ("web-1", "web-3")
    held = overview("web-2", unable=paused, stopped=Held("uid 0", "", T))
    assert explained("beat", held, None).known_to == ()


def test_what_is_about_to_say_why_it_waits_is_not_said_to_be_led_now() -> None:
    stale = overview("web-1", "web-2", leader="web-1", since=T, candidates=("web-2",), ready=True)
    assert "it could be led by web-2" in here(stale, program("beat")).because
    between = overview("web-2", candidates=("web-2",), scheduled=True)
    assert explained("beat", between, None).because == ("it could be led by web-2",)
