"""`make demo`, as a stranger sees it: every kind of mischief once, nothing doubled, nothing left behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deaths import gone, marked
from tests.support.nodes import PACKAGE

pytestmark = pytest.mark.long

KINDS = ("child", "release", "worker", "restart", "guardian", "node")


def test_a_demo_of_one_round_of_each_kind_finds_no_overlap_and_leaves_nothing() -> None:
    command = [sys.executable, "-m", "tests.demo", "--rounds", str(len(KINDS)), "--pause", "0"]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=280, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout, "not a terminal"
    place = re.search(r"in (/tmp/highlander-demo-\w+)$", done.stdout, re.MULTILINE)
    assert place is not None
    rounds = [
        line for line in done.stdout.splitlines() if re.match(r"\d\d:\d\d  (SIGKILL|highlanderctl|restart)", line)
    ]
    assert [kind in line for kind, line in zip(KINDS, rounds, strict=False) if kind != "node"] == [True] * 5
    assert len(rounds) == len(KINDS)
    assert re.search(r"^6 rounds, 4 kills, \d+ handovers, 0 overlaps$", done.stdout, re.MULTILINE)
    assert re.search(r"^SIGKILL of a whole node +1 +0 +[1-5] +\d+ ms +\d+ ms$", done.stdout, re.MULTILINE)
    assert not Path(place[1]).exists()
    assert not [pid for pid in marked(Path(place[1])) if not gone(pid)]
