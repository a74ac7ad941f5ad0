"""Every line of the verdict: reservations, settled ledgers, released and silent rows, and what a claim asks for."""

from __future__ import annotations

import pytest

from highlanderd.core.knowledge import Knowledge, observe
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.observation import Observation, Row, ServerIdentity
from highlanderd.core.verdict import LONGEST_RESERVATION, Claim, NotYet, Settle, judge, next_epoch
from highlanderd.structs import replace
from tests.support.core import HERE, LENGTHS, SERVER, L, observation, row, verdict

PROMOTED = replace(SERVER, timeline=SERVER.timeline + 1)
NEW_SYSTEM = replace(SERVER, system=2, timeline=1)
REPLACED = replace(SERVER, place="another ledger")
ELSEWHERE = "led by there under another lock key (lock id 8)"


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
