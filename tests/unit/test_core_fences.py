"""A term that loses its session, is fenced, or ends with the daemon: what is done in time, and what is never done."""

from __future__ import annotations

import pytest

from highlanderd.core.effects import Kill, Look, Release, Renew, SetDeadline, Signal
from highlanderd.core.events import (
    Attached,
    Contended,
    Due,
    Emptied,
    EndOrdered,
    Exited,
    Notified,
    RestartOrdered,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.machine import deadline, finished
from highlanderd.core.states import (
    Author,
    Cause,
    Killing,
    Leading,
    Policy,
    Situation,
    Stopped,
)
from highlanderd.structs import replace
from tests.support.core import LOST, POLICY, L, draining, go, leading, renewed

# ----------------------------------------------------------------------------------------- when the connection breaks


def test_an_outage_of_four_tenths_of_a_lease_costs_nothing() -> None:
    situation, effects = go(leading(), (2.0, Due()), (2.9, LOST))
    assert effects == ()
    assert deadline(situation, POLICY) == 7.0
    situation, effects = go(situation, (6.9, Attached(2)))
    assert effects == (Renew(6, L),)
    situation, effects = go(situation, (6.95, renewed(6.9)))
    assert isinstance(situation.state, Leading)
    assert effects == (SetDeadline(15.9),)


def test_with_stop_on_connection_loss_the_child_is_stopped_at_once() -> None:
    policy = replace(POLICY, on_connection_loss="stop")
    situation, effects = go(leading(policy), (2.9, LOST), policy=policy)
    assert effects == (Signal(), SetDeadline(9.0))
    assert draining(situation).cause is Cause.DISCONNECTED


def test_a_lock_that_our_old_session_still_holds_is_tried_again_soon() -> None:
    situation, effects = go(leading(), (2.9, LOST), (3.0, Attached(2)), (3.1, Contended()))
    assert effects == ()
    assert deadline(situation, POLICY) == pytest.approx(3.2)
    assert go(situation, (3.2, Due()))[1] == (Renew(6, L),)


def fenced(policy: Policy = POLICY) -> Situation:
    """Detached since 2, and its fence has begun at 7."""
    return go(leading(policy), (2.0, LOST), (7.0, Due()), policy=policy)[0]


def test_the_fence_begins_when_the_lease_says_so() -> None:
    situation, effects = go(leading(), (2.0, LOST), (7.0, Due()))
    assert effects == (Signal(), SetDeadline(9.0))
    assert draining(situation).cause is Cause.FENCED
    assert go(situation, (9.0, Due()))[1] == (Kill(),)


def test_the_reason_of_a_fence_says_when_trust_began_and_how_long_it_lasts() -> None:
    situation, _ = go(leading(), (2.0, Due()), (2.1, renewed(2.0)), (3.0, LOST), (9.0, Due()))
    said = "fenced: the lease could not be renewed in time; last acknowledged 7.0 s ago, of a lease of 10 s"
    assert situation.reason == said


def test_a_deadline_slept_through_kills_without_a_signal() -> None:
    situation, effects = go(leading(), (2.0, LOST), (9.0, Due()))
    assert effects[0] == Kill()
    assert isinstance(draining(situation).phase, Killing)


def test_a_reattachment_does_not_call_a_fence_back() -> None:
    situation, effects = go(fenced(), (7.5, Attached(2)))
    assert effects == (Renew(6, L),)
    situation, effects = go(situation, (7.6, renewed(7.5)))
    assert draining(situation).term.trusted_until == 17.5
    assert effects == (SetDeadline(9.0),), "SIGKILL stays where it was"
    assert deadline(situation, POLICY) == 9.0
    assert go(situation, (9.0, Due()))[1] == (Kill(),)


def test_a_fence_ends_in_full_order() -> None:
    end = ((8.0, Exited(15, 8.0)), (8.1, Emptied()), (8.2, Attached(2)))
    situation, effects = go(fenced(), *end)
    assert effects == (Release(6, Cause.FENCED, None, status=15),)
    assert go(situation, (8.3, Unlocked()))[1] == (Look(),)


@pytest.mark.parametrize("now", [10.0, 50.0])
def test_nothing_is_renewed_once_trust_has_run_out(now: float) -> None:
    killed, _ = go(fenced(), (9.0, Due()))
    situation, effects = go(killed, (now, Attached(2)))
    assert effects == ()
    assert deadline(situation, POLICY) is None


def test_a_term_whose_child_has_ended_is_released_on_each_new_session_and_never_renewed() -> None:
    situation, effects = go(leading(), (2.0, LOST), (2.1, Exited(0, 2.1)), (2.2, Emptied()))
    assert effects == ()
    for number in (2, 3, 4):
        situation, effects = go(situation, (2.0 + number, Attached(number)))
        assert effects == (Release(6, Cause.EXITED, None, status=0),)
        situation, effects = go(situation, (2.5 + number, LOST))
        assert effects == ()


# --------------------------------------------------------------------------------------------------------- the end


END = EndOrdered(Cause.SHUTDOWN)


def test_an_end_with_postgresql_away_gives_up_after_half_a_lease() -> None:
    situation, _ = go(leading(), (2.0, LOST), (3.0, END), (3.5, Emptied()))
    assert deadline(situation, POLICY) == 8.5
    situation, _ = go(situation, (8.5, Due()))
    assert finished(situation)
    assert "without its release acknowledged" in situation.reason


def test_an_end_during_an_unanswered_release_gives_up_half_a_lease_later() -> None:
    situation, _ = go(leading(), (2.0, LOST), (2.5, StopOrdered()), (2.6, Emptied()))
    assert deadline(situation, POLICY) is None, "a stop waits for its release as long as it takes"
    assert deadline(go(situation, (30.0, END))[0], POLICY) == 30.0 + L.length / 2


def test_an_end_does_not_give_up_a_living_child() -> None:
    situation, _ = go(leading(), (2.0, LOST), (3.0, END), (5.0, Due()), (500.0, Notified()))
    assert isinstance(draining(situation).phase, Killing)
    assert deadline(situation, POLICY) is None
    assert not finished(situation)


def test_an_end_in_good_order_is_finished_with_the_answer() -> None:
    situation, _ = go(leading(), (3.0, END), (3.5, Emptied()))
    assert not finished(situation)
    assert finished(go(situation, (3.6, Unlocked()))[0])


def test_a_program_that_gave_up_is_finished_once_its_question_is_over() -> None:
    situation, _ = go(leading(), (3.0, END), (3.5, Emptied()), (8.5, Due()))
    assert not finished(situation), "its release is still under way"
    assert finished(go(situation, (9.0, LOST))[0])


def test_the_release_tells_how_the_child_ended_and_who_ordered_it() -> None:
    by = Author("uid 1000 (ann) on node b", "disk full")
    end = ((3.2, Exited(15, 3.2)), (3.3, Emptied()))
    for order, cause in ((StopOrdered(by), Cause.STOPPED), (RestartOrdered(by), Cause.RESTARTED)):
        situation, effects = go(leading(), (3.0, order), *end)
        [release] = effects
        assert isinstance(release, Release)
        assert (release.cause, release.status, release.by) == (cause, 15, by)
        assert situation.reason.endswith(" by uid 1000 (ann) on node b: disk full")


def test_a_stop_that_is_ordered_while_a_fence_ends_the_term_says_by_whom_afterwards() -> None:
    by = Author("uid 0 on node a", "disk full")
    situation, _ = go(leading(), (7.5, Due()), (7.6, StopOrdered(by)), (7.7, Emptied()), (7.8, Unlocked()))
    assert isinstance(situation.state, Stopped)
    assert situation.reason == "stopped by uid 0 on node a: disk full"
