"""Where keepers note their deadlines: each has a place, and half a note is none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from highlanderd.guardian.channel import channel_pair
from highlanderd.guardian.deadline_notes import HEAD, PLACE, DeadlineNotes
from highlanderd.guardian.keeper_handle import KeeperHandle

SPEC = {"program": "beat", "lock_id": 7, "epoch": 2, "deadline": 10.0, "memo": b"first"}


@pytest.fixture
def notes() -> Iterator[DeadlineNotes]:
    notes = DeadlineNotes()
    yield notes
    os.close(notes.fileno())


def handle(notes: DeadlineNotes, place: int) -> KeeperHandle:
    ours, theirs = channel_pair()
    ours.close()
    theirs.close()
    return KeeperHandle(1, os.getpid(), ours, SPEC, None, notes, place)


def test_each_keeper_has_a_place_of_its_own(notes: DeadlineNotes) -> None:
    first, second = notes.take(), notes.take()
    notes.write(first, 20.0, b"x" * 16384)
    notes.write(second, 30.0, b"second")
    assert notes.read(first) == (20.0, b"x" * 16384)
    assert notes.read(second) == (30.0, b"second")


def test_a_place_that_is_taken_again_holds_nothing_of_its_former_keeper(notes: DeadlineNotes) -> None:
    place = notes.take()
    notes.write(place, 20.0, b"former")
    notes.give_back(place)
    assert notes.take() == place
    assert notes.read(place) == (0.0, b"")


@pytest.mark.parametrize("bytes_written", [8, HEAD.size, HEAD.size + 3])
def test_a_note_that_is_half_written_is_not_believed(notes: DeadlineNotes, bytes_written: int) -> None:
    place, other = notes.take(), notes.take()
    notes.write(place, 20.0, b"former")
    notes.write(other, 30.0, b"latest")
    latest = os.pread(notes.fileno(), bytes_written, other * PLACE)
    os.pwrite(notes.fileno(), latest, place * PLACE)
    assert notes.read(place) == (0.0, b"")


def test_the_guardian_goes_by_the_later_of_what_was_reported_and_noted(notes: DeadlineNotes) -> None:
    keeper = handle(notes, notes.take())
    keeper.look()
    assert (keeper.state["deadline"], keeper.state["memo"]) == (10.0, b"first")
    notes.write(0, 20.0, b"noted")
    keeper.look()
    assert (keeper.state["deadline"], keeper.state["memo"]) == (20.0, b"noted")
    keeper.receive({**keeper.state, "deadline": 30.0, "memo": b"reported"})
    keeper.look()
    assert (keeper.state["deadline"], keeper.state["memo"]) == (30.0, b"reported")


def test_what_a_keeper_has_noted_is_known_after_its_death_and_its_place_is_free(notes: DeadlineNotes) -> None:
    keeper = handle(notes, notes.take())
    notes.write(0, 20.0, b"noted")
    keeper.reaped()
    assert notes.take() == 0
    notes.write(0, 40.0, b"another keeper's")
    keeper.look()
    assert (keeper.state["deadline"], keeper.state["memo"]) == (20.0, b"noted")


def test_a_memo_that_came_with_the_same_deadline_again_is_taken_in(notes: DeadlineNotes) -> None:
    keeper = handle(notes, notes.take())
    notes.write(0, 20.0, b"leading")
    keeper.look()
    notes.write(0, 20.0, b"to be stopped")
    keeper.look()
    assert (keeper.state["deadline"], keeper.state["memo"]) == (20.0, b"to be stopped")
