"""The table is the document: complete, with nothing in it that nobody can name, and loud about what cannot happen."""

from __future__ import annotations

from typing import get_args

import pytest
from fix_core import LENGTHS, POLICY, L, leading, renewed, row, sight, spawning, waiting

from highlanderd.core import words as w
from highlanderd.core.cells.moment import bug, stay
from highlanderd.core.machine import TABLE, ImpossibleEvent, begin, step

STATES: tuple[type[w.State], ...] = get_args(w.State)
EVENTS: tuple[type[w.Event], ...] = get_args(w.Event)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.lower())
def test_every_state_has_one_cell_for_every_event(state: type[w.State]) -> None:
    assert list(TABLE[state]) == list(EVENTS)


def test_the_table_has_no_other_states() -> None:
    assert list(TABLE) == list(STATES)


def test_children_are_heard_of_only_while_leading_or_draining() -> None:
    for event in (w.Started, w.SpawnFailed, w.Exited, w.Emptied):
        assert {state for state in STATES if TABLE[state][event] is not bug} == {w.Leading, w.Draining}


def test_operators_and_lost_sessions_are_never_a_bug() -> None:
    orders = (w.StartOrdered, w.StopOrdered, w.RestartOrdered, w.ReleaseOrdered, w.EndOrdered)
    for event in (*orders, w.Attached, w.Detached, w.Notified):
        assert all(TABLE[state][event] is not bug for state in STATES)


def test_a_term_begins_where_a_takeover_was_asked_for_and_nowhere_else() -> None:
    assert {state for state in STATES if TABLE[state][w.Granted] is not bug} == {w.Waiting, w.Stopped}


@pytest.mark.parametrize("event", [w.Started(1, 0.0), w.Emptied(), w.Unlocked(), renewed(0.0), w.Curtailed(L)])
def test_what_cannot_happen_raises_and_says_what_met_what(event: w.Event) -> None:
    with pytest.raises(ImpossibleEvent, match=f"{type(event).__name__} while waiting"):
        step(waiting(), event, 0.0, POLICY)


@pytest.mark.parametrize("order", [w.Notified(), w.StopOrdered()], ids=["leading", "stopped meanwhile"])
def test_an_epoch_that_was_granted_is_remembered_like_one_that_was_seen(order: w.Event) -> None:
    """The ledger may be put back to before it, and must not begin it a second time."""
    taking, _ = step(waiting(), w.Looked(sight(row(released=True)), 0.0, keeperless=True), 0.0, POLICY)
    taking, _ = step(taking, order, 0.5, POLICY)
    for epoch, highest in ((9 << 32 | 3, 9 << 32 | 3), (2, 5)):
        assert step(taking, w.Granted(epoch, LENGTHS, 0.0), 1.0, POLICY)[0].knowledge.epoch == highest


def test_only_a_term_hears_that_no_lease_is_as_long_as_it_wants() -> None:
    assert {state for state in STATES if TABLE[state][w.Curtailed] not in (bug, stay)} == {w.Leading, w.Draining}


def test_a_tree_that_is_emptied_twice_raises() -> None:
    gone, _ = step(leading(), w.Emptied(), 2.0, POLICY)
    with pytest.raises(ImpossibleEvent, match="emptied twice"):
        step(gone, w.Emptied(), 2.0, POLICY)


@pytest.mark.parametrize(
    "event",
    [
        w.Looked(sight(row()), 1.0, keeperless=True),
        w.Settled(),
        w.Refused(0.2, ""),
        renewed(0.0),
        w.Curtailed(L),
        w.Overruled(),
        w.Contended(),
        w.Unlocked(),
        w.Notified(),
        w.Detached("lost"),
        w.Attached(2),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_stopped_program_shrugs_off_answers_to_what_was_asked_before(event: w.Event) -> None:
    stopped, _ = step(waiting(), w.StopOrdered(), 1.0, POLICY)
    after, effects = step(stopped, event, 2.0, POLICY)
    assert isinstance(after.state, w.Stopped)
    assert effects == ()


def test_there_is_never_a_second_question_under_way() -> None:
    """Whoever emits a request is asking from then on, until an answer or a loss."""
    for situation in (waiting(), spawning(), leading()):
        assert (situation.link is w.Link.ASKING) is isinstance(situation.state, w.Waiting)
    renewing, effects = step(leading(), w.Due(), 2.0, POLICY)
    assert effects == (w.Renew(leading_epoch(renewing), L),)
    assert renewing.link is w.Link.ASKING
    assert step(renewing, w.Notified(), 2.0, POLICY)[1] == ()
    assert step(renewing, renewed(2.0), 2.1, POLICY)[0].link is w.Link.IDLE
    assert step(renewing, w.Detached("lost"), 2.1, POLICY)[0].link is w.Link.AWAY


def leading_epoch(situation: w.Situation) -> int:
    assert isinstance(situation.state, w.Leading)
    return situation.state.term.epoch


def test_a_program_that_is_not_wanted_begins_stopped() -> None:
    assert begin(w.Want.STOP, 5.0).state == w.Stopped()
    assert begin(w.Want.RUN, 5.0).state == w.Waiting(look_at=5.0)


def test_the_lease_of_the_ledger_rules_the_term() -> None:
    assert spawning().state == w.Leading(w.Term(6, LENGTHS, 1.0, 0.0), w.Spawning(5.0), 2.0)
