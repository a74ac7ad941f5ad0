"""What a logger reports comes from a process of the program's user: what is no report is refused, and held off."""

from __future__ import annotations

import asyncio
import marshal
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from highlanderd.children.logger_view import LoggerView
from highlanderd.guardian import log_report
from highlanderd.guardian.channel import Message

REPORT: Message = {
    "lines": {"stdout": 3, "stderr": 0},
    "bytes": {"stdout": 30, "stderr": 0},
    "dropped": {"stdout": 1, "stderr": 0},
    "last": [(2, 1.5, "stdout", b"one\0"), (3, 2.5, "stderr", b"\xff")],
    "number": 3,
    "troubles": {"/var/log/\udcff": "Permission denied"},
    "unrotated": {},
    "recovered": {"standard output": 2},
    "reopened": 1,
}


@pytest.fixture
def memory() -> Iterator[int]:
    fd = log_report.memory()
    yield fd
    os.close(fd)


def put(fd: int, data: bytes, size: int | None = None, number: int = 2) -> None:
    """Put bytes where a report is looked for."""
    os.pwrite(fd, data, log_report.FIRST)
    os.pwrite(fd, log_report.HEAD.pack(number, len(data) if size is None else size, 0), 0)


def record(kind: int = 0, stream: int = 0, time: float = 0.0, number: int = 0, size: int = 0) -> bytes:
    return log_report.RECORD.pack(kind, stream, time, number, size)


def test_a_report_is_read_as_it_was_written(memory: int) -> None:
    assert log_report.read(memory) is None
    for turn in range(3):
        log_report.publish(memory, {**REPORT, "reopened": turn})
        assert log_report.read(memory) == {**REPORT, "reopened": turn}
        assert log_report.number(memory) == turn + 1


def test_the_largest_report_has_room(memory: int) -> None:
    line = (log_report.MOST, log_report.LATEST - 1.0, "stdout", b"x" * 1000)
    paths = {"/" + "p" * 4095: "y" * 200, "/" + "q" * 4095: "y" * 200}
    log_report.publish(memory, {**REPORT, "last": [line] * 200, "troubles": paths, "unrotated": paths})
    found = log_report.read(memory)
    assert found is not None
    assert (found["last"], found["unrotated"]) == ([line] * 200, paths)


LAST, TROUBLES = log_report.KINDS.index("last"), log_report.KINDS.index("troubles")
HOSTILE = {
    "marshalled": marshal.dumps(REPORT),
    "a part of a record": record()[:-1],
    "an unknown kind": record(kind=len(log_report.KINDS)),
    "an unknown stream": record(stream=2),
    "no time": record(time=float("nan")),
    "a time before all": record(time=-1.0),
    "the end of time": record(time=float("inf")),
    "too large a count": record(number=log_report.MOST + 1),
    "a text that is not there": record(kind=LAST, size=10),
    "a long text": record(kind=LAST, size=log_report.LONGEST_TEXT + 1) + b"x" * (log_report.LONGEST_TEXT + 1),
    "many records": record(kind=LAST) * 1000,
    "many files": b"".join(record(kind=TROUBLES, size=2) + b"%d" % number for number in range(10, 13)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_no_logger_writes_is_refused(memory: int, data: bytes) -> None:
    put(memory, data)
    with pytest.raises(ValueError, match=r"record|more files"):
        log_report.read(memory)


@pytest.mark.parametrize("size", [log_report.PLACE + 1, 2**64 - 1])
def test_a_report_of_any_length_is_not_read(memory: int, size: int) -> None:
    put(memory, b"", size)
    with pytest.raises(ValueError, match="too long"):
        log_report.read(memory)


def test_the_memory_can_neither_grow_nor_shrink(memory: int) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(memory, b"x", 1 << 30)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)


@pytest.mark.parametrize("number", [0, 2**63, 2**64 - 1])
def test_a_logger_reports_on_after_any_number(memory: int, number: int) -> None:
    put(memory, b"", number=number)
    for turn in (1, 2):
        log_report.publish(memory, {**REPORT, "number": turn})
    found = log_report.read(memory)
    assert found is not None
    assert found["number"] == 2


def test_an_order_is_read_as_it_was_given_and_never_invented(memory: int) -> None:
    assert log_report.order(memory) == {}
    order = {"max_bytes": 9, "backups": 2, "compress": True, "timestamps": True, "format": "json", "overflow": "drop"}
    log_report.give_order(memory, {**order, "files": {"stdout": b"/etc/passwd"}, "inherit": []})
    assert log_report.order(memory) == order
    os.pwrite(memory, b"\xff" * log_report.ORDERED.size, log_report.ORDER)
    with pytest.raises(ValueError, match="words"):
        log_report.order(memory)


@contextmanager
def viewed(fd: int) -> Iterator[tuple[LoggerView, list[tuple[str, str, str, int]]]]:
    """Return a worker's view of a report, and what it counts."""
    counted: list[tuple[str, str, str, int]] = []
    loop = asyncio.new_event_loop()
    view = loop.run_until_complete(_view(os.dup(fd), counted))
    yield view, counted
    view.close()
    loop.close()


async def _view(fd: int, counted: list[tuple[str, str, str, int]]) -> LoggerView:
    return LoggerView(fd, "beat", lambda *count: counted.append(count))


def test_a_hostile_report_ends_at_that_program_s_output(memory: int, caplog: pytest.LogCaptureFixture) -> None:
    log_report.publish(memory, {**REPORT, "troubles": {}})
    with viewed(memory) as (view, counted):
        view.look()
        for number in range(2, 20, 2):
            put(memory, marshal.dumps(REPORT), number=number)
            view.look()
            assert view.report == log_report.NOTHING
    assert ("beat", "stdout", "lines", 3) in counted
    warnings = [each.getMessage() for each in caplog.records if "cannot be read" in each.getMessage()]
    assert len(warnings) == 1
    assert "beat" in warnings[0]


def test_counts_that_go_back_are_not_counted(memory: int) -> None:
    with viewed(memory) as (view, counted):
        for lines in (5, 2, 6):
            log_report.publish(memory, {**log_report.NOTHING, "lines": {"stdout": lines}})
            view.look()
    assert counted == [("beat", "stdout", "lines", 5), ("beat", "stdout", "lines", 1)]


def test_what_was_read_for_somebody_is_counted_all_the_same(memory: int) -> None:
    log_report.publish(memory, {**log_report.NOTHING, "lines": {"stdout": 5}})
    with viewed(memory) as (view, counted):
        assert view.report["lines"] == {"stdout": 5}
        view.catch_up()
        view.catch_up()
        assert counted == [("beat", "stdout", "lines", 5)]
