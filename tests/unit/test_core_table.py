"""The table is the document: complete, with nothing in it that nobody can name, and loud about what cannot happen."""

from __future__ import annotations

from typing import get_args

import pytest

from highlanderd.core.effects import Renew
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Due,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    FoundReady,
    FoundUnhealthy,
    FoundUnready,
    Granted,
    HookFinished,
    HookStarted,
    LeaseRefused,
    Looked,
    Notified,
    Overruled,
    Refused,
    ReleaseOrdered,
    RestartOrdered,
    Settled,
    SpawnFailed,
    Started,
    StartOrdered,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.machine import TABLE, ImpossibleEvent, begin, step
from highlanderd.core.states import (
    Draining,
    Leading,
    SessionState,
    Situation,
    Spawning,
    State,
    Stopped,
    Term,
    Waiting,
    Want,
)
from highlanderd.core.transitions.context import bug, stay
from tests.support.core import LENGTHS, POLICY, L, leading, observation, renewed, row, spawning, waiting

STATES: tuple[type[State], ...] = get_args(State)
EVENTS: tuple[type[Event], ...] = get_args(Event)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.lower())
def test_every_state_has_one_cell_for_every_event(state: type[State]) -> None:
    assert list(TABLE[state]) == list(EVENTS)


def test_the_table_has_no_other_states() -> None:
    assert list(TABLE) == list(STATES)


def test_children_are_heard_of_only_while_leading_or_draining() -> None:
    found = (FoundReady, FoundUnready, FoundUnhealthy)
    for event in (Started, HookStarted, HookFinished, *found, SpawnFailed, Exited, Emptied):
        assert {state for state in STATES if TABLE[state][event] is not bug} == {Leading, Draining}


def test_operators_and_lost_sessions_are_never_a_bug() -> None:
    orders = (StartOrdered, StopOrdered, RestartOrdered, ReleaseOrdered, EndOrdered)
    for event in (*orders, Attached, Detached, Notified):
        assert all(TABLE[state][event] is not bug for state in STATES)


def test_a_term_begins_where_a_takeover_was_asked_for_and_nowhere_else() -> None:
    assert {state for state in STATES if TABLE[state][Granted] is not bug} == {Waiting, Stopped}


@pytest.mark.parametrize("event", [Started(1, 0.0), Emptied(), Unlocked(), renewed(0.0), LeaseRefused(L)])
def test_what_cannot_happen_raises_and_says_what_met_what(event: Event) -> None:
    with pytest.raises(ImpossibleEvent, match=f"{type(event).__name__} while waiting"):
        step(waiting(), event, 0.0, POLICY)


@pytest.mark.parametrize("order", [Notified(), StopOrdered()], ids=["leading", "stopped meanwhile"])
def test_an_epoch_that_was_granted_is_remembered_like_one_that_was_seen(order: Event) -> None:
    """The ledger may be put back to before it, and must not begin it a second time."""
    taking, _ = step(waiting(), Looked(observation(row(released=True)), 0.0, keeperless=True), 0.0, POLICY)
    taking, _ = step(taking, order, 0.5, POLICY)
    for epoch, highest in ((9 << 32 | 3, 9 << 32 | 3), (2, 5)):
        assert step(taking, Granted(epoch, LENGTHS, 0.0), 1.0, POLICY)[0].knowledge.epoch == highest


def test_only_a_term_hears_that_no_lease_is_as_long_as_it_wants() -> None:
    assert {state for state in STATES if TABLE[state][LeaseRefused] not in (bug, stay)} == {Leading, Draining}


def test_a_tree_that_is_emptied_twice_raises() -> None:
    gone, _ = step(leading(), Emptied(), 2.0, POLICY)
    with pytest.raises(ImpossibleEvent, match="emptied twice"):
        step(gone, Emptied(), 2.0, POLICY)


@pytest.mark.parametrize(
    "event",
    [
        Looked(observation(row()), 1.0, keeperless=True),
        Settled(),
        Refused(0.2, ""),
        renewed(0.0),
        LeaseRefused(L),
        Overruled(),
        Contended(),
        Unlocked(),
        Notified(),
        Detached("lost"),
        Attached(2),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_stopped_program_shrugs_off_answers_to_what_was_asked_before(event: Event) -> None:
    stopped, _ = step(waiting(), StopOrdered(), 1.0, POLICY)
    after, effects = step(stopped, event, 2.0, POLICY)
    assert isinstance(after.state, Stopped)
    assert effects == ()


def test_there_is_never_a_second_question_under_way() -> None:
    """Whoever emits a request is asking from then on, until an answer or a loss."""
    for situation in (waiting(), spawning(), leading()):
        assert (situation.session is SessionState.BUSY) is isinstance(situation.state, Waiting)
    renewing, effects = step(leading(), Due(), 2.0, POLICY)
    assert effects == (Renew(leading_epoch(renewing), L),)
    assert renewing.session is SessionState.BUSY
    assert step(renewing, Notified(), 2.0, POLICY)[1] == ()
    assert step(renewing, renewed(2.0), 2.1, POLICY)[0].session is SessionState.IDLE
    assert step(renewing, Detached("lost"), 2.1, POLICY)[0].session is SessionState.DISCONNECTED


def leading_epoch(situation: Situation) -> int:
    assert isinstance(situation.state, Leading)
    return situation.state.term.epoch


def test_a_program_that_is_not_wanted_begins_stopped() -> None:
    assert begin(Want.STOP, 5.0).state == Stopped()
    assert begin(Want.RUN, 5.0).state == Waiting(look_at=5.0)


def test_the_lease_of_the_ledger_rules_the_term() -> None:
    assert spawning().state == Leading(Term(6, LENGTHS, 1.0, 0.0), Spawning(5.0), 2.0)
