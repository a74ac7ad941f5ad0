"""Claims about ``highlanderctl top`` in a real terminal of 80 columns and 24 lines."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from highlanderd.core.occurrences import Occurrence
from tests.support.memory_node import MemoryNode, ctl, leading, program, run, serving

HAPPENED = Occurrence("2026-01-02T03:04:06.000Z", "backoff", "web-1", "relay", reason="exited with status 1")


class Screen:
    """A terminal of tmux, with a server of its own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def tmux(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("tmux", "-S", str(self._socket), "-f", "/dev/null", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        return out.decode()

    async def shows(self, fact: Callable[[list[str]], object]) -> list[str]:
        """Wait until the screen is as wanted, and return its lines."""
        async with asyncio.timeout(60):
            while True:
                lines = (await self.tmux("capture-pane", "-p")).splitlines()
                if fact(lines):
                    return lines
                await asyncio.sleep(0.05)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_programs_stand_above_events_below_and_q_gives_the_terminal_back(tmp_path: Path) -> None:
    reason = "exited with status 1; tried again when its backoff is over"
    node = MemoryNode(leading("beat"), program("relay", "backoff", reason=reason, failures=3))
    screen = Screen(tmp_path / "tmux")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            place = Path(__file__).parents[2]
            shell = f"cd {place}; {sys.executable} -m highlanderd.ctl --socket {path} top; echo left with $?; exec cat"
            await screen.tmux("new-session", "-d", "-x", "80", "-y", "24", shell)
            try:
                lines = await screen.shows(lambda found: any(line.startswith("EVENTS") for line in found))
                assert lines[0] == "web-1: 2 programs: 1 backoff, 1 leading; q leaves"
                assert lines[1].split() == ["PROGRAM", "STATE", "SINCE", "LEADER", "PID", "REASON"]
                assert [line.split()[0] for line in lines if line.startswith(("relay", "beat"))] == ["relay", "beat"]
                assert reason in " ".join(" ".join(lines).split())
                node.seen.append(HAPPENED)
                await screen.shows(lambda found: any("relay  backoff: exited with status 1" in line for line in found))
                node.become("relay", leading("relay"))
                await screen.shows(lambda found: found[0] == "web-1: 2 programs: 2 leading; q leaves")
                await screen.tmux("resize-window", "-x", "60", "-y", "20")
                await screen.shows(lambda found: len(found) == 20 and found[1].startswith("PROGRAM"))
                await screen.tmux("send-keys", "xq")
                await screen.shows(lambda found: "left with 0" in found)
            finally:
                await screen.tmux("kill-server")

    run(main)


def test_without_a_terminal_or_a_daemon_it_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), tmp_path) as path:
            asked = await ctl(path, "top")
            assert (asked.code, asked.out) == (1, "")
            assert "top needs a terminal" in asked.err

    run(main)
