"""Claims about lines that are followed beyond a daemon's worker: none comes twice, and none is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from highlanderd.ctl import logs
from highlanderd.ctl.arguments import parser
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.errors import DaemonUnreachable

ONE, TWO = "2026-01-02T03:04:05.001Z", "2026-01-02T03:04:05.002Z"


def line(time: str, text: str, program: str = "beat") -> Answer:
    return {"time": time, "program": program, "stream": "stdout", "line": text}


class Replaced(ControlClient):
    """A daemon whose worker is replaced after each of its streams."""

    def __init__(self, *streams: list[Answer]) -> None:
        super().__init__(str(Path("/nowhere")))
        self._streams = list(streams)

    @property
    def lives(self) -> bool:
        return bool(self._streams)

    def stream(self, resource: str) -> Iterator[Answer]:
        assert "follow=true" in resource
        yield from self._streams.pop(0)


def followed(*streams: list[Answer]) -> list[str]:
    """Return what ``logs -f`` prints of these streams and of an empty one."""
    arguments = parser().parse_args(["logs", "-f", "-n", "1"])
    found: list[str] = []
    lines = logs._following(Replaced(*streams, []), arguments)
    with suppress(DaemonUnreachable):  # which has ended
        found.extend(str(one["line"]) for one in lines)
    return found


@pytest.mark.parametrize(("names", "said"), [(["m*"], True), ([], True), (["mailer"], False)])
def test_where_a_glob_means_no_lines_that_is_said(
    names: list[str], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon: Any = SimpleNamespace(stream=lambda _: iter(()))
    assert logs.logs(daemon, parser().parse_args(["logs", *names])) == 0
    shown = capsys.readouterr()
    assert (shown.out, "no lines on this node" in shown.err) == ("", said)


def test_a_line_of_the_same_moment_as_the_last_one_is_not_left_out() -> None:
    before, after = [line(ONE, "a"), line(ONE, "b")], [line(ONE, "a"), line(ONE, "b"), line(ONE, "c"), line(TWO, "d")]
    assert followed(before, after) == ["a", "b", "c", "d"]


def test_a_line_that_was_written_twice_in_one_moment_is_printed_twice() -> None:
    assert followed([line(ONE, "tick")], [line(ONE, "tick"), line(ONE, "tick")]) == ["tick", "tick"]


def test_no_line_comes_twice_however_often_the_worker_is_replaced() -> None:
    kept = [line(ONE, "a"), line(TWO, "b")]
    assert followed(kept, kept, [*kept, line(TWO, "c")], [*kept, line(TWO, "c")]) == ["a", "b", "c"]


def test_programs_do_not_hide_each_others_lines() -> None:
    assert followed([line(TWO, "a")], [line(TWO, "a"), line(ONE, "r", "relay")]) == ["a", "r"]
