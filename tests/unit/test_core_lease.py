"""The clocks of a lease, every line of the verdict, and what a node remembers of what it saw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from highlanderd.core.knowledge import Knowledge, observe, renewed_elsewhere
from highlanderd.core.lease import Lease, Lengths, maintenance_lease, replaced_within
from highlanderd.core.observation import Observation, Row, ServerIdentity
from highlanderd.core.verdict import LONGEST_RESERVATION, Claim, NotYet, Refusal, Settle, judge, next_epoch
from tests.support.core import HERE, LENGTHS, LOCK_ID, SERVER, L, observation, row, verdict

PROMOTED = replace(SERVER, timeline=SERVER.timeline + 1)
NEW_SYSTEM = replace(SERVER, system=2, timeline=1)
FORMER = replace(SERVER, timeline=SERVER.timeline - 1)
REPLACED = replace(SERVER, place="another ledger")
ELSEWHERE = "led by there under another lock key (lock id 8)"


# ------------------------------------------------------------------------------------------------------------ clocks


def test_trust_counts_from_the_sending() -> None:
    assert L.trusted_until(100.0) == 110.0


def test_sigkill_comes_at_nine_tenths() -> None:
    assert L.kill_at(100.0) == 109.0


@pytest.mark.parametrize(("stop_timeout", "at"), [(10.0, 107.0), (2.0, 107.0), (0.5, 108.5), (0.0, 109.0)])
def test_sigterm_comes_at_seven_tenths_or_later_when_the_program_needs_less(stop_timeout: float, at: float) -> None:
    assert L.fence_at(100.0, stop_timeout) == at


def test_everybody_else_waits_a_twentieth_longer_than_a_lease() -> None:
    assert L.wait == 10.5


def test_two_renewals_may_be_lost_before_the_fence_begins() -> None:
    assert L.renew_every == 2.0
    assert L.renew_every + L.answer_within <= L.fence_at(0.0, 10.0) - L.renew_every


def test_an_outage_that_costs_nothing_leaves_a_tenth_of_a_lease_to_reconnect() -> None:
    latest_loss = L.renew_every  # the renewal that was just due is the first that is not answered
    assert latest_loss + L.outage_borne + 0.1 * L.length <= L.fence_at(0.0, 99.0)


def test_a_silent_leader_is_replaced_after_a_look_that_was_a_fifth_late_and_the_wait() -> None:
    assert 1.1 * L.renew_every + L.wait <= L.replaced_within
    assert L.wait <= L.resumed_within <= L.replaced_within


@pytest.mark.parametrize("lease", [2.0, 3.7, 10.0, 60.0])
@pytest.mark.parametrize("outage", [0.5, 4.0, 60.0, 3600.0, 86400.0])
def test_a_maintenance_lease_bears_its_outage_and_is_hardly_longer_than_that_takes(lease: float, outage: float) -> None:
    def borne(length: float) -> float:
        return Lease(length).fence_at(0.0, 1e9) - Lease(lease).renew_every - 0.1 * lease

    length = maintenance_lease(lease, outage)
    assert length >= lease
    assert borne(length) >= outage - 1e-6
    assert length == lease or borne(length - 1) < outage


def test_a_silent_leader_under_a_longer_lease_is_replaced_after_its_wait_and_a_look_at_the_usual_pace() -> None:
    latest = Lease(90.0).wait + 1.1 * L.renew_every
    assert latest <= replaced_within(90.0, L.length) < latest + 0.1 * L.length
    assert replaced_within(L.length, L.length) == pytest.approx(L.replaced_within)


def test_a_start_that_took_half_a_lease_is_none() -> None:
    assert L.spawn_within == 5.0


@pytest.mark.parametrize("length", [2.0, 10.0, 60.0])
def test_the_child_is_dead_before_anybody_else_may_begin(length: float) -> None:
    lease = Lease(length)
    assert lease.fence_at(0.0, 99.0) < lease.kill_at(0.0) < lease.trusted_until(0.0) < lease.wait


# --------------------------------------------------------------------------------------------- line 1: reservations


def test_line_1_a_reservation_for_another_node_keeps_us_away_from_when_we_first_saw_it() -> None:
    seen = observation(row(released=True, reserved_for="there", reserved_seconds=5.0))
    assert verdict(seen, known_since=0.0, now=4.9) == NotYet(5.0, "reserved for there")
    assert isinstance(verdict(seen, known_since=0.0, now=5.0), Claim)


def test_line_1_a_reservation_lasts_a_minute_at_most() -> None:
    seen = observation(row(released=True, reserved_for="there", reserved_seconds=3600.0))
    assert verdict(seen, known_since=0.0, now=1.0) == NotYet(LONGEST_RESERVATION, "reserved for there")


def test_line_1_a_reservation_for_us_is_no_reason_to_wait() -> None:
    seen = observation(row(released=True, reserved_for="here", reserved_seconds=60.0))
    assert isinstance(verdict(seen, known_since=0.0, now=0.0), Claim)


def test_line_1_a_reservation_counts_for_released_rows_only() -> None:
    seen = observation(row(reserved_for="there", reserved_seconds=60.0))
    assert isinstance(verdict(seen, known_since=0.0, now=L.wait), Claim)


# --------------------------------------------------------------------------------- settled, before every claim


@pytest.mark.parametrize("seen", [None, row(), row(released=True), row(instance="ours")])
def test_on_another_timeline_everybody_waits_a_whole_lease_whatever_the_row(seen: object) -> None:
    there = Observation(PROMOTED, observation(None, settled=False).meta, seen)  # type: ignore[arg-type]
    assert isinstance(verdict(there, known_since=0.0, now=10.4), NotYet)
    settle = verdict(there, known_since=0.0, now=L.wait)
    assert isinstance(settle, Settle)
    assert (settle.system, settle.timeline, settle.place) == (PROMOTED.system, PROMOTED.timeline, PROMOTED.place)


def test_once_settled_a_released_row_of_another_timeline_is_taken_over_at_once() -> None:
    there = observation(row(released=True), server=PROMOTED)
    assert isinstance(verdict(there, known_since=0.0, now=0.0), Claim)


def test_being_settled_for_another_timeline_does_not_count() -> None:
    meta = observation(None).meta
    there = Observation(PROMOTED, meta, row())
    assert isinstance(verdict(there, known_since=0.0, now=1.0), NotYet)


def test_the_first_start_of_all_waits_one_lease() -> None:
    empty = observation(None, settled=False)
    assert isinstance(verdict(empty, known_since=0.0, now=10.4), NotYet)
    assert isinstance(verdict(empty, known_since=0.0, now=L.wait), Settle)
    assert isinstance(verdict(observation(None), known_since=0.0, now=0.0), Claim)


@pytest.mark.parametrize("seen", [row(system=2, timeline=1, released=True), row(system=2, timeline=1, instance="ours")])
def test_a_system_without_an_epoch_offset_is_settled_only_after_the_wait(seen: object) -> None:
    """A leader that renewed on a new system makes its row look settled there; that proves nothing about others."""
    there = observation(seen, server=NEW_SYSTEM, settled=False, offset=None)  # type: ignore[arg-type]
    assert isinstance(verdict(there, known_since=0.0, now=10.4), NotYet)
    assert verdict(there, known_since=0.0, now=L.wait) == Settle(2, 1, SERVER.place, 0)


@pytest.mark.parametrize(
    "seen", [None, row(released=True), row(instance="ours"), row()], ids=["none", "free", "ours", "led"]
)
def test_nothing_is_claimed_in_a_ledger_that_is_not_settled(seen: Row | None) -> None:
    there = observation(seen, settled=False)
    assert isinstance(verdict(there, known_since=0.0, now=10.4), NotYet)
    assert verdict(there, known_since=0.0, now=L.wait) == Settle(1, 3, SERVER.place, 0 if seen else -1)


@pytest.mark.parametrize("seen", [None, row(released=True), row(instance="ours")], ids=["none", "free", "ours"])
def test_being_settled_for_another_ledger_of_the_same_server_does_not_count(seen: Row | None) -> None:
    there = Observation(REPLACED, observation(None).meta, seen)
    assert isinstance(verdict(there, known_since=0.0, now=10.4), NotYet)
    assert isinstance(verdict(there, known_since=0.0, now=L.wait), Settle)


def test_a_ledger_without_an_epoch_offset_is_not_settled_whatever_it_says() -> None:
    assert isinstance(verdict(observation(row(released=True), offset=None), known_since=0.0, now=10.4), NotYet)


def test_a_ledger_settles_once_the_longest_promise_is_over_and_not_its_own_lease() -> None:
    """Nobody can see there what the rows said that a failover has lost."""
    there = observation(None, settled=False, ceiling=90.0)
    assert isinstance(verdict(there, known_since=0.0, now=94.4), NotYet)
    assert isinstance(verdict(there, known_since=0.0, now=94.5), Settle)


def test_who_settles_tells_how_high_epochs_have_been_so_that_new_offsets_lie_above() -> None:
    settle = verdict(observation(row(epoch=3 << 32 | 9), settled=False), known_since=0.0, now=L.wait)
    assert settle == Settle(1, 3, SERVER.place, 3)


# --------------------------------------------------------------------------------- lines 2 and 3: released and silent


def test_line_2_a_released_row_is_taken_over_at_once() -> None:
    seen = observation(row(released=True))
    expected = Claim(seen.row, (), SERVER, LENGTHS, next_epoch(5, 0, SERVER.timeline))
    assert verdict(seen, known_since=0.0, now=0.0) == expected


def test_line_2_our_own_row_is_taken_over_when_no_keeper_is_left() -> None:
    assert isinstance(verdict(observation(row(instance="ours")), known_since=0.0, now=0.0), Claim)


def test_line_2_our_own_row_waits_like_any_other_while_a_keeper_is_left() -> None:
    held = replace(HERE, keeperless=False)
    seen = observation(row(instance="ours"))
    assert isinstance(verdict(seen, known_since=0.0, now=10.4, candidate=held), NotYet)


def test_line_2_the_nodes_name_makes_no_row_ours() -> None:
    assert isinstance(verdict(observation(row(node="here")), known_since=0.0, now=0.0), NotYet)


def test_line_2_a_row_of_ours_that_another_server_wrote_is_not_ours_to_take_at_once() -> None:
    """It may have come by replication, and our keeper may have been let go of there."""
    seen = observation(row(instance="ours", system=2))
    assert isinstance(verdict(seen, known_since=0.0, now=10.4), NotYet)
    assert isinstance(verdict(seen, known_since=0.0, now=L.wait), Claim)


def test_line_3_a_silent_leader_is_replaced_after_the_wait_and_not_before() -> None:
    seen = observation(row())
    assert verdict(seen, known_since=0.0, now=10.4) == NotYet(L.wait, "led by there")
    assert isinstance(verdict(seen, known_since=0.0, now=L.wait), Claim)


def test_line_3_a_renewal_starts_the_wait_anew() -> None:
    knowledge = observe(Knowledge(), observation(row()), 0.0)
    renewed = observation(row(renewal=10))
    assert judge(renewed, observe(knowledge, renewed, 9.0), 9.0, HERE) == NotYet(9.0 + L.wait, "led by there")


@pytest.mark.parametrize("server", [PROMOTED, NEW_SYSTEM], ids=["another timeline", "another system"])
def test_line_3_a_row_that_somebody_may_still_renew_elsewhere_must_stand_still_however_settled(
    server: ServerIdentity,
) -> None:
    """It may arrive by replication, and its leader serve through the other server."""
    there = observation(row(), server=server)
    assert verdict(there, known_since=0.0, now=10.4) == NotYet(L.wait, "led by there")
    assert isinstance(verdict(there, known_since=0.0, now=L.wait), Claim)
    knowledge = observe(Knowledge(), there, 0.0)
    moved = observation(row(renewal=10), server=server)
    assert isinstance(judge(moved, observe(knowledge, moved, 10.6), 10.6, HERE), NotYet)


@pytest.mark.parametrize(("trusted_for", "wait"), [(90.0, 94.5), (4.0, 4.2)], ids=["longer", "shorter"])
def test_line_3_everybody_waits_by_the_lease_that_the_row_carries(trusted_for: float, wait: float) -> None:
    seen = observation(row(trusted_for=trusted_for), ceiling=90.0)
    assert verdict(seen, known_since=0.0, now=wait - 0.01) == NotYet(wait, "led by there")
    assert isinstance(verdict(seen, known_since=0.0, now=wait), Claim)


def test_line_3_each_version_of_a_row_is_waited_for_by_its_own_lease() -> None:
    knowledge = observe(Knowledge(), observation(row(trusted_for=90.0)), 0.0)
    shortened = observation(row(renewal=10))
    knowledge = observe(knowledge, shortened, 50.0)
    assert judge(shortened, knowledge, 60.4, HERE) == NotYet(60.5, "led by there")
    assert isinstance(judge(shortened, knowledge, 60.5, HERE), Claim)


# ------------------------------------------------------------------------------------------------ what a claim asks for

HIGH = 9 << 32 | 40
"""An epoch above all that this timeline would begin with."""


@pytest.mark.parametrize("seen", [row(), row(instance="ours")], ids=["a lapsed term of others", "our own term"])
def test_a_term_that_nobody_released_is_closed_before_the_next_one_begins(seen: Row) -> None:
    claim = verdict(observation(seen), known_since=0.0, now=L.wait)
    assert isinstance(claim, Claim)
    assert (claim.judged, claim.closing) == (seen, (seen,))


def test_lapsed_terms_under_all_lock_keys_of_the_program_are_closed() -> None:
    mine, free, other = row(), row(lock_id=8, released=True), row(lock_id=9)
    claim = verdict(observation(mine, free, other), known_since=0.0, now=L.wait)
    assert isinstance(claim, Claim)
    assert claim.closing == (mine, other)


def test_a_term_begins_under_the_lease_that_the_ledger_wants_at_its_own_pace() -> None:
    claim = verdict(observation(row(released=True), wanted=90.0, ceiling=90.0), known_since=0.0, now=0.0)
    assert isinstance(claim, Claim)
    assert claim.lengths == Lengths(trusted=Lease(90.0), wanted=Lease(90.0), pace=L)


def test_a_claim_is_for_the_very_server_and_ledger_that_was_judged() -> None:
    claim = verdict(observation(None, server=REPLACED), known_since=0.0, now=0.0)
    assert isinstance(claim, Claim)
    assert claim.server == REPLACED


def test_a_new_epoch_is_above_the_history_even_where_the_row_is_lower_or_missing() -> None:
    for seen in (row(released=True), None):
        claim = verdict(observation(seen, floor=HIGH), known_since=0.0, now=0.0)
        assert isinstance(claim, Claim)
        assert claim.epoch == HIGH + 1


@pytest.mark.parametrize(
    "before", [observation(row(epoch=HIGH)), observation(None, floor=HIGH)], ids=["a row", "the history"]
)
def test_a_new_epoch_is_above_all_that_this_node_has_seen_in_whatever_ledger(before: Observation) -> None:
    knowledge = observe(Knowledge(), before, 0.0)
    new = observation(None, server=REPLACED)
    claim = judge(new, observe(knowledge, new, 99.0), 99.0 + L.wait, HERE)
    assert isinstance(claim, Claim)
    assert claim.epoch == HIGH + 1


# --------------------------------------------------------------------------------------------------- changed lock keys


def test_a_term_of_our_program_under_another_lock_id_must_have_ended_first() -> None:
    seen = observation(None, row(lock_id=8))
    assert verdict(seen, known_since=0.0, now=1.0) == NotYet(L.wait, ELSEWHERE)
    claim = verdict(seen, known_since=0.0, now=L.wait)
    assert isinstance(claim, Claim)
    assert claim.closing == seen.others
    assert isinstance(verdict(observation(None, row(lock_id=8, released=True)), known_since=0.0, now=0.0), Claim)


def test_a_row_that_only_has_to_settle_does_not_hide_one_that_has_to_wait() -> None:
    seen = observation(row(timeline=1, released=True), row(lock_id=8), settled=False)
    knowledge = observe(observe(Knowledge(), observation(None, settled=False), 0.0), seen, 11.0)
    assert judge(seen, knowledge, 11.0, HERE) == NotYet(11.0 + L.wait, ELSEWHERE)


# ------------------------------------------------------------------------------------------------------ what was seen


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


# ------------------------------------------------------------------------------------------------------------ epochs


def test_an_epoch_is_above_the_last_one() -> None:
    assert next_epoch(5, 0, 1) == 6


def test_a_promotion_lifts_the_epoch_above_all_that_the_old_timeline_could_give() -> None:
    assert next_epoch(5, 0, 2) == 1 << 32 | 1
    assert next_epoch(1 << 32 | 7, 0, 2) == 1 << 32 | 8
    assert next_epoch(5, 0, 3) > next_epoch((1 << 32) + 1_000_000, 0, 2)


def test_a_new_system_starts_at_its_offset() -> None:
    assert next_epoch(3 << 32 | 9, 4, 1) == 4 << 32 | 1


def test_the_first_epoch_of_all_is_one() -> None:
    assert next_epoch(0, 0, 1) == 1
