"""A term from its child's start to its release: renewals, spawns, exits, and that the release comes last."""

from __future__ import annotations

from typing import Literal

import pytest

from highlanderd.core.effects import Kill, Release, Renew, SetDeadline, Signal, Spawn
from highlanderd.core.events import (
    Attached,
    Contended,
    Due,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    Overruled,
    ReleaseOrdered,
    Renewed,
    RestartOrdered,
    SpawnFailed,
    Started,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.machine import deadline
from highlanderd.core.states import (
    Cause,
    Killing,
    Leading,
    Running,
    SessionState,
    Situation,
    Term,
    Waiting,
    Want,
)
from highlanderd.structs import replace
from tests.support.core import LOST, POLICY, L, draining, go, leading, renewed, spawning

SLOW = replace(POLICY, stop_timeout=30.0)


# ---------------------------------------------------------------------------------------------------------- renewals


def test_a_renewal_is_sent_every_fifth_of_a_lease() -> None:
    assert deadline(leading(), POLICY) == 2.0
    assert go(leading(), (2.0, Due()))[1] == (Renew(6, L),)


def test_an_acknowledged_renewal_counts_from_its_sending_and_the_keeper_is_told() -> None:
    situation, effects = go(leading(), (2.0, Due()), (2.9, renewed(2.0)))
    assert effects == (SetDeadline(11.0),)
    assert isinstance(situation.state, Leading)
    assert situation.state.term.trusted_until == 12.0
    assert deadline(situation, POLICY) == 4.0


def test_a_term_that_is_not_ours_any_more_is_killed_at_once() -> None:
    situation, effects = go(leading(), (2.0, Due()), (2.1, Overruled()))
    assert Kill() in effects
    assert draining(situation).cause is Cause.OVERRULED
    assert go(situation, (2.2, Emptied()))[1] == (Release(6, Cause.OVERRULED, None),)


def test_an_overruled_term_never_takes_the_lock_again() -> None:
    """It is another's: on a new session we would keep its leader from taking it back."""
    situation, _ = go(leading(), (2.0, Due()), (2.1, Overruled()))
    assert deadline(situation, POLICY) is None
    situation, effects = go(situation, (2.2, LOST), (2.3, Attached(2)))
    assert effects == ()
    assert deadline(situation, POLICY) is None


# ------------------------------------------------------------------------------------------------- spawns of a term


def test_a_start_that_is_not_confirmed_within_half_a_lease_ends_the_term() -> None:
    assert deadline(go(spawning(), (2.0, LOST))[0], POLICY) == 5.0
    situation, effects = go(spawning(), (2.0, LOST), (5.0, Due()))
    assert Kill() in effects
    assert (draining(situation).cause, situation.failures) == (Cause.SPAWN_FAILED, 1)


def test_a_start_that_nobody_confirms_lets_its_lease_run_out() -> None:
    """A guardian that is frozen proves nothing: renewing would keep everybody else away for as long."""
    situation, _ = go(spawning(), (2.0, LOST), (5.0, Due()))
    _, effects = go(situation, (5.1, Attached(2)))
    assert not any(isinstance(effect, Renew) for effect in effects)
    assert deadline(go(situation, (5.1, Attached(2)))[0], POLICY) is None


@pytest.mark.parametrize("length", [2.0, 3.7, 10.0, 60.0])
def test_on_the_grid_a_renewal_still_comes_after_a_good_part_of_its_interval(length: float) -> None:
    lease, policy = Lease(length), replace(POLICY, grid=0.02)
    for number in range(200):
        sent = 1000 + number * 0.0173
        term = Term(6, Lengths.alike(length), began=sent, sent=sent - lease.renew_every)
        situation = Situation(Want.RUN, Leading(term, Running(1, 0.0, 1e9), sent), SessionState.BUSY)
        answer = Renewed(sent, Lengths.alike(length))
        after, _ = go(situation, (sent + 0.001, answer), policy=policy)
        assert isinstance(after.state, Leading)
        assert sent + 0.17 * length < after.state.renew_at <= sent + 0.2 * length


def test_a_start_that_is_confirmed_after_its_term_has_ended_changes_nothing() -> None:
    situation, effects = go(spawning(), (2.0, LOST), (5.0, Due()), (5.1, Started(42, 5.1)))
    assert effects == ()
    assert isinstance(draining(situation).phase, Killing)


def test_a_term_spawns_once() -> None:
    """Whatever ends the child, the term ends with it."""
    for end in (SpawnFailed("no"), Emptied(), Exited(0, 2.0)):
        situation, effects = go(spawning(), (2.0, end))
        draining(situation)
        assert not any(isinstance(effect, Spawn) for effect in effects)


# ------------------------------------------------------------------------------------------------------------- exits


def test_what_an_ended_main_process_left_behind_is_stopped_before_the_release() -> None:
    situation, effects = go(leading(), (3.0, Exited(256, 3.0)))
    assert effects[0] == Signal()
    assert deadline(situation, POLICY) == 2.0, "renewals go on while the tree lives"
    situation, effects = go(leading(), (3.0, Exited(256, 3.0)), (3.1, Emptied()))
    assert effects == (Release(6, Cause.EXITED, None, status=256),)
    assert situation.reason == "exited with status 1"


@pytest.mark.parametrize(
    ("restart", "status", "cause"),
    [
        ("always", 0, Cause.EXITED),
        ("always", 256, Cause.EXITED),
        ("on-failure", 0, Cause.FINISHED),
        ("on-failure", 3 << 8, Cause.FINISHED),
        ("on-failure", 256, Cause.EXITED),
        ("on-failure", 9, Cause.EXITED),
        ("never", 0, Cause.FINISHED),
        ("never", 256, Cause.FINISHED),
        ("never", 9, Cause.FINISHED),
    ],
)
def test_the_restart_policy_says_what_an_exit_means(
    restart: Literal["always", "on-failure", "never"], status: int, cause: Cause
) -> None:
    policy = replace(POLICY, restart=restart, success_exit_codes=frozenset({0, 3}))
    situation, _ = go(leading(policy), (3.0, Exited(status, 3.0)), policy=policy)
    assert draining(situation).cause is cause


def test_a_finished_program_waits_and_does_not_back_off() -> None:
    policy = replace(POLICY, restart="never")
    end = ((3.0, Exited(0, 3.0)), (3.0, Emptied()), (3.0, Unlocked()))
    situation, _ = go(leading(policy), *end, policy=policy)
    assert isinstance(situation.state, Waiting)
    assert situation.failures == 0


def test_a_tree_that_ends_without_an_exit_was_its_keepers_death() -> None:
    situation, effects = go(leading(), (3.0, Emptied()))
    assert effects == (Release(6, Cause.KEEPER_LOST, None),)
    assert situation.failures == 1


# -------------------------------------------------------------------------------------------- the release is the last


@pytest.mark.parametrize(
    "order",
    [
        StopOrdered(),
        RestartOrdered(),
        ReleaseOrdered(None, 30.0),
        EndOrdered(Cause.SHUTDOWN),
        Exited(0, 2.0),
        Overruled(),
    ],
    ids=lambda order: type(order).__name__,
)
def test_nothing_is_released_before_the_tree_is_proven_empty(order: Event) -> None:
    situation, effects = go(leading(), (2.0, order))
    assert not any(isinstance(effect, Release) for effect in effects)
    _, effects = go(situation, (2.5, Emptied()))
    assert [type(effect) for effect in effects] == [Release]


def test_a_child_that_does_not_stop_is_killed_after_its_timeout() -> None:
    situation, effects = go(leading(), (2.0, StopOrdered()))
    assert effects == (Signal(), SetDeadline(9.0))
    prolonged = go(situation, (2.0, Due()), (2.1, renewed(2.0)))[0]
    assert deadline(prolonged, POLICY) == 4.0
    killed, effects = go(prolonged, (4.0, Due()))
    assert effects == (Kill(),)
    assert isinstance(draining(killed).phase, Killing)


def test_a_long_stop_is_renewed_until_it_is_over() -> None:
    situation, effects = go(leading(SLOW), (2.0, StopOrdered()), policy=SLOW)
    assert effects == (Signal(), SetDeadline(9.0))
    for now in (2.0, 4.0, 6.0, 8.0, 10.0, 12.0):
        situation, effects = go(situation, (now, Due()), policy=SLOW)
        assert effects == (Renew(6, L),)
        situation, effects = go(situation, (now, renewed(now)), policy=SLOW)
        assert effects == (SetDeadline(now + 9.0),)


def test_a_stop_without_renewals_ends_with_the_lease() -> None:
    situation, _ = go(leading(SLOW), (2.0, StopOrdered()), (2.0, LOST), policy=SLOW)
    assert deadline(situation, SLOW) == 9.0
    assert go(situation, (9.0, Due()), policy=SLOW)[1] == (Kill(),)


def test_a_release_waits_for_the_answer_under_way() -> None:
    situation, effects = go(leading(), (2.0, Due()), (2.1, Emptied()))
    assert effects == ()
    for answer in (renewed(2.0), Overruled(), Contended()):
        assert go(situation, (2.2, answer))[1] == (Release(6, Cause.KEEPER_LOST, None),)


def test_an_order_while_draining_reaches_the_keepers_memo() -> None:
    situation, _ = go(leading(), (2.0, RestartOrdered()))
    for order, want in ((StopOrdered(), Want.STOP), (EndOrdered(Cause.SHUTDOWN), Want.END)):
        after, effects = go(situation, (2.5, order))
        assert (after.want, effects) == (want, (SetDeadline(9.0),))
    empty, _ = go(situation, (2.2, Emptied()))
    assert go(empty, (2.5, StopOrdered()))[1] == (), "its keeper is gone"
