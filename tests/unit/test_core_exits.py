"""What a program's end is called: also that of one which goes into the background."""

from __future__ import annotations

import pytest

from highlanderd.children.messages import KeeperReport
from highlanderd.core.events import Exited
from tests.support.core import go, leading

FOREGROUND = "exited with status 0 and left processes behind, which were stopped: a program must stay in the foreground"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Exited(0, 3.0, alone=False), FOREGROUND),
        (Exited(0, 3.0, alone=True), "exited with status 0"),
        (Exited(256, 3.0, alone=False), "exited with status 1"),
    ],
)
def test_a_program_that_goes_into_the_background_is_told_to_stay(event: Exited, reason: str) -> None:
    situation, _ = go(leading(), (3.0, event))
    assert situation.reason == reason


@pytest.mark.parametrize("empty", [True, False])
def test_an_end_tells_whether_something_of_the_tree_was_left(empty: bool) -> None:
    report = KeeperReport(
        pid=7,
        started=1.0,
        failed=None,
        status=0,
        exited_at=2.0,
        killed=None,
        empty=empty,
        deadline=9.0,
        memo=b"",
    )
    assert Exited(0, 2.0, alone=empty) in list(report.facts())
