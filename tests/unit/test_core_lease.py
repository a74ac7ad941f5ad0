"""The clocks of a lease, every line of the verdict, and what a node remembers of what it saw."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fix_core import HERE, LENGTHS, LOCK_ID, SERVER, L, row, sight, verdict

from highlanderd.core.lease import (
    LONGEST_RESERVATION,
    Claim,
    Knowledge,
    Lease,
    NotYet,
    Refusal,
    Server,
    Settle,
    Sight,
    judge,
    next_epoch,
    observe,
)

PROMOTED = replace(SERVER, timeline=SERVER.timeline + 1)
NEW_SYSTEM = replace(SERVER, system=2, timeline=1)
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


def test_a_start_that_took_half_a_lease_is_none() -> None:
    assert L.spawn_within == 5.0


@pytest.mark.parametrize("length", [2.0, 10.0, 60.0])
def test_the_child_is_dead_before_anybody_else_may_begin(length: float) -> None:
    lease = Lease(length)
    assert lease.fence_at(0.0, 99.0) < lease.kill_at(0.0) < lease.trusted_until(0.0) < lease.wait


# --------------------------------------------------------------------------------------------- line 1: reservations


def test_line_1_a_reservation_for_another_node_keeps_us_away_from_when_we_first_saw_it() -> None:
    seen = sight(row(released=True, reserved_for="there", reserved_seconds=5.0))
    assert verdict(seen, known_since=0.0, now=4.9) == NotYet(5.0, "reserved for there")
    assert isinstance(verdict(seen, known_since=0.0, now=5.0), Claim)


def test_line_1_a_reservation_lasts_a_minute_at_most() -> None:
    seen = sight(row(released=True, reserved_for="there", reserved_seconds=3600.0))
    assert verdict(seen, known_since=0.0, now=1.0) == NotYet(LONGEST_RESERVATION, "reserved for there")


def test_line_1_a_reservation_for_us_is_no_reason_to_wait() -> None:
    seen = sight(row(released=True, reserved_for="here", reserved_seconds=60.0))
    assert isinstance(verdict(seen, known_since=0.0, now=0.0), Claim)


def test_line_1_a_reservation_counts_for_released_rows_only() -> None:
    seen = sight(row(reserved_for="there", reserved_seconds=60.0))
    assert isinstance(verdict(seen, known_since=0.0, now=L.wait), Claim)


# ------------------------------------------------------------------------------------------------- line 2: settling


@pytest.mark.parametrize("seen", [None, row(), row(released=True), row(instance="ours")])
def test_line_2_on_another_timeline_everybody_waits_a_whole_lease_whatever_the_row(seen: object) -> None:
    there = Sight(PROMOTED, sight(None, settled=False).meta, seen)  # type: ignore[arg-type]
    assert isinstance(verdict(there, known_since=0.0, now=10.4), NotYet)
    settle = verdict(there, known_since=0.0, now=L.wait)
    assert isinstance(settle, Settle)
    assert (settle.system, settle.timeline, settle.place) == (PROMOTED.system, PROMOTED.timeline, PROMOTED.place)


def test_line_2_once_settled_a_released_row_of_another_timeline_is_taken_over_at_once() -> None:
    there = sight(row(released=True), server=PROMOTED)
    assert isinstance(verdict(there, known_since=0.0, now=0.0), Claim)


@pytest.mark.parametrize("server", [PROMOTED, NEW_SYSTEM], ids=["another timeline", "another system"])
def test_line_2_a_row_that_somebody_may_still_renew_elsewhere_must_stand_still_however_settled(server: Server) -> None:
    """It may arrive by replication, and its leader serve through the other server."""
    there = sight(row(), server=server)
    assert verdict(there, known_since=0.0, now=10.4) == NotYet(L.wait, "led by there")
    assert isinstance(verdict(there, known_since=0.0, now=L.wait), Claim)
    knowledge = observe(Knowledge(), there, 0.0)
    moved = sight(row(renewal=10), server=server)
    assert isinstance(judge(moved, observe(knowledge, moved, 10.6), 10.6, HERE), NotYet)


def test_line_2_being_settled_for_another_timeline_does_not_count() -> None:
    meta = sight(None).meta
    there = Sight(PROMOTED, meta, row())
    assert isinstance(verdict(there, known_since=0.0, now=1.0), NotYet)


def test_line_2_the_first_start_of_all_waits_one_lease() -> None:
    empty = sight(None, settled=False)
    assert isinstance(verdict(empty, known_since=0.0, now=10.4), NotYet)
    assert isinstance(verdict(empty, known_since=0.0, now=L.wait), Settle)
    assert isinstance(verdict(sight(None), known_since=0.0, now=0.0), Claim)


@pytest.mark.parametrize("seen", [row(system=2, timeline=1, released=True), row(system=2, timeline=1, instance="ours")])
def test_a_system_without_an_epoch_offset_is_settled_only_after_the_wait(seen: object) -> None:
    """A leader that renewed on a new system makes its row look settled there; that proves nothing about others."""
    there = sight(seen, server=NEW_SYSTEM, settled=False, offset=None)  # type: ignore[arg-type]
    assert isinstance(verdict(there, known_since=0.0, now=10.4), NotYet)
    assert verdict(there, known_since=0.0, now=L.wait) == Settle(2, 1, SERVER.place, 0)


# --------------------------------------------------------------------------------- lines 3 and 4: released and silent


def test_line_3_a_released_row_is_taken_over_at_once() -> None:
    seen = sight(row(released=True))
    expected = Claim(seen.row, (), SERVER, LENGTHS, next_epoch(5, 0, SERVER.timeline))
    assert verdict(seen, known_since=0.0, now=0.0) == expected


def test_line_3_our_own_row_is_taken_over_when_no_keeper_is_left() -> None:
    assert isinstance(verdict(sight(row(instance="ours")), known_since=0.0, now=0.0), Claim)


def test_line_3_our_own_row_waits_like_any_other_while_a_keeper_is_left() -> None:
    held = replace(HERE, keeperless=False)
    seen = sight(row(instance="ours"))
    assert isinstance(verdict(seen, known_since=0.0, now=10.4, candidate=held), NotYet)


def test_line_3_the_nodes_name_makes_no_row_ours() -> None:
    assert isinstance(verdict(sight(row(node="here")), known_since=0.0, now=0.0), NotYet)


def test_line_4_a_silent_leader_is_replaced_after_the_wait_and_not_before() -> None:
    seen = sight(row())
    assert verdict(seen, known_since=0.0, now=10.4) == NotYet(L.wait, "led by there")
    assert isinstance(verdict(seen, known_since=0.0, now=L.wait), Claim)


def test_line_4_a_renewal_starts_the_wait_anew() -> None:
    knowledge = observe(Knowledge(), sight(row()), 0.0)
    renewed = sight(row(renewal=10))
    assert judge(renewed, observe(knowledge, renewed, 9.0), 9.0, HERE) == NotYet(9.0 + L.wait, "led by there")


# --------------------------------------------------------------------------------------------------- changed lock keys


def test_a_term_of_our_program_under_another_lock_id_must_have_ended_first() -> None:
    seen = sight(None, row(lock_id=8))
    assert verdict(seen, known_since=0.0, now=1.0) == NotYet(L.wait, ELSEWHERE)
    claim = verdict(seen, known_since=0.0, now=L.wait)
    assert isinstance(claim, Claim)
    assert claim.closing == seen.others
    assert isinstance(verdict(sight(None, row(lock_id=8, released=True)), known_since=0.0, now=0.0), Claim)


def test_a_row_that_only_has_to_settle_does_not_hide_one_that_has_to_wait() -> None:
    seen = sight(row(timeline=1, released=True), row(lock_id=8), settled=False)
    knowledge = observe(observe(Knowledge(), sight(None, settled=False), 0.0), seen, 11.0)
    assert judge(seen, knowledge, 11.0, HERE) == NotYet(11.0 + L.wait, ELSEWHERE)


# ------------------------------------------------------------------------------------------------------ what was seen


def test_a_reconnection_to_the_same_run_keeps_what_is_known() -> None:
    seen = sight(row())
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
    ],
    ids=["restarted", "promoted", "another system", "its log went back"],
)
def test_another_run_throws_away_what_is_known(another: object) -> None:
    knowledge = observe(Knowledge(), sight(row()), 1.0)
    later = observe(knowledge, sight(row(), server=another), 8.0)  # type: ignore[arg-type]
    assert later.since == 8.0
    assert later.versions[LOCK_ID] == ((5, 9), 8.0)


def test_a_log_that_grew_is_the_same_run() -> None:
    knowledge = observe(Knowledge(), sight(row()), 1.0)
    assert observe(knowledge, sight(row(), server=replace(SERVER, position=101)), 8.0).since == 1.0


def test_a_lower_timeline_than_was_ever_seen_is_refused_even_across_runs() -> None:
    knowledge = observe(Knowledge(), sight(None, server=PROMOTED), 0.0)
    old = sight(row(released=True))
    refusal = judge(old, observe(knowledge, old, 99.0), 99.0, HERE)
    assert isinstance(refusal, Refusal)
    assert "timeline 3 of system 1" in refusal.why


def test_timelines_of_different_systems_are_not_compared() -> None:
    knowledge = observe(Knowledge(), sight(None), 0.0)
    other = sight(row(released=True, system=2, timeline=1), server=NEW_SYSTEM)
    assert isinstance(judge(other, observe(knowledge, other, 1.0), 1.0, HERE), Claim)


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
