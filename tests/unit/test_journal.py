"""The oracle of the cluster tests can tell what it must not overlook."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.journal import CHILD, Journal
from tests.support.wait import wait_for


def written(path: Path, *lines: str) -> Journal:
    path.write_text("".join(f"{line}\n" for line in lines))
    return Journal(path)


def test_lives_that_follow_each_other_are_no_double_and_their_gap_is_measured(tmp_path: Path) -> None:
    journal = written(
        tmp_path / "journal",
        "start 10.0 beat 7 1 a 100",
        "start 10.1 beat 7 1 a 101",
        "end 11.0 beat 7 1 a 100",
        "alive 11.5 beat 7 1 a 101",
        "start 12.0 beat 7 2 b 102",
    )
    assert journal.doubles() == []
    assert journal.gaps("beat") == [0.5]
    first, second = journal.lives("beat")
    assert ({*first.pids}, first.obeyed, first.starts) == ({100, 101}, True, 2)
    assert (second.epoch, second.obeyed) == (2, False)


def test_a_life_that_begins_before_the_last_one_ended_is_told_for_program_and_lock(tmp_path: Path) -> None:
    overlap = ("start 10.0 beat 7 1 a 100", "alive 12.0 beat 7 1 a 100", "start 11.0 beat 7 2 b 101")
    assert len(written(tmp_path / "one", *overlap).doubles()) == 2
    swapped = ("start 10.0 beat 7 1 a 100", "alive 12.0 beat 7 1 a 100", "start 11.0 bot 7 2 b 101")
    assert len(written(tmp_path / "two", *swapped).doubles()) == 1


def test_epochs_that_do_not_grow_are_told(tmp_path: Path) -> None:
    again = ("start 10.0 beat 7 2 a 100", "start 11.0 beat 7 1 b 101")
    assert len(written(tmp_path / "back", *again).doubles()) == 2
    twice = ("start 10.0 beat 7 2 a 100", "start 11.0 beat 7 2 b 101")
    assert len(written(tmp_path / "twice", *twice).doubles()) == 1


def test_children_that_live_side_by_side_say_so_themselves(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    environment = {"JOURNAL": str(journal.path), "HIGHLANDER_PROGRAM": "beat", "HIGHLANDER_LOCK_ID": "7"}
    children = [
        subprocess.Popen(CHILD, env={**environment, "HIGHLANDER_EPOCH": epoch, "HIGHLANDER_NODE": epoch})
        for epoch in ("1", "2")
    ]
    try:
        wait_for(lambda: journal.says("doubled"), what="one of them says so")
    finally:
        for child in children:
            os.kill(child.pid, signal.SIGTERM)
            assert child.wait(60) in (0, -signal.SIGTERM)
    assert journal.doubles()
