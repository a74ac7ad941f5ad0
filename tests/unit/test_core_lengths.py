"""A lease that changes while a term lasts: a longer one counts once acknowledged, a shorter one when it is sent."""

from __future__ import annotations

import pytest

from highlanderd.core.effects import Kill, Release, Renew, SetDeadline, Signal, Spawn
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Due,
    Emptied,
    EndOrdered,
    Granted,
    LeaseRefused,
    Looked,
    Overruled,
    Renewed,
    StopOrdered,
)
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.machine import deadline
from highlanderd.core.states import Cause, Draining, Leading, Policy, Situation, Term
from highlanderd.structs import replace
from tests.support.core import POLICY, L, go, leading, observation, prolonged, renewed, row, spawning, waiting

LOST = Detached("lost")
LONG = Lease(90.0)
SLOW = replace(POLICY, stop_timeout=30.0)


def term(situation: Situation) -> Term:
    """The term under way."""
    assert isinstance(situation.state, Leading | Draining)
    return situation.state.term


def draining(situation: Situation) -> Draining:
    """The state, known to be draining."""
    assert isinstance(situation.state, Draining)
    return situation.state


# -------------------------------------------------------------------------------------------------------------- pace


@pytest.mark.parametrize(
    ("trusted", "pace", "every"), [(90.0, 10.0, 2.0), (10.0, 60.0, 2.0)], ids=["maintenance", "the ledger's grew"]
)
def test_renewals_go_by_the_shorter_of_the_terms_lease_and_the_ledgers(
    trusted: float, pace: float, every: float
) -> None:
    lengths = Lengths(Lease(trusted), Lease(90.0), Lease(pace))
    situation, _ = go(leading(), (2.0, Due()), (2.1, Renewed(2.0, lengths)))
    assert deadline(situation, POLICY) == 2.0 + every


@pytest.mark.parametrize(("trusted", "pace"), [(90.0, 10.0), (10.0, 60.0)], ids=["maintenance", "the ledger's grew"])
def test_a_child_is_started_within_half_of_the_shorter_lease(trusted: float, pace: float) -> None:
    free = (0.0, Looked(observation(row(released=True)), 0.0, keeperless=True))
    lengths = Lengths(Lease(trusted), Lease(trusted), Lease(pace))
    _, effects = go(waiting(), free, (1.0, Granted(6, lengths, 0.0)))
    assert effects == (Spawn(6, not_after=5.0, deadline=0.9 * trusted),)


def test_looks_keep_the_ledgers_pace_however_long_a_row_is_trusted() -> None:
    taken = observation(row(trusted_for=90.0), wanted=90.0, ceiling=90.0)
    situation, _ = go(waiting(), (0.0, Looked(taken, 0.0, keeperless=True)))
    assert deadline(situation, POLICY) == 2.0


def test_the_end_waits_for_a_release_by_the_ledgers_lease_and_not_by_a_maintenance() -> None:
    end = EndOrdered(Cause.SHUTDOWN)
    situation, _ = go(prolonged(90.0), (3.0, LOST), (3.0, end), (3.5, Emptied()))
    assert deadline(situation, POLICY) == 8.5
    free, lengths = observation(row(released=True)), Lengths(LONG, LONG, L)
    granted = (1.0, Granted(6, lengths, 0.0))
    situation, _ = go(waiting(), (0.0, Looked(free, 0.0, keeperless=True)), (0.5, end), granted)
    assert deadline(situation, POLICY) == 6.0


def test_a_longer_lease_moves_fence_and_sigkill_with_it() -> None:
    situation = go(prolonged(90.0), (3.0, LOST))[0]
    assert deadline(situation, SLOW) == 2.0 + 63.0
    assert go(situation, (65.0, Due()), policy=SLOW)[1] == (Signal(), SetDeadline(83.0))


# -------------------------------------------------------------------------------------------------------- lengthening


def test_a_longer_lease_counts_for_nothing_before_it_is_acknowledged() -> None:
    situation, effects = go(prolonged(10.0, wanted=90.0), (4.0, Due()))
    assert effects == (Renew(6, LONG),), "the keeper has nothing to hear yet"
    assert term(situation).trusted_until == 12.0
    situation, _ = go(situation, (4.5, LOST))
    assert deadline(situation, POLICY) == 9.0, "the fence is where it was"


def test_an_acknowledged_longer_lease_counts_from_the_sending() -> None:
    situation, effects = go(prolonged(10.0, wanted=90.0), (4.0, Due()), (4.5, renewed(4.0, 90.0)))
    assert effects == (SetDeadline(85.0),)
    assert term(situation).trusted_until == 94.0


# ---------------------------------------------------------------------------------------------------------- shortening


def shortening(policy: Policy = POLICY) -> Situation:
    """Trusted for 90 s since 2, and asking since 4 to be trusted for 10 s."""
    return go(prolonged(90.0, wanted=10.0, policy=policy), (4.0, Due()), policy=policy)[0]


def test_a_shorter_lease_counts_from_its_sending() -> None:
    """Its row may be written by then, and others may wait no longer than that says."""
    assert term(prolonged(90.0, wanted=10.0)).trusted_until == 92.0
    assert term(shortening()).trusted_until == 14.0
    assert term(shortening()).kill_at == 13.0
    assert deadline(shortening(), POLICY) == 11.0


def test_the_keeper_hears_of_a_nearer_deadline_before_the_ledger_does() -> None:
    _, effects = go(prolonged(90.0, wanted=10.0), (4.0, Due()))
    assert effects == (SetDeadline(13.0), Renew(6, L))


def test_until_its_answer_comes_a_shortening_is_trusted_no_longer_than_the_lease_before_it() -> None:
    """That row may still be the one that others see."""
    situation, effects = go(prolonged(90.0, wanted=10.0), (3.0, LOST), (80.0, Attached(2)))
    assert effects == (SetDeadline(83.0), Renew(6, L))
    assert (term(situation).trusted_until, term(situation).kill_at) == (90.0, 83.0)


def test_once_it_is_acknowledged_a_shortening_is_all_that_counts() -> None:
    situation, _ = go(prolonged(90.0, wanted=10.0), (3.0, LOST), (80.0, Attached(2)))
    situation, effects = go(situation, (80.5, renewed(80.0)))
    assert effects == (SetDeadline(89.0),)
    assert (term(situation).trusted_until, term(situation).kill_at) == (90.0, 89.0)
    _, effects = go(situation, (82.0, Due()))
    assert effects == (Renew(6, L),), "the next renewal shortens nothing"


def test_a_shortening_that_nobody_answered_ends_the_term_when_it_says() -> None:
    situation, _ = go(shortening(), (5.0, LOST))
    assert deadline(situation, POLICY) == 11.0
    situation, effects = go(situation, (11.0, Due()))
    assert effects == (Signal(), SetDeadline(13.0))
    assert draining(situation).cause is Cause.FENCED
    assert go(situation, (13.0, Due()))[1] == (Kill(),)


def test_asking_again_does_not_prolong_what_an_unanswered_shortening_allows() -> None:
    """The first may be the last that was applied: only an acknowledgement says what the row holds."""
    situation, effects = go(shortening(), (5.0, LOST), (6.0, Attached(2)))
    assert effects == (Renew(6, L),)
    assert term(situation).trusted_until == 14.0
    situation, _ = go(situation, (6.1, Contended()), (6.2, Due()), (6.3, LOST), (7.0, Attached(3)))
    assert term(situation).trusted_until == 14.0
    situation, effects = go(situation, (7.1, renewed(7.0)))
    assert effects == (SetDeadline(16.0),)
    assert term(situation).trusted_until == 17.0


def test_a_reattachment_that_asks_for_a_still_shorter_lease_counts_from_its_sending() -> None:
    first = Term(6, Lengths(LONG, Lease(40.0), L), began=0.0, sent=0.0).asking(2.0)
    assert first.trusted_until == 42.0
    assert first.curtailed(L).asking(4.0).trusted_until == 14.0


def test_the_longest_lease_of_all_that_may_be_in_the_row_never_counts() -> None:
    """A lengthening that follows an unanswered shortening leaves its deadline where it is."""
    short = Term(6, Lengths(LONG, L, L), began=0.0, sent=0.0).asking(2.0)
    longer = replace(short, lengths=replace(short.lengths, wanted=Lease(100.0)))
    assert longer.asking(3.0).trusted_until == 12.0


def test_a_renewal_of_the_same_length_is_no_shortening() -> None:
    before = prolonged(90.0)
    situation, effects = go(before, (4.0, Due()))
    assert effects == (Renew(6, LONG),)
    assert term(situation) == term(before)


# ------------------------------------------------------------------------------------------- shortening while draining


def test_a_draining_term_is_shortened_like_any_other() -> None:
    situation, _ = go(prolonged(90.0, wanted=10.0, policy=SLOW), (3.0, StopOrdered()), policy=SLOW)
    assert deadline(situation, SLOW) == 4.0
    situation, effects = go(situation, (4.0, Due()), policy=SLOW)
    assert effects == (SetDeadline(13.0), Renew(6, L))
    assert deadline(situation, SLOW) == 13.0, "and no longer the 30 s that it may take to stop"
    situation, effects = go(situation, (4.5, renewed(4.0)), policy=SLOW)
    assert effects == (SetDeadline(13.0),)
    assert go(situation, (6.0, Due()), policy=SLOW)[1] == (Renew(6, L),)


def test_a_fence_that_has_begun_keeps_its_sigkill_through_a_shortening() -> None:
    fenced, _ = go(prolonged(90.0), (3.0, LOST), (65.0, Due()), policy=SLOW)
    asking = (66.0, Attached(2)), (66.1, renewed(66.0, 90.0, wanted=40.0)), (68.0, Due())
    situation, effects = go(fenced, *asking, policy=SLOW)
    assert term(situation).kill_at == 104.0
    assert effects == (SetDeadline(83.0), Renew(6, Lease(40.0)))


# ------------------------------------------------------------------------------- no lease as long as the one asked for


def test_a_lease_that_is_too_long_is_asked_for_again_at_once_as_the_ledgers_own() -> None:
    situation, effects = go(prolonged(10.0, wanted=90.0), (4.0, Due()), (4.1, LeaseRefused(L)))
    assert effects == ()
    assert deadline(situation, POLICY) == 4.1
    situation, effects = go(situation, (4.1, Due()))
    assert effects == (Renew(6, L),)
    assert term(situation).trusted_until == 12.0, "nothing was renewed yet"
    assert go(situation, (4.2, renewed(4.1)))[1] == (SetDeadline(13.1),)


def test_a_ledger_whose_lease_has_become_shorter_is_asked_for_that_one() -> None:
    """A failover may have lost what the term knows; asking for its own pace again would never end."""
    curtailed = (4.0, Due()), (4.5, LeaseRefused(Lease(5.0)))
    situation, effects = go(prolonged(10.0, wanted=90.0), *curtailed, (4.5, Due()))
    assert effects == (SetDeadline(9.0), Renew(6, Lease(5.0)))
    assert term(situation).lengths.pace == Lease(5.0)
    _, effects = go(stopping(), (4.5, LeaseRefused(Lease(5.0))), policy=SLOW)
    assert effects == (SetDeadline(9.0), Renew(6, Lease(5.0)))


def test_a_term_that_is_not_ours_is_killed_with_the_second_answer() -> None:
    curtailed = (4.0, Due()), (4.1, LeaseRefused(L)), (4.1, Due())
    situation, effects = go(prolonged(10.0, wanted=90.0), *curtailed, (4.2, Overruled()))
    assert Kill() in effects
    assert draining(situation).cause is Cause.OVERRULED


def test_a_term_that_must_fall_back_to_the_ledgers_lease_is_shortened_by_that() -> None:
    situation, _ = go(prolonged(90.0), (4.0, Due()), (4.5, LeaseRefused(L)))
    situation, effects = go(situation, (4.5, Due()))
    assert effects == (SetDeadline(13.5), Renew(6, L))
    assert term(situation).trusted_until == 14.5


def stopping() -> Situation:
    """Told to stop at 3, and asking since 4 to be trusted for 90 s."""
    asking = (3.0, StopOrdered()), (4.0, Due())
    return go(prolonged(10.0, wanted=90.0, policy=SLOW), *asking, policy=SLOW)[0]


def test_a_draining_term_asks_again_at_once_for_the_ledgers_own_lease() -> None:
    situation, effects = go(stopping(), (4.1, LeaseRefused(L)), policy=SLOW)
    assert effects == (Renew(6, L),)
    situation, effects = go(situation, (4.2, Overruled()), policy=SLOW)
    assert effects == (Kill(),)
    assert draining(situation).cause is Cause.OVERRULED


def test_a_draining_term_that_falls_back_tells_its_keeper_first() -> None:
    situation, _ = go(prolonged(90.0, policy=SLOW), (3.0, StopOrdered()), (4.0, Due()), policy=SLOW)
    assert go(situation, (4.5, LeaseRefused(L)), policy=SLOW)[1] == (SetDeadline(13.5), Renew(6, L))


def test_an_empty_tree_is_released_whatever_lease_was_refused() -> None:
    situation, _ = go(stopping(), (4.1, Emptied()), policy=SLOW)
    assert go(situation, (4.2, LeaseRefused(L)), policy=SLOW)[1] == (Release(6, Cause.STOPPED, None),)


def test_a_term_that_is_left_to_run_out_asks_for_no_lease_again() -> None:
    """Nobody confirmed its child: renewing would keep everybody else away."""
    situation, effects = go(spawning(), (2.0, Due()), (5.0, Due()), (5.1, LeaseRefused(L)))
    assert draining(situation).cause is Cause.SPAWN_FAILED
    assert effects == ()
    assert deadline(situation, POLICY) is None
