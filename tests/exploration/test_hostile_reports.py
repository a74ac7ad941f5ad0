"""What a program's user may bring into its logger's report harms nothing but that program's output."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from highlanderd.children.logger_view import LoggerView
from highlanderd.children.program_output import ProgramOutput
from highlanderd.guardian import log_report
from tests.unit.test_log_report import REPORT

NUMBERS = st.integers(0, 2**64 - 1)
RECORDS = st.builds(
    lambda kind, stream, time, number, text: log_report.RECORD.pack(kind, stream, time, number, len(text)) + text,
    st.integers(0, len(log_report.KINDS)), st.integers(0, 2), st.floats(), NUMBERS, st.binary(max_size=50),
)  # fmt: skip


def harmless(write: Callable[[int], object], warnings: Callable[[], int]) -> None:
    """Look at what ``write`` does to a report, as the worker does."""

    async def look() -> None:
        fd = log_report.memory()
        log_report.publish(fd, REPORT)
        counted: list[int] = []
        output = ProgramOutput("beat", lambda *count: counted.append(count[3]))
        output.follow(os.dup(fd))
        view = LoggerView(os.dup(fd), "beat", lambda *count: counted.append(count[3]))
        view.look()
        before = warnings()
        write(fd)
        view.look()
        assert len(output.last()) <= 200
        assert len(str(output.troubles)) < 50_000
        assert output.reopened >= 0
        view.close()
        output.follow(os.dup(fd))
        assert all(count > 0 for count in counted)
        assert warnings() - before <= 3 + 2 * 2, "each of three views warns once, and of two files at most"
        output.close()
        os.close(fd)

    asyncio.run(look())


@pytest.fixture(scope="module")
def warnings() -> Iterator[Callable[[], int]]:
    """Return how many messages there were. They hold bytes that pytest cannot pass on, and go nowhere."""
    messages: list[logging.LogRecord] = []
    log = logging.getLogger(LoggerView.__module__)

    def swallow(record: logging.LogRecord) -> bool:
        messages.append(record)
        return False

    log.addFilter(swallow)
    yield lambda: len(messages)
    log.removeFilter(swallow)


@given(data=st.binary(max_size=2000), head=st.tuples(NUMBERS, NUMBERS, NUMBERS))
@settings(max_examples=100)
def test_any_bytes(warnings: Callable[[], int], data: bytes, head: tuple[int, int, int]) -> None:
    harmless(lambda fd: _put(fd, data, head), warnings)


@given(records=st.lists(RECORDS, max_size=300))
@settings(max_examples=100)
def test_any_records(warnings: Callable[[], int], records: list[bytes]) -> None:
    data = b"".join(records)
    harmless(lambda fd: _put(fd, data, (2, len(data), len(data))), warnings)


@given(at=st.integers(0, 200), byte=st.binary(min_size=1, max_size=4))
@settings(max_examples=200)
def test_a_report_that_was_bent(warnings: Callable[[], int], at: int, byte: bytes) -> None:
    def bend(fd: int) -> None:
        log_report.publish(fd, REPORT)
        os.pwrite(fd, byte, log_report.FIRST + at)

    harmless(bend, warnings)


def _put(fd: int, data: bytes, head: tuple[int, int, int]) -> None:
    for place in range(2):
        os.pwrite(fd, data, log_report.FIRST + place * log_report.PLACE)
    os.pwrite(fd, log_report.HEAD.pack(*head), 0)
