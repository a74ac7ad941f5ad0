"""Claims about the daemon's own log on its way out: nothing makes the event loop wait, and what is lost is counted."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from highlanderd.children.unlogged import UnloggedPipe
from highlanderd.output.writer import LIMIT, Writer
from tests.support.memory_node import run
from tests.support.output import writing_to
from tests.support.wait import until, wait_for


def read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()


def test_nobody_reads_our_standard_error_and_the_loop_goes_on() -> None:
    """The pipe is full; the offers return at once, and once somebody reads, the gap is counted to the line."""

    async def main() -> None:
        blocked, stuck = os.pipe()
        writer = Writer(stuck)
        accepted = refused = 0
        line = b"z" * 99 + b"\n"
        while refused < 1000:
            if writer.offer(line * 10, 10):
                accepted += 10
            else:
                refused += 10
        assert accepted * 100 <= LIMIT + 200_000  # the queue, and what the pipe and the thread hold
        reader = asyncio.create_task(asyncio.to_thread(read_all, blocked))
        await until(lambda: not writer._waiting)
        assert writer.offer(b"after the gap\n", 1)
        await asyncio.to_thread(writer.close, 60.0)
        os.close(stuck)
        lines = (await reader).splitlines(keepends=True)
        assert lines[:accepted] == [line] * accepted
        assert lines[accepted:] == [
            f"[highlanderd: {refused} lines dropped here: they came faster than they could be written]\n".encode(),
            b"after the gap\n",
        ]

    run(main)


def test_a_reader_that_is_slow_sees_few_long_gaps() -> None:
    blocked, stuck = os.pipe()
    writer = Writer(stuck)
    seen = b""
    while len(seen) < 2 * LIMIT:
        while writer.offer(b"z" * 99 + b"\n", 1):
            pass
        seen += os.read(blocked, 8192)
    os.close(blocked)
    writer.close(0.0)
    os.close(stuck)
    assert 1 <= seen.count(b"lines dropped here") <= 10


def test_the_daemon_s_own_lines_use_a_reserve_that_children_cannot_fill() -> None:
    blocked, stuck = os.pipe()
    writer = Writer(stuck)
    while writer.offer(b"noise\n" * 1000, 1000):
        pass
    assert writer.offer(b"the lease ran out\n", 1, important=True)
    assert not writer.offer(b"noise\n", 1)
    os.close(blocked)
    writer.close(0.0)
    os.close(stuck)


def test_two_that_write_into_one_pipe_do_not_tear_each_other_s_lines() -> None:
    read_end, write_end = os.pipe()
    writers = Writer(write_end), Writer(write_end)
    for writer, letter in zip(writers, (b"a", b"b"), strict=True):
        for _ in range(50):
            writer.offer((letter * 700 + b"\n") * 20, 20)
    with os.fdopen(read_end, "rb") as pipe:
        lines = [pipe.readline() for _ in range(2000)]
    for writer in writers:
        writer.close(60.0)
    os.close(write_end)
    assert sorted(set(lines)) == [b"a" * 700 + b"\n", b"b" * 700 + b"\n"]


def test_closing_the_writer_writes_what_is_queued_and_waits_for_nobody_for_ever(tmp_path: Path) -> None:
    with writing_to(tmp_path / "log") as writer:
        for number in range(1000):
            writer.offer(b"%d\n" % number, 1)
    assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % number for number in range(1000))

    blocked, stuck = os.pipe()
    writer = Writer(stuck)
    while writer.offer(b"z" * 1000 + b"\n", 1):
        pass
    began = time.monotonic()
    writer.close(0.1)
    assert time.monotonic() - began < 10  # a bound, not a measurement: without it this hangs for ever
    os.close(blocked)


def test_a_full_disk_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with caplog.at_level(logging.INFO):
        writer = Writer(full)
        for _ in range(100):
            writer.offer(b"lost\n", 1)
        wait_for(lambda: "No space left on device" in caplog.text, what="it says what is wrong")
        writer.close(1.5)  # it is tried again meanwhile
    os.close(full)
    (told,) = [record for record in caplog.records if "No space left" in record.getMessage()]
    assert "cannot write to standard error" in told.getMessage()


def test_a_reader_that_is_gone_is_told_and_kills_nobody(caplog: pytest.LogCaptureFixture) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with caplog.at_level(logging.INFO):
        writer = Writer(write_end)
        writer.offer(b"hello?\n", 1)
        wait_for(lambda: "cannot write to standard error: Broken pipe" in caplog.text, what="it says what is wrong")
        writer.close(0.0)
    os.close(write_end)


def test_lines_offered_from_many_threads_all_arrive(tmp_path: Path) -> None:
    with writing_to(tmp_path / "log") as writer:
        threads = [
            threading.Thread(target=lambda n=n: [writer.offer(b"%d %d\n" % (n, m), 1) for m in range(500)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = (tmp_path / "log").read_bytes().splitlines()
    assert sorted(written) == sorted(b"%d %d" % (n, m) for n in range(4) for m in range(500))


def test_a_child_of_an_older_guardian_is_read_and_its_lines_go_to_the_daemon_s_own_log(tmp_path: Path) -> None:
    """That guardian knows of no loggers: an upgrade costs no line."""
    long = b"x" * 150_000

    async def main() -> None:
        with writing_to(tmp_path / "log") as writer:
            read_end, write_end = os.pipe()
            pipe = UnloggedPipe(read_end, "beat", writer)
            await asyncio.to_thread(os.write, write_end, b"one\n\nthr")
            await asyncio.to_thread(os.write, write_end, b"ee\n" + long[:50_000])
            await until(lambda: pipe._partial == long[:50_000])
            await asyncio.to_thread(os.write, write_end, long[50_000:] + b"\nlast words\nand a half")
            pipe.close()
            pipe.close()
            os.close(write_end)

    run(main)
    *lines, words, half = (tmp_path / "log").read_bytes().splitlines()
    assert lines[:3] == [b"beat: one", b"beat: ", b"beat: three"]
    assert b"".join(line.removeprefix(b"beat: ") for line in lines[3:]) == long
    assert [words, half] == [b"beat: last words", b"beat: and a half"]
