"""What a node remembers of what it saw, and what each change of server, run or ledger leaves of it."""

from __future__ import annotations

import pytest

from highlanderd.core.knowledge import Knowledge, glimpsed, observe, renewed_elsewhere
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Glimpse, Observation, ServerIdentity
from highlanderd.core.verdict import Claim, NotYet, Refusal, Settle, judge
from highlanderd.structs import replace
from tests.support.core import HERE, LOCK_ID, SERVER, L, observation, row

PROMOTED = replace(SERVER, timeline=SERVER.timeline + 1)
NEW_SYSTEM = replace(SERVER, system=2, timeline=1)
FORMER = replace(SERVER, timeline=SERVER.timeline - 1)
REPLACED = replace(SERVER, place="another ledger")


def test_a_reconnection_to_the_same_run_keeps_what_is_known() -> None:
    seen = observation(row())
    knowledge = observe(observe(Knowledge(), seen, 1.0), seen, 8.0)
    assert knowledge.since == 1.0
    assert knowledge.versions[LOCK_ID] == ((5, 9), 1.0)


@pytest.mark.parametrize(
    "another",
    [
        replace(SERVER, started="b"),
        replace(SERVER, timeline=4),
        replace(SERVER, system=2),
        replace(SERVER, position=99),
        replace(SERVER, place="another ledger"),
    ],
    ids=["restarted", "promoted", "another system", "its log went back", "another ledger"],
)
def test_another_run_throws_away_what_is_known(another: object) -> None:
    knowledge = observe(Knowledge(), observation(row()), 1.0)
    later = observe(knowledge, observation(row(), server=another), 8.0)  # type: ignore[arg-type]
    assert later.since == 8.0
    assert later.versions[LOCK_ID] == ((5, 9), 8.0)


def test_a_version_that_a_survey_has_shown_is_known_since_then() -> None:
    later = replace(SERVER, position=150)
    knowledge = glimpsed(observe(Knowledge(), observation(row()), 1.0), Glimpse(later, (5, 12), 3.0))
    assert (knowledge.server, knowledge.versions[LOCK_ID]) == (later, ((5, 12), 3.0))
    assert observe(knowledge, observation(row(renewal=12), server=later), 8.0).versions[LOCK_ID] == ((5, 12), 3.0)
    assert observe(knowledge, observation(row(renewal=13), server=later), 8.0).versions[LOCK_ID] == ((5, 13), 8.0)


def test_a_row_that_is_older_than_a_survey_has_shown_has_gone_back() -> None:
    knowledge = glimpsed(observe(Knowledge(), observation(row()), 1.0), Glimpse(SERVER, (5, 12), 3.0))
    assert observe(knowledge, observation(row(renewal=10)), 8.0).rewinds == 1


@pytest.mark.parametrize(
    "glimpse",
    [
        None,
        Glimpse(SERVER, (5, 9), 0.5),
        Glimpse(SERVER, (5, 8), 3.0),
        Glimpse(replace(SERVER, position=99), (5, 12), 3.0),
        Glimpse(replace(SERVER, started="b"), (5, 12), 3.0),
        Glimpse(PROMOTED, (5, 12), 3.0),
        Glimpse(REPLACED, (5, 12), 3.0),
    ],
    ids=["none", "known", "older", "older log", "restarted", "promoted", "another ledger"],
)
def test_what_a_survey_has_shown_of_another_run_or_before_counts_for_nothing(glimpse: Glimpse | None) -> None:
    knowledge = observe(Knowledge(), observation(row()), 1.0)
    assert glimpsed(knowledge, glimpse) == knowledge
    assert glimpsed(Knowledge(), glimpse) == Knowledge()


def test_a_log_that_grew_is_the_same_run() -> None:
    knowledge = observe(Knowledge(), observation(row()), 1.0)
    assert observe(knowledge, observation(row(), server=replace(SERVER, position=101)), 8.0).since == 1.0


def test_a_lower_timeline_than_was_ever_seen_is_refused_even_across_runs() -> None:
    knowledge = observe(Knowledge(), observation(None, server=PROMOTED), 0.0)
    old = observation(row(released=True))
    refusal = judge(old, observe(knowledge, old, 99.0), 99.0, HERE)
    assert isinstance(refusal, Refusal)
    assert "timeline 3 of system 1" in refusal.why


def test_timelines_of_different_systems_are_not_compared() -> None:
    knowledge = observe(Knowledge(), observation(None), 0.0)
    other = observation(row(released=True, system=2, timeline=1), server=NEW_SYSTEM)
    knowledge = observe(knowledge, other, 1.0)
    assert isinstance(judge(other, knowledge, 1.0 + L.wait, HERE), Claim)


@pytest.mark.parametrize("elsewhere", [NEW_SYSTEM, FORMER, REPLACED], ids=["system", "timeline", "ledger"])
def test_who_comes_from_another_server_or_ledger_waits_for_what_that_one_had_promised(
    elsewhere: ServerIdentity,
) -> None:
    """A switchover is rolled back: this server has settled long ago, and our leaders were elsewhere since."""
    knowledge = observe(Knowledge(), observation(row(), server=elsewhere, ceiling=90.0), 0.0)
    back = observation(row(released=True))
    knowledge = observe(knowledge, back, 3.0)
    over = 3.0 + Lease(90.0).wait
    assert isinstance(judge(back, knowledge, over - 0.1, HERE), NotYet)
    assert isinstance(judge(back, knowledge, over, HERE), Claim)


def test_a_row_that_arrives_as_released_by_replication_may_be_taken_over_where_it_comes_from() -> None:
    knowledge = observe(Knowledge(), observation(row(system=2)), 0.0)
    released = observation(row(system=2, renewal=10, released=True))
    knowledge = observe(knowledge, released, 3.0)
    assert isinstance(judge(released, knowledge, 3.0, HERE), NotYet)
    led_again = observation(row(system=2, epoch=6, renewal=11, released=True))
    knowledge = observe(knowledge, led_again, 13.0)
    assert isinstance(judge(led_again, knowledge, 13.6, HERE), NotYet)
    assert isinstance(judge(led_again, knowledge, 13.0 + L.wait, HERE), Claim)


def test_who_has_only_seen_the_server_restart_believes_that_it_has_settled() -> None:
    knowledge = observe(Knowledge(), observation(row(released=True)), 0.0)
    restarted = observation(row(released=True), server=replace(SERVER, started="b"))
    assert isinstance(judge(restarted, observe(knowledge, restarted, 3.0), 3.0, HERE), Claim)


def test_a_ledger_that_stops_being_settled_is_waited_for_again_under_one_run_of_the_server() -> None:
    knowledge = observe(Knowledge(), observation(row(released=True)), 0.0)
    unsettled = observation(row(released=True), settled=False)
    knowledge = observe(knowledge, unsettled, 50.0)
    knowledge = observe(knowledge, unsettled, 60.4)
    assert isinstance(judge(unsettled, knowledge, 60.4, HERE), NotYet)
    assert isinstance(judge(unsettled, knowledge, 60.5, HERE), Settle)


@pytest.mark.parametrize(
    "another", [PROMOTED, NEW_SYSTEM, REPLACED], ids=["promoted", "another system", "another ledger"]
)
def test_what_was_promised_before_is_waited_for_where_nothing_shows_it_any_more(another: ServerIdentity) -> None:
    """A failover may have lost the longer ceiling together with the rows that were written under it."""
    knowledge = observe(Knowledge(), observation(row(), ceiling=90.0), 0.0)
    there = observation(row(released=True), server=another, settled=False)
    knowledge = observe(knowledge, there, 5.0)
    assert isinstance(judge(there, knowledge, 99.4, HERE), NotYet), "a leader may have renewed until just before 5"
    assert isinstance(judge(there, knowledge, 99.5, HERE), Settle)


def test_what_was_promised_is_waited_for_over_any_number_of_runs() -> None:
    knowledge = observe(Knowledge(), observation(row(), ceiling=90.0), 0.0)
    for at, started in ((5.0, "b"), (8.0, "c"), (20.0, "d")):
        there = observation(row(released=True), server=replace(SERVER, started=started), settled=False)
        knowledge = observe(knowledge, there, at)
    assert isinstance(judge(there, knowledge, 99.4, HERE), NotYet)
    assert isinstance(judge(there, knowledge, 99.5, HERE), Settle)


def test_a_restart_of_a_settled_server_makes_nobody_wait_for_what_was_promised() -> None:
    """Its rows are all there, and each says how long it is trusted."""
    knowledge = observe(Knowledge(), observation(row(), ceiling=90.0), 0.0)
    there = observation(row(released=True), server=replace(SERVER, started="b"), ceiling=90.0)
    assert isinstance(judge(there, observe(knowledge, there, 5.0), 5.0, HERE), Claim)


GONE_BACK = {
    "its row vanished": observation(None),
    "an earlier epoch": observation(row(epoch=4, renewal=99, released=True)),
    "an earlier renewal": observation(row(renewal=8, released=True)),
    "an earlier row under another key": observation(row(released=True), row(lock_id=8, renewal=8, released=True)),
}


@pytest.mark.parametrize("name", GONE_BACK)
def test_a_ledger_that_went_back_is_not_believed_for_as_long_as_it_may_have_forgotten_a_promise(name: str) -> None:
    """It was restored, or overwritten from elsewhere, and says that it is settled because it was, once."""
    back = GONE_BACK[name]
    knowledge = observe(Knowledge(), observation(row(released=True), row(lock_id=8, released=True)), 0.0)
    knowledge = observe(knowledge, back, 20.0)
    assert knowledge.rewinds == 1
    knowledge = observe(knowledge, back, 30.4)
    assert isinstance(judge(back, knowledge, 30.4, HERE), NotYet)
    assert isinstance(judge(back, knowledge, 30.5, HERE), Claim)
    assert knowledge.rewinds == 1, "it went back once"


def test_a_led_row_that_went_back_is_waited_for_anew() -> None:
    knowledge = observe(Knowledge(), observation(row(renewal=50)), 0.0)
    assert observe(knowledge, observation(row(renewal=49)), 20.0).versions[LOCK_ID] == ((5, 49), 20.0)


@pytest.mark.parametrize("started", ["a", "b"], ids=["under one run", "started from an older copy"])
def test_a_ledger_that_went_back_has_forgotten_the_ceiling_that_it_promised(started: str) -> None:
    knowledge = observe(Knowledge(), observation(row(renewal=50), ceiling=90.0), 0.0)
    back = observation(row(renewal=1, released=True), server=replace(SERVER, started=started))
    knowledge = observe(knowledge, back, 3.0)
    assert knowledge.rewinds == 1
    assert isinstance(judge(back, knowledge, 97.4, HERE), NotYet)
    assert isinstance(judge(back, knowledge, 97.5, HERE), Claim)


def test_a_ledger_that_went_back_promises_its_own_ceiling_too() -> None:
    knowledge = observe(Knowledge(), observation(row(renewal=50)), 0.0)
    back = observation(row(renewal=1, released=True), ceiling=90.0)
    knowledge = observe(knowledge, back, 3.0)
    assert isinstance(judge(back, knowledge, 97.4, HERE), NotYet)
    assert isinstance(judge(back, knowledge, 97.5, HERE), Claim)


@pytest.mark.parametrize(
    "another", [PROMOTED, NEW_SYSTEM, REPLACED], ids=["promoted", "another system", "another ledger"]
)
def test_an_older_row_in_another_place_is_no_ledger_that_went_back(another: ServerIdentity) -> None:
    """A failover may lose the last renewals: that is what settling is for."""
    knowledge = observe(Knowledge(), observation(row(renewal=50)), 0.0)
    assert observe(knowledge, observation(row(renewal=49), server=another), 3.0).rewinds == 0


def test_a_ledger_that_went_back_is_not_believed_after_a_restart_either() -> None:
    knowledge = observe(Knowledge(), observation(row()), 0.0)
    knowledge = observe(knowledge, observation(None), 20.0)
    restarted = observation(None, server=replace(SERVER, started="b"))
    knowledge = observe(knowledge, restarted, 21.0)
    assert isinstance(judge(restarted, knowledge, 30.4, HERE), NotYet)
    assert isinstance(judge(restarted, knowledge, 30.5, HERE), Claim)


@pytest.mark.parametrize(
    "onward",
    [
        observation(row(epoch=6, renewal=1, released=True)),
        observation(row(renewal=10, released=True), row(lock_id=8, released=True)),
    ],
    ids=["a new epoch counts renewals anew", "a row came under our name"],
)
def test_a_row_that_only_moved_on_has_not_gone_back(onward: Observation) -> None:
    knowledge = observe(observe(Knowledge(), observation(row()), 0.0), onward, 1.0)
    assert knowledge.rewinds == 0
    assert isinstance(judge(onward, knowledge, 1.0, HERE), Claim)


def test_a_row_that_left_our_programs_name_has_not_vanished() -> None:
    """Its lock key serves another program now."""
    knowledge = observe(Knowledge(), observation(row(released=True), row(lock_id=8, released=True)), 0.0)
    assert observe(knowledge, observation(row(released=True)), 1.0).rewinds == 0


# -------------------------------------------------------------------------------------- renewed through another server

THEIRS = row(system=2, timeline=1)


def test_a_row_that_moves_without_this_server_is_renewed_through_another_one() -> None:
    knowledge = observe(Knowledge(), observation(THEIRS), 0.0)
    moved = replace(THEIRS, renewal=10)
    assert renewed_elsewhere(knowledge, observation(moved)) == (moved,)
    assert renewed_elsewhere(knowledge, observation(None, moved)) == (moved,)


@pytest.mark.parametrize(
    "seen",
    [
        observation(THEIRS),
        observation(row(renewal=10)),
        observation(replace(THEIRS, renewal=10, released=True)),
        observation(replace(THEIRS, lock_id=8)),
        observation(replace(THEIRS, renewal=10), server=PROMOTED),
    ],
    ids=["stands still", "renewed here", "released", "never seen before", "moved before a failover"],
)
def test_no_other_row_is_said_to_be_renewed_through_another_server(seen: Observation) -> None:
    assert renewed_elsewhere(observe(Knowledge(), observation(THEIRS), 0.0), seen) == ()
