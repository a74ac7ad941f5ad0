"""Claims about the stream of events: the real socket and highlanderctl, before a node in memory."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from highlanderd.core.occurrences import Occurrence
from highlanderd.errors import HighlanderError
from highlanderd.structs import replace
from tests.integration.test_control_logs import objects, streaming
from tests.support.memory_node import MemoryNode, ctl, leading, program, run, serving

LED = Occurrence("2026-01-02T03:04:05.000Z", "leading", "web-2", "relay", 3)
BACKOFF = Occurrence("2026-01-02T03:04:06.000Z", "backoff", "web-1", "beat", reason="exited with status 1")
ENDED = Occurrence("2026-01-02T03:04:07.000Z", "ended", "web-2", "relay", 3, "exited", 1)


def test_without_f_the_last_events_of_cluster_and_node_are_told_in_order(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.remembered, node.seen = [LED, ENDED], [BACKOFF, ENDED]

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = await ctl(path, "events")
            assert (asked.code, asked.err) == (0, "")
            assert [line.split(" UTC  ")[1] for line in asked.out.splitlines()] == [
                "web-2  relay  leading, epoch 3",
                "web-1  beat  backoff: exited with status 1",
                "web-2  relay  ended, epoch 3: exited (1)",
            ]
            assert (await ctl(path, "events", "-n", "1")).out.splitlines() == asked.out.splitlines()[-1:]
            found = [json.loads(line) for line in (await ctl(path, "events", "--json")).out.splitlines()]
            assert [one["event"] for one in found] == ["leading", "backoff", "ended"]
            assert (await ctl(path, "events", "-o", "tsv")).out.splitlines()[0].split("\t")[:2] == ["TIME", "EVENT"]
            node.unanswered = HighlanderError("PostgreSQL does not answer")
            assert len((await ctl(path, "events")).out.splitlines()) == 2  # what this node has seen
            assert (await ctl(path, "events", "-f", "--dsn", "host=x")).code == 2

    run(main)


def test_a_follower_gets_a_snapshot_and_then_each_event_once(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2", epoch=3))
    node.remembered = [LED]

    async def main() -> None:
        async with (
            serving(node, tmp_path) as path,
            streaming(path, "/v1/events?follow=true") as (reader, _),
        ):
            found = objects(reader)
            first, second = await anext(found), await anext(found)
            assert [(one["event"], one["program"], one["node"]) for one in (first, second)] == [
                ("snapshot", "beat", "web-1"),
                ("snapshot", "relay", "web-2"),
            ]
            node.seen = [BACKOFF]
            assert (await anext(found))["event"] == "backoff"
            node.remembered = [LED, ENDED]
            assert await anext(found) == {**(await anext_of(path)), "event": "ended"}
            node.unanswered = HighlanderError("PostgreSQL does not answer")
            node.seen = [BACKOFF, Occurrence("2026-01-02T03:04:08.000Z", "alarm", "web-1", reason="look")]
            assert (await anext(found))["reason"] == "look"  # what this node sees needs no PostgreSQL

    async def anext_of(path: Path) -> dict[str, object]:
        """Return the newest event as it is told without ``follow``."""
        return dict(json.loads((await ctl(path, "events", "--json")).out.splitlines()[-1]))

    run(main)


def test_no_snapshot_begins_with_what_happens(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            following = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "highlanderd.ctl", "--socket", str(path), "events", "-f", "--no-snapshot"),
                cwd=Path(__file__).parents[2],
                stdout=asyncio.subprocess.PIPE,
            )
            assert following.stdout is not None
            told = asyncio.ensure_future(following.stdout.readline())
            while not told.done():
                node.seen.append(replace(BACKOFF, program=f"p{len(node.seen)}"))
                await asyncio.sleep(0.05)
            assert b"backoff" in await told
            following.kill()
            await following.wait()

    run(main)
