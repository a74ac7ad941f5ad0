"""Spares and workers as the guardian has them: their channels, the time that a start may take, pauses, dismissal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from highlanderd.guardian.channel import channel_pair
from highlanderd.guardian.spare import START_WITHIN, Spare, installed
from highlanderd.guardian.worker import Worker
from highlanderd.system import proctree
from tests.support.nodes import PACKAGE


def test_the_spare_of_the_first_worker_has_a_channel_when_it_begins() -> None:
    command = [sys.executable, "-W", "error", str(PACKAGE / "tests" / "children" / "spares_child.py")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(set(run.stdout.split())) == 2


def test_the_first_spare_may_take_as_long_to_begin_as_a_new_process_because_it_still_imports() -> None:
    ours, theirs = channel_pair()
    with subprocess.Popen(["sleep", "60"]) as process:
        worker = Worker([], "test", Spare.forked_before(f"{os.dup(ours.fileno())},{process.pid},{installed()}"))
        worker.start(7.0)
        due = worker.judge_at()
        worker.dismiss_spare()
        worker.hang_up()
        process.kill()
        assert (worker.pid, due) == (process.pid, 7.0 + START_WITHIN)
    ours.close()
    theirs.close()


def test_a_worker_that_gives_way_again_and_again_is_replaced_at_once_each_time() -> None:
    worker = Worker([], "test")
    for now in (1.0, 2.0, 3.0, 4.0):
        worker.pinged(4.0, now)
        worker.ended(now, gave_way=True)
        assert worker.judge_at() == now
    for now, pause in ((5.0, 0.1), (6.0, 0.2)):
        worker.ended(now, gave_way=False)
        assert worker.judge_at() == now + pause


def test_a_spare_that_its_worker_has_reaped_meanwhile_is_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = channel_pair()
    with subprocess.Popen(["true"]) as process:
        process.wait()
    monkeypatch.setattr(proctree, "parent", lambda _: 4711)
    Spare(1, ours, theirs, process.pid).dismiss(4711)
    assert ours.fileno() == -1
