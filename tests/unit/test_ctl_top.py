"""Claims about the picture that ``highlanderctl top`` draws."""

from __future__ import annotations

import os
from typing import Any

import pytest
from msgspec.structs import asdict

from highlanderd.core.occurrences import Occurrence
from highlanderd.ctl import terminal
from highlanderd.ctl.client import ControlClient
from highlanderd.ctl.top import Watched, picture
from highlanderd.errors import NoSuchProgram
from tests.unit.test_ctl import NOON, answered, row


def event(number: int) -> dict[str, Any]:
    return asdict(Occurrence("2026-01-02T03:04:05Z", "backoff", "a", f"p{number}", reason="\x1b[2J" * 50))


def watched(*programs: dict[str, Any], events: int = 0) -> Watched:
    found = Watched(ControlClient("/nowhere"))
    found.status = answered(*({"since": "2026-01-02T03:04:05Z", **program} for program in programs), node="a")
    found.events.extend(map(event, range(events)))
    return found


@pytest.mark.parametrize(("programs", "events"), [(0, 0), (3, 2), (500, 200)])
@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 60)])
def test_a_picture_fits_its_screen_whatever_there_is(programs: int, events: int, size: tuple[int, int]) -> None:
    many = [row(f"program-{number}", state="backoff", reason="exited " * 30) for number in range(programs)]
    lines = picture(watched(*many, events=events), [], size, NOON)
    assert len(lines) <= size[1]
    assert all(len(line) <= size[0] and line.isprintable() for line in lines)
    assert "EVENTS" in lines


def test_the_sickest_program_comes_first_and_the_newest_event_last() -> None:
    lines = picture(watched(row("well", state="leading"), row("ill", state="backoff"), events=3), [], (80, 24), NOON)
    assert lines[0] == "a: 2 programs: 1 backoff, 1 leading; q leaves"
    assert [line.split()[0] for line in lines[2:4]] == ["ill", "well"]
    assert lines[-1].startswith("03:04:05 UTC  a  p2  backoff: ")


def test_what_does_not_fit_is_counted_and_names_choose() -> None:
    many = [row(f"p{number}") for number in range(100)]
    lines = picture(watched(*many), [], (80, 24), NOON)
    assert "... 100 programs; name some to see them, as in 'top web-*'" in lines
    assert lines[0].startswith("a: 100 programs")
    assert picture(watched(*many), ["p7"], (80, 24), NOON)[0].startswith("a: 1 program:")
    with pytest.raises(NoSuchProgram):
        picture(watched(*many), ["q"], (80, 24), NOON)


def test_a_daemon_that_does_not_answer_leaves_the_last_picture_with_a_warning() -> None:
    found = watched(row("beat", state="leading"))
    found.trouble = "the daemon on /run/x does not answer"
    lines = picture(found, [], (80, 24), NOON)
    assert lines[1] == "warning: the daemon on /run/x does not answer"
    assert any(line.startswith("beat") for line in lines)


def test_a_terminal_that_does_not_know_its_size_has_that_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A serial console says 0 columns and 0 lines, and so does a pseudo-terminal that nobody has given a size."""
    master, slave = os.openpty()
    with open(slave, "w", encoding="ascii") as unsized:  # noqa: PTH123  # a descriptor
        monkeypatch.setattr("sys.stdout", unsized)
        assert terminal.screen() == (80, 24)
    os.close(master)
