"""A child is wanted to be ready in time, and well from then on; otherwise its term ends."""

from __future__ import annotations

from math import inf

import pytest

from highlanderd.core.effects import Release, SetDeadline, Signal
from highlanderd.core.events import (
    Due,
    Emptied,
    Event,
    Exited,
    FoundReady,
    FoundUnhealthy,
    FoundUnready,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.machine import deadline, turns_at
from highlanderd.core.states import Backoff, Cause, Leading, Ready, Running, Situation
from highlanderd.structs import replace
from tests.support.core import LOST, POLICY, draining, go, leading, prolonged

POLICY = replace(POLICY, ready_timeout=3.0)
UNHEALTHY = FoundUnhealthy("no answer", 5.0)


def child(situation: Situation) -> object:
    assert isinstance(situation.state, Leading)
    return situation.state.child


def ready() -> Situation:
    return go(leading(POLICY), (1.5, FoundReady(1.5)), policy=POLICY)[0]


def test_a_child_that_was_executed_is_not_ready_until_it_was_found_so() -> None:
    assert child(leading(POLICY)) == Running(42, 1.0, ready_by=4.0)
    assert child(ready()) == Ready(42, since=1.0, at=1.5)


def test_that_it_is_ready_is_handed_to_its_keeper_at_once() -> None:
    _, effects = go(leading(POLICY), (1.5, FoundReady(1.5)), policy=POLICY)
    assert effects == (SetDeadline(9.0),)


def test_a_child_that_is_not_ready_in_time_ends_its_term_and_this_node_sits_out() -> None:
    unready = go(leading(POLICY), (1.5, FoundUnready("connection refused")), policy=POLICY)[0]
    assert deadline(go(unready, (2.0, LOST), policy=POLICY)[0], POLICY) == 4.0
    situation, effects = go(unready, (2.0, LOST), (4.0, Due()), policy=POLICY)
    assert draining(situation).cause is Cause.NOT_READY
    assert situation.reason == "not ready 3.0 s after its start: connection refused"
    assert situation.failures == 1
    assert effects[0] == Signal()


def test_it_is_known_when_time_alone_ends_the_term_of_a_child_that_is_not_ready() -> None:
    assert turns_at(leading(POLICY), None, 1.5, POLICY) == 4.0
    assert turns_at(leading(replace(POLICY, ready_timeout=inf)), None, 1.5, POLICY) is None
    assert turns_at(ready(), None, 1.5, POLICY) is None


def test_it_is_known_when_time_alone_ends_the_term_of_a_leader_that_has_lost_its_session() -> None:
    lost = go(ready(), (2.0, LOST), policy=POLICY)[0]
    assert turns_at(lost, None, 2.0, POLICY) == deadline(lost, POLICY) == 7.0
    waits = go(leading(POLICY), (2.0, LOST), policy=POLICY)[0]
    assert turns_at(waits, None, 2.0, POLICY) == 4.0, "the child has to be ready before that"


@pytest.mark.parametrize(("until", "due"), [(3.0, 4.0), (6.0, 6.0)])
def test_a_child_may_ask_for_more_time_and_never_gets_less(until: float, due: float) -> None:
    situation = go(leading(POLICY), (1.5, LOST), (2.0, FoundUnready("", until)), policy=POLICY)[0]
    assert deadline(situation, POLICY) == due


def test_a_lease_that_ends_before_is_not_waited_for() -> None:
    patient = replace(POLICY, ready_timeout=1000.0)
    situation, _ = go(leading(patient), (1.5, LOST), (7.0, Due()), policy=patient)
    assert draining(situation).cause is Cause.FENCED


def test_a_child_that_is_ready_has_no_such_deadline_any_more() -> None:
    assert deadline(go(ready(), (2.0, LOST), policy=POLICY)[0], POLICY) == 7.0


def test_a_child_that_was_ready_and_is_unhealthy_ends_its_term() -> None:
    situation, effects = go(ready(), (5.0, UNHEALTHY), policy=POLICY)
    assert draining(situation).cause is Cause.UNHEALTHY
    assert (situation.reason, situation.failures) == ("no answer", 1)
    assert effects[0] == Signal()
    assert not any(isinstance(effect, Release) for effect in effects)


def test_a_child_that_had_been_well_for_long_begins_a_new_row_of_failures() -> None:
    before = replace(ready(), failures=7)
    late = go(before, (70.0, FoundUnhealthy("no answer", 70.0)), policy=POLICY)[0]
    early = go(before, (5.0, UNHEALTHY), policy=POLICY)[0]
    assert (late.failures, early.failures) == (1, 8)


def test_a_child_that_never_gets_ready_goes_on_with_its_row_however_long_it_has_run() -> None:
    slow = replace(POLICY, ready_timeout=500.0)
    situation = replace(prolonged(1000.0, policy=slow), failures=3)
    situation = go(situation, (501.0, LOST), (501.0, Due()), policy=slow)[0]
    assert draining(situation).cause is Cause.NOT_READY
    assert situation.failures == 4


@pytest.mark.parametrize("end", [UNHEALTHY, Due()], ids=["unhealthy", "not ready"])
def test_afterwards_this_node_is_in_backoff(end: Event) -> None:
    begun = ready() if end is UNHEALTHY else leading(POLICY)
    situation = go(begun, (2.0, LOST), (5.0, end), policy=POLICY)[0]
    ended = (6.0, Exited(0, 6.0)), (6.0, Emptied()), (6.1, Unlocked())
    assert isinstance(go(situation, *ended, policy=POLICY)[0].state, Backoff)


@pytest.mark.parametrize("finding", [FoundReady(2.0), FoundUnready("late"), UNHEALTHY])
def test_what_is_found_of_a_child_that_is_being_stopped_changes_nothing(finding: Event) -> None:
    stopping = go(ready(), (2.0, StopOrdered()), policy=POLICY)[0]
    assert go(stopping, (2.5, finding), policy=POLICY) == (stopping, ())


@pytest.mark.parametrize("finding", [FoundReady(2.0), FoundUnready("late")])
def test_a_child_that_is_ready_stays_so_for_those_who_ask_late(finding: Event) -> None:
    assert go(ready(), (2.5, finding), policy=POLICY) == (ready(), ())


def test_a_child_that_was_never_ready_cannot_be_unhealthy() -> None:
    assert go(leading(POLICY), (5.0, UNHEALTHY), policy=POLICY) == (leading(POLICY), ())
