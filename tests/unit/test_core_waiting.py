"""Waiting, backoff and stopped: when a node looks, when it takes over, and when it keeps out."""

from __future__ import annotations

from typing import Literal

import pytest

from highlanderd.core.effects import Disconnect, Look, Release, Spawn, TakeOver, WriteSettled
from highlanderd.core.events import (
    Attached,
    Detached,
    Due,
    Emptied,
    EndOrdered,
    Exited,
    Granted,
    LookAdvised,
    Looked,
    Notified,
    Refused,
    ReleaseOrdered,
    RestartOrdered,
    Settled,
    SpawnFailed,
    StartOrdered,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.machine import begin, deadline, finished
from highlanderd.core.observation import Glimpse, Observation
from highlanderd.core.states import Backoff, Cause, Draining, Leading, Policy, Reservation, Situation, Stopped, Want
from highlanderd.core.transitions.context import LEFT_ALONE
from highlanderd.core.transitions.draining import backoff_delay
from highlanderd.core.verdict import Settle
from highlanderd.structs import replace
from tests.support.core import LENGTHS, POLICY, SERVER, L, go, leading, observation, row, spawning, waiting

FREE = observation(row(released=True))
TAKEN = observation(row())


def looked(seen: Observation, at: float = 0.0) -> tuple[float, Looked]:
    """An answer to a look, heard on arrival."""
    return at, Looked(seen, at, keeperless=True)


# ------------------------------------------------------------------------------------------------------------- looks


def test_a_new_session_begins_with_a_look() -> None:
    assert go(begin(Want.RUN, 0.0), (0.0, Attached(1)))[1] == (Look(),)


def test_without_a_session_time_alone_changes_nothing() -> None:
    assert deadline(begin(Want.RUN, 0.0), POLICY) is None


def test_a_free_row_is_claimed_with_the_version_that_was_judged() -> None:
    _, [effect] = go(waiting(), looked(FREE))
    assert isinstance(effect, TakeOver)
    assert effect.claim.judged == FREE.row
    assert effect.claim.server == SERVER


@pytest.mark.parametrize(("spread", "at"), [(0.0, 1.8), (0.5, 2.0), (1.0, 2.2)])
def test_looks_come_every_fifth_of_a_lease_spread_by_a_tenth(spread: float, at: float) -> None:
    policy = replace(POLICY, jitter=spread)
    assert deadline(go(waiting(), looked(TAKEN), policy=policy)[0], policy) == pytest.approx(at)


def test_a_look_comes_exactly_when_the_verdict_is_due_to_turn() -> None:
    situation, _ = go(waiting(), looked(TAKEN), (9.0, Due()), looked(TAKEN, 9.0))
    assert deadline(situation, POLICY) == L.wait
    _, [effect] = go(situation, (L.wait, Due()), looked(TAKEN, L.wait))
    assert isinstance(effect, TakeOver)


def test_a_notification_is_followed_by_a_look_at_once() -> None:
    assert go(waiting(), looked(TAKEN), (0.5, Notified()))[1] == (Look(),)


def test_a_notification_while_a_look_is_under_way_makes_its_answer_stale() -> None:
    situation, effects = go(waiting(), (0.0, Notified()), looked(TAKEN))
    assert effects == (Look(),)
    assert go(situation, looked(TAKEN))[1] == ()


def test_a_program_that_surveys_watch_looks_seldom_and_when_it_is_advised_to() -> None:
    situation, effects = go(waiting(), (0.0, replace(looked(TAKEN)[1], watched=True)))
    assert effects == ()
    assert deadline(situation, POLICY) == pytest.approx(100.0)
    assert go(situation, (6.0, LookAdvised()))[1] == (Look(),)


def test_silence_is_counted_from_the_survey_that_showed_the_version_first() -> None:
    situation, _ = go(waiting(), looked(TAKEN), (6.0, LookAdvised()))
    renewed, glimpse = observation(row(renewal=12)), Glimpse(SERVER, (5, 12), 1.0)
    _, [effect] = go(situation, (11.5, Looked(renewed, 11.5, keeperless=True, glimpse=glimpse)))
    assert isinstance(effect, TakeOver)
    assert effect.claim.judged == renewed.row
    assert go(situation, (11.4, Looked(renewed, 11.4, keeperless=True, glimpse=glimpse)))[1] == ()


def test_a_lease_that_was_waited_out_is_written_down_and_looked_at_again() -> None:
    unsettled = observation(None, settled=False)
    situation, _ = go(waiting(), looked(unsettled), (L.wait, Due()))
    situation, effects = go(situation, looked(unsettled, L.wait))
    assert effects == (WriteSettled(Settle(SERVER.system, SERVER.timeline, SERVER.place)),)
    assert go(situation, (L.wait, Settled()))[1] == (Look(),)


def test_an_old_primary_is_dropped() -> None:
    newer = observation(row(released=True), server=replace(SERVER, timeline=4))
    situation, _ = go(waiting(), looked(observation(None, server=newer.server, settled=False)))
    situation, [effect] = go(situation, (2.0, Due()), looked(FREE, 2.0))
    assert isinstance(effect, Disconnect)
    assert "old primary" in situation.reason


def test_a_lost_session_says_why_nothing_happens() -> None:
    situation, effects = go(waiting(), (1.0, Detached("the server is away")))
    assert (situation.reason, effects) == ("the server is away", ())


# ------------------------------------------------------------------------------------------------------- taking over


def asked() -> Situation:
    """A takeover is under way."""
    return go(waiting(), looked(FREE))[0]


def test_a_term_begins_with_its_one_spawn_in_time() -> None:
    situation, effects = go(asked(), (1.0, Granted(6, LENGTHS, 0.0)))
    assert effects == (Spawn(6, not_after=5.0, deadline=9.0),)
    assert isinstance(situation.state, Leading)


def test_a_grant_that_comes_too_late_is_given_back_without_a_child() -> None:
    situation, effects = go(asked(), (5.0, Granted(6, LENGTHS, 0.0)))
    assert effects == (Release(6, Cause.SPAWN_FAILED, None),)
    assert isinstance(situation.state, Draining)


def test_who_was_slower_looks_at_once_and_who_met_a_lock_a_little_later() -> None:
    assert go(asked(), (1.0, Refused(0.0, "")))[1] == (Look(),)
    situation, effects = go(asked(), (1.0, Refused(0.2, "held")))
    assert (effects, deadline(situation, POLICY), situation.reason) == ((), 1.2, "held")


def test_a_stop_during_acquisition_never_starts_the_child() -> None:
    situation, effects = go(asked(), (0.5, StopOrdered()), (1.0, Granted(6, LENGTHS, 0.0)))
    assert effects == (Release(6, Cause.UNWANTED, None),)
    assert go(situation, (1.1, Unlocked()))[0].state == Stopped()


def test_an_end_during_acquisition_ends_once_the_term_is_given_back() -> None:
    end = EndOrdered(Cause.SHUTDOWN)
    situation, _ = go(asked(), (0.5, end))
    assert not finished(situation)
    situation, effects = go(situation, (1.0, Granted(6, LENGTHS, 0.0)))
    assert effects == (Release(6, Cause.UNWANTED, None),)
    assert finished(go(situation, (1.1, Unlocked()))[0])


def test_who_stops_and_starts_again_during_acquisition_gets_his_child() -> None:
    situation, effects = go(asked(), (0.5, StopOrdered()), (0.6, StartOrdered()))
    assert effects == ()
    assert go(situation, (1.0, Granted(6, LENGTHS, 0.0)))[1] == (Spawn(6, 5.0, 9.0),)


# ------------------------------------------------------------------------------------------------------ keeping out


def released_by_us(stay_out: float = 30.0) -> Situation:
    """Released at 2 by an operator's order, for another node to take."""
    order = ReleaseOrdered(None, stay_out)
    return go(leading(), (2.0, order), (2.0, Emptied()), (2.0, Unlocked()))[0]


def ours(epoch: int = 6, **facts: object) -> Observation:
    """The row after our term."""
    return observation(row(epoch=epoch, node="here", instance="ours", released=True, **facts))


def test_who_released_stays_out_until_the_time_is_over() -> None:
    situation, effects = go(released_by_us(), looked(ours(), 2.0))
    assert effects == ()
    assert "leaves it to another node" in situation.reason
    assert go(situation, (31.9, Due()), looked(ours(), 31.9))[1] == ()
    [effect] = go(situation, (32.0, Due()), looked(ours(), 32.0))[1]
    assert isinstance(effect, TakeOver)


def test_who_released_takes_part_again_once_another_has_led() -> None:
    situation, _ = go(released_by_us(), looked(observation(row(epoch=7)), 3.0), (4.0, Due()))
    [effect] = go(situation, looked(observation(row(epoch=7, renewal=10, released=True)), 4.0))[1]
    assert isinstance(effect, TakeOver)


def test_a_start_ends_the_staying_out() -> None:
    situation, _ = go(released_by_us(), looked(ours(), 2.0))
    situation, effects = go(situation, (3.0, StartOrdered()))
    assert effects == (Look(),)
    assert isinstance(go(situation, looked(ours(), 3.0))[1][0], TakeOver)


def test_a_release_to_a_node_reserves_the_row_for_it() -> None:
    situation, _ = go(leading(), (2.0, ReleaseOrdered("there", 30.0)))
    assert go(situation, (2.0, Emptied()))[1] == (Release(6, Cause.RELEASED, Reservation("there", 30.0)),)


def test_what_was_released_here_is_looked_at_once_another_node_has_had_a_moment_for_its_takeover() -> None:
    order = (3.0, ReleaseOrdered(None, 30.0))
    situation, effects = go(leading(), order, (3.5, Exited(0, 3.5)), (3.5, Emptied()), (4.0, Unlocked()))
    assert (effects, deadline(situation, POLICY)) == ((), 4.0 + LEFT_ALONE)
    situation, effects = go(situation, (4.01, Notified()))
    assert (effects, deadline(situation, POLICY)) == ((), 4.0 + LEFT_ALONE)
    assert go(situation, (4.0 + LEFT_ALONE, Due()))[1] == (Look(),)


def test_a_hint_about_what_was_released_here_brings_the_next_look_forward() -> None:
    situation, _ = go(released_by_us(), (2.1, Due()), looked(ours(), 2.1))
    situation, effects = go(situation, (3.0, Notified()))
    assert (effects, deadline(situation, POLICY)) == ((), 3.0 + LEFT_ALONE)


def test_a_restart_reserves_the_row_for_this_node_and_does_not_stay_out() -> None:
    situation, _ = go(leading(), (2.0, RestartOrdered()))
    situation, [release] = go(situation, (2.0, Emptied()))
    assert release == Release(6, Cause.RESTARTED, Reservation("here", 5.0))
    assert go(situation, (2.0, Unlocked()))[1] == (Look(),)


@pytest.mark.parametrize(
    ("restart", "said"),
    [
        ("never", "finished on there, and the history says how; `start` runs it again"),
        ("on-failure", "finished on there; `start` runs it again"),
    ],
)
def test_a_program_that_has_finished_is_started_nowhere_again(
    restart: Literal["never", "on-failure"], said: str
) -> None:
    policy = replace(POLICY, restart=restart)
    done = observation(row(released=True, reason="finished"))
    situation, effects = go(waiting(), looked(done), policy=policy)
    assert effects == ()
    assert situation.reason == said
    assert go(situation, (1.0, StartOrdered()), policy=policy)[1] == (Look(),)


def test_a_start_runs_a_finished_program_once_more() -> None:
    policy = replace(POLICY, restart="never")
    done = observation(row(released=True, reason="finished"))
    situation, _ = go(waiting(), looked(done), (1.0, StartOrdered()), policy=policy)
    situation, [effect] = go(situation, looked(done, 1.0), policy=policy)
    assert isinstance(effect, TakeOver)
    again = observation(row(epoch=7, released=True, reason="finished"))
    assert go(situation, looked(again, 1.0), policy=policy)[1] == ()


def test_a_start_does_not_override_what_finishes_later() -> None:
    policy = replace(POLICY, restart="never")
    led, done = observation(row()), observation(row(released=True, reason="finished"))
    situation, _ = go(waiting(), (1.0, StartOrdered()), looked(led, 1.0), policy=policy)
    assert go(situation, looked(done, 2.0), policy=policy)[1] == ()


def test_a_finished_program_runs_again_after_stop_and_start() -> None:
    policy = replace(POLICY, restart="never")
    done = observation(row(released=True, reason="finished"))
    orders = (1.0, StopOrdered()), (1.0, StartOrdered())
    situation, _ = go(waiting(), looked(done), *orders, policy=policy)
    [effect] = go(situation, looked(done, 1.0), policy=policy)[1]
    assert isinstance(effect, TakeOver)


def test_always_means_always() -> None:
    [effect] = go(waiting(), looked(observation(row(released=True, reason="finished"))))[1]
    assert isinstance(effect, TakeOver)


# ---------------------------------------------------------------------------------------------------------- backoff


def test_backoff_doubles_up_to_its_bound() -> None:
    policy = replace(POLICY, backoff=1.0, backoff_max=60.0)
    delays = [backoff_delay(failures, policy) for failures in range(1, 9)]
    assert delays == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert backoff_delay(100_000, policy) == pytest.approx(60)


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 0.9), (0.999, 1.1)])
def test_backoff_is_spread_by_a_tenth_either_way(spread: float, factor: float) -> None:
    policy = replace(POLICY, backoff=10.0, jitter=spread)
    assert backoff_delay(1, policy) == pytest.approx(10 * factor, rel=1e-3)


def crashed(situation: Situation, at: float, policy: Policy = POLICY) -> Situation:
    """The child dies with status 1 and the term is released, all at one moment."""
    return go(situation, (at, Exited(256, at)), (at, Emptied()), (at, Unlocked()), policy=policy)[0]


def test_after_a_crash_the_lock_is_released_and_this_node_sits_out() -> None:
    situation = crashed(leading(), 3.0)
    assert isinstance(situation.state, Backoff)
    assert situation.state.until == pytest.approx(4.0)
    assert situation.failures == 1
    assert go(situation, (4.0, Due()))[1] == (Look(),)


def test_a_child_that_ran_long_enough_wipes_the_slate_clean() -> None:
    before = replace(leading(), failures=5)
    assert crashed(before, 60.9).failures == 6
    assert crashed(before, 61.0).failures == 1


@pytest.mark.parametrize(("code", "failures"), [(0, 0), (3, 0), (4, 6)])
def test_a_clean_exit_is_no_failure_and_its_pause_never_grows(code: int, failures: int) -> None:
    policy = replace(POLICY, success_exit_codes=frozenset({0, 3}))
    situation, _ = go(replace(leading(), failures=5), (3.0, Exited(code << 8, 3.0)), policy=policy)
    assert situation.failures == failures
    situation, _ = go(situation, (3.0, Emptied()), (3.0, Unlocked()), policy=policy)
    assert isinstance(situation.state, Backoff)
    assert situation.state.until == pytest.approx(3.0 + (policy.backoff if failures == 0 else 32 * policy.backoff))


def test_a_failed_start_is_a_failure_too() -> None:
    situation, effects = go(spawning(), (2.0, SpawnFailed("no such file")))
    assert effects == (Release(6, Cause.SPAWN_FAILED, None),)
    assert (situation.failures, situation.reason) == (1, "no such file")
    assert isinstance(go(situation, (2.0, Unlocked()))[0].state, Backoff)


def test_a_start_ends_the_backoff() -> None:
    assert go(crashed(leading(), 3.0), (3.5, StartOrdered()))[1] == (Look(),)


def test_a_stop_ends_the_backoff_the_other_way() -> None:
    situation, _ = go(crashed(leading(), 3.0), (3.5, StopOrdered()))
    assert situation.state == Stopped()
    assert deadline(situation, POLICY) is None


def test_the_end_of_a_backing_off_program_is_immediate() -> None:
    assert finished(go(crashed(leading(), 3.0), (3.5, EndOrdered(Cause.REMOVED)))[0])


def test_a_program_that_leaves_cannot_be_called_back() -> None:
    situation, _ = go(waiting(), (1.0, EndOrdered(Cause.REMOVED)), (1.1, StartOrdered()))
    assert situation.want is Want.END
    assert situation.state == Stopped()


def test_a_start_breaks_a_reservation_for_another_node_and_no_later_one() -> None:
    reserved = row(released=True, reserved_for="there", reserved_seconds=30.0)
    situation, effects = go(waiting(), (1.0, Looked(observation(reserved), 1.0, keeperless=True)))
    assert situation.reason == "reserved for there"

    situation, effects = go(
        situation, (2.0, StartOrdered()), (2.1, Looked(observation(reserved), 2.1, keeperless=True))
    )
    assert isinstance(effects[-1], TakeOver)

    later = row(epoch=6, released=True, reserved_for="there", reserved_seconds=30.0)
    situation, _ = go(situation, (3.0, Refused(0.0, "faster")), (3.1, Looked(observation(later), 3.1, keeperless=True)))
    assert situation.reason == "reserved for there"


def test_a_changed_program_keeps_its_node_and_a_removed_one_does_not() -> None:
    drained, _ = go(leading(), (2.0, EndOrdered(Cause.CHANGED)))
    assert isinstance(drained.state, Draining)
    assert drained.state.reservation is not None
    assert (drained.state.reservation.node, drained.state.cause) == ("here", Cause.CHANGED)

    removed, _ = go(drained, (2.1, EndOrdered(Cause.REMOVED)))
    assert isinstance(removed.state, Draining)
    assert removed.state.reservation is None
