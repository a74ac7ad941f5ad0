"""Claims about streams of lines: the real socket and highlanderctl, before a node in memory."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from highlanderd.core.status import OutputLine
from highlanderd.errors import TimedOut
from highlanderd.listeners import streams
from tests.support.memory_node import MemoryNode, ctl, leading, program, run, serving

T = 1767323045.678


def lines(*texts: str, first: int = 1) -> list[OutputLine]:
    return [OutputLine(first + number, T + number, "stdout", text) for number, text in enumerate(texts)]


def node_with(**written: list[OutputLine]) -> MemoryNode:
    node = MemoryNode(*(leading(name) for name in written), program("relay", leader="web-2", epoch=3))
    node.written = dict(written)
    return node


@asynccontextmanager
async def streaming(path: Path, resource: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Ask for a stream as curl does, and read its head."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {resource} HTTP/1.0\r\n\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.close()


async def objects(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, object]]:
    await reader.readuntil(b"\r\n\r\n")
    while line := await reader.readline():
        if line.strip():
            yield json.loads(line)


def test_the_last_lines_come_by_time_with_the_program_before_each_where_there_are_several(tmp_path: Path) -> None:
    node = node_with(beat=lines("one", "two", "\x1b[2Jthree"), web=lines("w", first=7))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "logs", "beat", "-n", "2")
            assert (asked.code, asked.err) == (0, "")
            assert asked.out == "2026-01-02T03:04:06.678Z two\n2026-01-02T03:04:07.678Z \\x1b[2Jthree\n"
            asked = await ctl(path, "tail", "beat", "web", "-n", "all")
            assert [line.split(" ", 1)[1] for line in asked.out.splitlines()][:3] == [
                "beat: one",
                "web: w",
                "beat: two",
            ]
            for names in ((), ("all",), ("*e*", "web")):
                assert len((await ctl(path, "logs", *names)).out.splitlines()) == 4
            [first, *_] = map(json.loads, (await ctl(path, "logs", "beat", "--json")).out.splitlines())
            assert first == {"time": "2026-01-02T03:04:05.678Z", "program": "beat", "stream": "stdout", "line": "one"}
            tsv = (await ctl(path, "logs", "beat", "-o", "tsv", "-n", "1")).out
            assert tsv == "2026-01-02T03:04:07.678Z\tbeat\tstdout\t\\x1b[2Jthree\n"

    run(main)


def test_a_program_led_elsewhere_sends_its_lines_and_is_followed_only_there(tmp_path: Path) -> None:
    node = node_with(beat=lines("one"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert (await ctl(path, "logs", "relay", "-n", "5")).out == "2026-01-02T03:04:05.678Z from web-2\n"
            assert node.orders == [("logs", "web-2", "relay", 5)]
            asked = await ctl(path, "logs", "-f", "relay")
            assert (asked.code, asked.out) == (3, "")
            assert "relay is led by web-2: follow its lines there" in asked.err
            node.refusal = TimedOut("web-2 has not taken the order to logs relay within 5 s")
            assert (await ctl(path, "logs", "relay")).code == 7
            assert (await ctl(path, "logs", "nobody")).code == 4
            assert (await ctl(path, "logs", "beat", "-n", "201")).code == 2
            for query in ("n=0", "n=x", "follow=perhaps"):
                async with streaming(path, f"/v1/programs/beat/logs?{query}") as (reader, _):
                    assert (await reader.readline()).split()[1] == b"400"

    run(main)


def test_a_follower_gets_each_line_and_is_told_how_many_were_not_kept(tmp_path: Path) -> None:
    node = node_with(beat=lines("one"))

    async def main() -> None:
        async with (
            serving(node, tmp_path) as path,
            streaming(path, "/v1/programs/beat/logs?follow=true") as (reader, _),
        ):
            found = objects(reader)
            assert (await anext(found))["line"] == "one"
            node.written["beat"] = lines("one", "two")
            assert (await anext(found))["line"] == "two"
            node.written["beat"] = lines("nine", "ten", first=9)
            assert await anext(found) == {
                "time": "2026-01-02T03:04:05.678Z",
                "program": "beat",
                "stream": None,
                "line": None,
                "missed": 6,
            }
            assert [(await anext(found))["line"], (await anext(found))["line"]] == ["nine", "ten"]
            node.written["beat"] = lines("anew")  # as after another configuration
            assert (await anext(found))["line"] == "anew"

    run(main)


def test_a_follower_on_the_command_line_ends_with_ctrl_c_and_says_what_it_missed(tmp_path: Path) -> None:
    node = node_with(beat=lines("one"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            following = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "highlanderd.ctl", "--socket", str(path), "tail", "-f", "beat"),
                cwd=Path(__file__).parents[2],
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert following.stdout is not None
            assert (await following.stdout.readline()).endswith(b" one\n")
            node.written["beat"] = lines("nine", first=9)
            assert (await following.stdout.readline()).endswith(b" nine\n")
            following.send_signal(signal.SIGINT)
            _, err = await asyncio.wait_for(following.communicate(), 60)
            assert (following.returncode, err) == (0, b"highlanderctl: beat: 7 lines came too fast to be shown\n")

    run(main)


def test_a_client_that_takes_nothing_loses_its_place_and_queues_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "TAKEN_WITHIN", 1.0)
    monkeypatch.setattr(streams, "MOST", 1)
    node = node_with(beat=[])

    async def flood() -> None:
        newest = 0
        while True:
            newest += 200
            node.written["beat"] = lines(*["x" * 1000] * 200, first=newest - 199)
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            with socket.socket(socket.AF_UNIX) as slow:
                slow.connect(str(path))
                slow.send(b"GET /v1/logs?follow=true HTTP/1.0\r\n\r\n")
                async with asyncio.timeout(60):
                    while not (await ctl(path, "logs", "beat")).code:  # until the slow one has the only place
                        pass
                    flooding = asyncio.create_task(flood())
                    while (await ctl(path, "logs", "beat")).code:
                        pass
                flooding.cancel()

    run(main)


def test_streams_are_bounded_and_free_their_place_when_the_client_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MOST", 1)
    node = node_with(beat=lines("one"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            async with streaming(path, "/v1/logs?follow=true") as (reader, _):
                assert (await anext(objects(reader)))["line"] == "one"
                asked = await ctl(path, "logs", "-f", "beat")
                assert (asked.code, "follow logs or events" in asked.err) == (1, True)
            async with asyncio.timeout(60):
                while (await ctl(path, "logs", "beat")).code:
                    pass

    run(main)
