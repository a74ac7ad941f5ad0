"""Claims about children's output: every byte arrives or is counted, and nothing makes the event loop wait."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import termios
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from highlanderd.output.streams import PATIENCE, Ring, Stream
from highlanderd.output.writer import LIMIT, Sink, Writer
from tests.support.memory_node import LOOPS, run, until
from tests.support.output import writing


@contextmanager
def flooding(write_end: int) -> Iterator[None]:
    """``yes`` at full speed into ``write_end``, which is closed here; it must end by itself once nobody reads."""
    with subprocess.Popen(["yes"], stdout=write_end, stderr=subprocess.DEVNULL) as flood:
        os.close(write_end)
        try:
            yield
            assert flood.wait(60) != 0  # SIGPIPE
        finally:
            flood.kill()


@asynccontextmanager
async def stream_to(
    sink: Sink, *, prefix: str = "", count: Callable[[int], None] | None = None
) -> AsyncIterator[tuple[int, Ring]]:
    """Return the write end of a pipe that a Stream reads; the block may close it."""
    read_end, write_end = os.pipe()
    ring = Ring()
    stream = Stream(read_end, sink, ring, prefix=prefix, count=count)
    try:
        yield write_end, ring
    finally:
        stream.close()
        os.close(write_end)


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


async def send(fd: int, data: bytes) -> None:
    await asyncio.to_thread(write_all, fd, data)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_shared_destination_gets_whole_lines_with_their_program_s_name(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    path = tmp_path / "out"
    counted: list[int] = []

    async def main() -> None:
        with writing() as writer:
            async with stream_to(writer.file(path, 0, 0), prefix="beat: ", count=counted.append) as (pipe, ring):
                await send(pipe, b"one\n\nthr")
                await until(lambda: sum(counted) == 2)
                await send(pipe, b"ee\n")
                await until(lambda: sum(counted) == 3)
            assert ring.lines() == ("one", "", "three")

    run(main, loop_factory)
    assert path.read_bytes() == b"beat: one\nbeat: \nbeat: three\n"


def test_a_file_of_its_own_gets_the_very_bytes_of_the_child(tmp_path: Path) -> None:
    path = tmp_path / "out"
    junk = bytes(range(256)) * 4096 + b"no end"

    async def main() -> None:
        with writing() as writer:
            async with stream_to(writer.file(path, 0, 0)) as (pipe, ring):
                await send(pipe, junk)
            assert ring.lines()[-1].endswith("no end")

    run(main)
    assert path.read_bytes() == junk


def test_a_line_without_its_end_is_passed_on_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def main() -> None:
        with writing() as writer:
            async with stream_to(writer.file(path, 0, 0), prefix="beat: ") as (pipe, _):
                await send(pipe, b"password? ")
                await until(lambda: path.exists() and path.read_bytes() == b"beat: password? \n")
                await send(pipe, b"wrong\n")
                await until(lambda: path.read_bytes().endswith(b"beat: wrong\n"))

    run(main)


def test_an_unfinished_line_is_not_torn_because_an_earlier_one_was_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "out"
    took: list[float] = []

    async def main() -> None:
        with writing() as writer:
            async with stream_to(writer.file(path, 0, 0), prefix="beat: ") as (pipe, _):
                for _ in range(40):  # two seconds in all, each line whole within a twentieth
                    began = time.monotonic()
                    await send(pipe, b"first half, ")
                    await asyncio.sleep(0.05)
                    await send(pipe, b"second half\n")
                    await until(lambda: not _unread(pipe))
                    took.append(time.monotonic() - began)

    run(main)
    whole, late = b"beat: first half, second half\n", sum(seconds > PATIENCE / 2 for seconds in took)
    assert path.read_bytes().count(whole) >= len(took) - late, "only what this machine has delayed may be torn"
    text = path.read_bytes().replace(b"beat: ", b"").replace(b"\n", b"")
    assert text == b"first half, second half" * len(took)


def _unread(pipe: int) -> int:
    """Return how many bytes wait in a pipe."""
    waiting = array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0]


def test_long_lines_are_cut_into_pieces_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    sent = b"x" * 300_000 + b"\nshort\n" + b"y" * 65_536 + b"\n"

    async def main() -> None:
        with writing() as writer:
            async with stream_to(writer.file(path, 0, 0), prefix="beat: ") as (pipe, ring):
                await send(pipe, sent)
            assert max(len(line) for line in ring.lines()) <= 1000

    run(main)
    lines = path.read_bytes().splitlines()
    assert all(line.startswith(b"beat: ") and len(line) <= 65_536 + 6 for line in lines)
    assert b"".join(line.removeprefix(b"beat: ") for line in lines) == sent.replace(b"\n", b"")


def test_closing_reads_what_the_pipe_still_holds(tmp_path: Path) -> None:
    path = tmp_path / "out"

    async def main() -> None:
        with writing() as writer:
            async with stream_to(writer.file(path, 0, 0), prefix="beat: ") as (pipe, ring):
                os.write(pipe, b"last words\nand a half")
            assert ring.lines() == ("last words", "and a half")

    run(main)
    assert path.read_bytes() == b"beat: last words\nbeat: and a half\n"


def test_closing_reads_no_more_than_the_pipe_held_although_a_stranger_goes_on_writing() -> None:
    async def main() -> None:
        with writing() as writer:
            read_end, write_end = os.pipe()
            os.set_blocking(write_end, False)
            held = os.write(write_end, b"y\n" * 1_000_000)
            read: list[int] = []

            def write_on(lines: int) -> None:
                read.append(2 * lines)
                assert sum(read) <= held + 65_536, "it reads what the stranger wrote meanwhile"
                os.write(write_end, b"y\n" * lines)

            stream = Stream(read_end, writer.file(Path("/dev/null"), 0, 0), Ring(), count=write_on)
            stream.close()
            stream.close()
            assert sum(read) >= held
            os.close(write_end)

    run(main)


def test_the_stream_ends_by_itself_when_the_child_closes_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        with writing() as writer:
            read_end, write_end = os.pipe()
            ring = Ring()
            Stream(read_end, writer.file(tmp_path / "out", 0, 0), ring, prefix="x: ")
            os.write(write_end, b"bye")
            os.close(write_end)
            await until(lambda: ring.lines() == ("bye",))

    run(main)


def test_the_ring_keeps_the_last_lines_short() -> None:
    ring = Ring()
    ring.keep([b"%d" % n for n in range(150)])
    ring.keep([b"\xff" * 5000, *(b"%d" % n for n in range(150, 300))])
    assert len(ring.lines()) == 200
    assert ring.lines()[-1] == "299"
    assert len(ring.lines()[49]) == 1000


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_child_that_floods_does_not_starve_the_loop(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    counted: list[int] = []

    async def main() -> None:
        with writing() as writer:
            read_end, write_end = os.pipe()
            other_read, other_write = os.pipe()
            with flooding(write_end):
                stream = Stream(
                    read_end, writer.file(Path("/dev/null"), 0, 0), Ring(), prefix="flood: ", count=counted.append
                )
                quiet = Stream(other_read, writer.file(tmp_path / "quiet", 0, 0), ring := Ring())
                await until(lambda: sum(counted) > 100_000)
                # A hundred rounds of the quiet program, each one through pipe and loop, while the flood goes on
                for number in range(100):
                    os.write(other_write, b"%d\n" % number)
                    await until(lambda number=number: ring.lines()[-1:] == (str(number),))  # type: ignore[misc]
                stream.close()
                quiet.close()
                os.close(other_write)

    run(main, loop_factory)
    assert max(counted) <= 65_536  # no turn took more than one chunk


def test_nobody_reads_our_standard_output_and_the_loop_goes_on() -> None:
    """The pipe is full; the offers return at once, and once somebody reads, the gap is counted to the line."""

    def read_all(fd: int) -> bytes:
        with os.fdopen(fd, "rb") as pipe:
            return pipe.read()

    async def main() -> None:
        blocked, stuck = os.pipe()
        writer = Writer()
        sink = writer.descriptor(stuck, "standard output")
        accepted = refused = 0
        line = b"z" * 99 + b"\n"
        while refused < 1000:
            if sink.offer(line * 10, 10):
                accepted += 10
            else:
                refused += 10
        assert accepted * 100 <= LIMIT + 200_000  # the queue, and what the pipe and the thread hold
        reader = asyncio.create_task(asyncio.to_thread(read_all, blocked))
        await until(lambda: not writer.pending)
        assert sink.offer(b"after the gap\n", 1)
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
    writer = Writer()
    sink = writer.descriptor(stuck, "standard output")
    seen = b""
    while len(seen) < 2 * LIMIT:
        while sink.offer(b"z" * 99 + b"\n", 1):
            pass
        seen += os.read(blocked, 8192)
    os.close(blocked)
    writer.close(0.0)
    os.close(stuck)
    assert 1 <= seen.count(b"lines dropped here") <= 10


def test_a_stuck_standard_output_does_not_hold_up_log_files(tmp_path: Path) -> None:
    async def main() -> None:
        blocked, stuck = os.pipe()
        writer = Writer()
        out = writer.descriptor(stuck, "standard output")
        while out.offer(b"z" * 1000 + b"\n", 1):
            pass
        writer.file(tmp_path / "log", 0, 0).offer(b"free\n", 1)
        await until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_bytes() == b"free\n")
        os.close(blocked)
        await asyncio.to_thread(writer.close, 0.0)
        os.close(stuck)

    run(main)


def test_the_daemon_s_own_lines_use_a_reserve_that_children_cannot_fill() -> None:
    blocked, stuck = os.pipe()
    writer = Writer()
    sink = writer.descriptor(stuck, "standard error")
    while sink.offer(b"noise\n" * 1000, 1000):
        pass
    assert sink.offer(b"the lease ran out\n", 1, important=True)
    assert not sink.offer(b"noise\n", 1)
    os.close(blocked)
    writer.close(0.0)
    os.close(stuck)


def test_two_sinks_on_one_pipe_do_not_tear_each_other_s_lines() -> None:
    read_end, write_end = os.pipe()
    other = os.dup(write_end)
    writer = Writer()
    for fd, letter in ((write_end, b"a"), (other, b"b")):
        for _ in range(50):
            writer.descriptor(fd, "shared").offer((letter * 700 + b"\n") * 20, 20)
    with os.fdopen(read_end, "rb") as pipe:
        lines = [pipe.readline() for _ in range(2000)]
    writer.close(60.0)
    os.close(write_end)
    os.close(other)
    assert sorted(set(lines)) == [b"a" * 700 + b"\n", b"b" * 700 + b"\n"]


def test_closing_the_writer_writes_what_is_queued_and_waits_for_nobody_for_ever(tmp_path: Path) -> None:
    writer = Writer()
    for number in range(1000):
        writer.file(tmp_path / "log", 0, 0).offer(b"%d\n" % number, 1)
    writer.close(60.0)
    assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % number for number in range(1000))

    blocked, stuck = os.pipe()
    writer = Writer()
    while writer.descriptor(stuck, "standard output").offer(b"z" * 1000 + b"\n", 1):
        pass
    began = time.monotonic()
    writer.close(0.1)
    assert time.monotonic() - began < 10  # a bound, not a measurement: without it this hangs for ever
    os.close(blocked)
    os.close(stuck)
