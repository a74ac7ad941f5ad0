"""What is worded for a service manager."""

from __future__ import annotations

import pytest

from highlanderd.worker.notices import LONGEST_STATUS, Notices, summary


@pytest.mark.parametrize(
    ("states", "trouble", "line"),
    [
        ([], "", "no programs"),
        (["waiting", "leading", "waiting", "backoff"], "", "leading 1, waiting 2, backoff 1"),
        (["stopped", "draining"], "", "draining 1, stopped 1"),
        (["waiting"], "no route\n to host", "waiting 1; PostgreSQL: no route to host"),
        (["waiting"], "x" * 100_000, "waiting 1; PostgreSQL: " + "x" * (LONGEST_STATUS - 23)),
    ],
)
def test_a_line_counts_programs_by_state(states: list[str], trouble: str, line: str) -> None:
    assert summary(states, trouble) == line


def test_a_listener_that_cannot_be_opened_is_in_the_status_of_the_service() -> None:
    shut = ["cannot listen on :80: Permission denied", "cannot make the control socket /x: Operation not permitted"]
    assert summary(["leading"], "no route", reversed(shut)) == f"leading 1; {shut[0]}; {shut[1]}; PostgreSQL: no route"


def test_a_status_is_said_when_it_changes() -> None:
    said: list[str] = []
    notices = Notices(said.append)
    for line in ("leading 1", "leading 1", "leading 2", "leading 1"):
        notices.status(line)
    assert said == ["STATUS=leading 1", "STATUS=leading 2", "STATUS=leading 1"]


def test_a_reload_ends_whatever_comes_of_it() -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError), Notices(said.append).reload():
        raise RuntimeError
    begun, ended = said
    assert begun.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert ended == "READY=1"


def test_each_sign_of_a_drain_outlives_the_replacement_of_a_worker() -> None:
    said: list[str] = []
    Notices(said.append).draining()
    assert said == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000"]
