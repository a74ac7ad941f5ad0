"""Claims about highlanderctl and what surrounds it: no daemon, a reader that leaves, a terminal, an interrupt."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.memory_node import MemoryNode, ctl, ended, leading, program, run, serving
from tests.support.wait import until


def test_without_a_daemon_the_socket_and_the_cure_are_told(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        asked = await ctl(path, "status")
        assert asked.code == 5
        assert f"{path} does not exist" in asked.err
        assert "systemctl start highlanderd" in asked.err
        assert "--dsn" not in asked.err
        for words in (("cluster",), ("history",), ("events",), ("explain", "beat")):
            assert "; or ask PostgreSQL itself with --dsn or --config\n" in (await ctl(path, *words)).err
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        asked = await ctl(path, "status")
        assert asked.code == 5
        assert f"{path} was left behind by one that has ended" in asked.err
        for answer in (b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{,}"):
            await something_else(path, answer)

    async def something_else(path: Path, answer: bytes) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        path.unlink(missing_ok=True)  # noqa: ASYNC240 - a test may wait for its own file system
        server = await asyncio.start_unix_server(talk, path)
        asked = await ctl(path, "status")
        assert asked.code == 5
        assert "Traceback" not in asked.err
        server.close()

    run(main)


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    node = MemoryNode(*(program(f"program-{number}") for number in range(2000)))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ended(
                ["/bin/sh", "-c", f"{sys.executable} -m highlanderd.ctl --socket {path} status | head -n 1"]
            )
            assert asked.out.startswith("PROGRAM")
            assert asked.err == ""

    run(main)


def test_watch_prints_again_at_every_change_until_it_is_interrupted(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            watch = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "highlanderd.ctl", "--socket", str(path), "status", "--watch", "--json"),
                cwd=Path(__file__).parent.parent.parent,
                stdout=asyncio.subprocess.PIPE,
            )
            assert watch.stdout is not None
            try:
                assert json.loads(await watch.stdout.readline())["programs"][0]["state"] == "waiting"
                node.become("beat", leading("beat"))
                async with asyncio.timeout(60):
                    while json.loads(await watch.stdout.readline())["programs"][0]["state"] != "leading":
                        pass
                watch.send_signal(signal.SIGINT)
                await watch.stdout.read()
                assert await watch.wait() == 0
            finally:
                if watch.returncode is None:
                    watch.kill()
                    await watch.wait()

    run(main)


async def on_a_terminal(path: Path, lines: int, columns: int, **environment: str) -> str:
    """Return what ``highlanderctl status`` writes to a terminal of that size."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (lines, columns))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "highlanderd.ctl", "--socket", str(path), "status"),
        env={"TERM": "xterm", "PYTHONPATH": str(Path(__file__).parent.parent.parent), **environment},
        stdout=theirs,
    )
    assert await asyncio.wait_for(process.wait(), 60) == 0
    os.close(theirs)
    seen = await asyncio.to_thread(_read_all, ours)
    os.close(ours)
    return seen.decode()


def _read_all(terminal: int) -> bytes:
    """Read what was written to a terminal that nobody has open any more: it comes piece by piece, then EIO."""
    seen = b""
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            seen += piece
    return seen


def test_a_terminal_that_does_not_know_its_size_gets_everything(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(program("beat", "backoff", reason="x" * 300)), tmp_path) as path:
            assert "x" * 300 in await on_a_terminal(path, 0, 0)

    run(main)


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_and_a_long_reason_stands_below_its_row(
    tmp_path: Path, environment: dict[str, str], coloured: bool
) -> None:
    node = MemoryNode(leading("beat"), program("relay", "backoff", reason="exited with code 1 " * 20))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            text = await on_a_terminal(path, 24, 80, **environment)
        assert ("\x1b[32mleading\x1b[0m" in text) == coloured
        assert ("\x1b" in text) == coloured
        lines = re.sub(r"\x1b\[\d*m", "", text).splitlines()
        assert max(len(line) for line in lines) <= 80
        assert lines[-1] == "2 programs: 1 backoff, 1 leading"
        assert " ".join(" ".join(lines[3:-1]).split()) == ("exited with code 1 " * 20).strip()

    run(main)


def test_status_keeps_to_the_node_s_snapshot_under_change(tmp_path: Path) -> None:
    """Watching clients come and go without leaving anything behind in the daemon."""
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            for _ in range(3):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(b"GET /v1/status?wait=3600 HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: bool(node._waiting))
                writer.close()
                await writer.wait_closed()
                node.become("beat", program("beat"))
            await until(lambda: not node._waiting)

    run(main)
