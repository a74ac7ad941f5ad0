"""Claims about the control socket: what it answers, and what becomes of orders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from highlanderd.errors import ConfigurationError
from tests.support.control import get, post
from tests.support.memory_node import LOOPS, MemoryNode, leading, program, run, serving
from tests.support.wait import until


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_status_has_the_fields_that_people_script_against(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    node = MemoryNode(leading("beat"), program("relay", leader="web-2", epoch=3))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await get(path, "/v1/status")
        assert code == 200
        assert set(answer) >= {"node", "instance", "version", "postgres", "programs"}
        fields = "name state want reason since leader epoch lock_id pid ready failures restarts lease_remaining"
        assert [" ".join(list(one)[:13]) for one in answer["programs"]] == [fields, fields]
        assert answer["programs"][0]["leader"] == "web-1"
        assert answer["programs"][0]["lock_id"] == 8735414648771611572
        assert node.surveys == 1

    run(main, loop_factory)


def test_a_status_can_wait_for_the_next_change(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(get(path, "/v1/status?wait=30"))
            await until(lambda: bool(node._waiting))
            assert not asked.done()
            node.become("beat", leading("beat"))
            code, answer = await asked
            assert (code, answer["programs"][0]["state"]) == (200, "leading")
            assert (await get(path, "/v1/status?wait=0"))[0] == 200
            for wrong in ("nan", "-1", "soon", "1e9"):
                code, answer = await get(path, f"/v1/status?wait={wrong}")
                assert (code, answer["error"]["code"]) == (400, "bad_request")

    run(main)


def test_detail_tells_everything_about_one_program(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("web/1 ä")), tmp_path) as path:
            code, answer = await get(path, "/v1/programs/web%2F1%20%C3%A4")
            assert (code, answer["name"], answer["state"]) == (200, "web/1 ä", "leading")
            assert answer["processes"][1] == {"pid": 11, "parent": 10, "name": "worker", "state": ""}
            code, answer = await get(path, "/v1/programs/beta")
            assert (code, answer["error"]["code"]) == (404, "no_such_program")

    run(main)


@pytest.mark.parametrize(
    ("verb", "before", "body", "state"),
    [
        ("release", leading("beat"), {"to": "web-3", "for": 5}, "waiting"),
        ("start", program("beat", "stopped"), {}, "leading"),
        ("stop", leading("beat"), {}, "stopped"),
        ("stop", program("beat", "stopped"), {}, "stopped"),
        ("restart", leading("beat"), {}, "leading"),
    ],
)
def test_an_order_that_waits_answers_with_its_outcome(
    tmp_path: Path, verb: str, before: Any, body: dict[str, object], state: str
) -> None:
    node = MemoryNode(before)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, f"/v1/programs/beat/{verb}", {**body, "wait": True, "timeout": 60})
        assert (code, answer["program"]["state"]) == (200, state)
        assert len(node.orders) == 1

    run(main)
    if verb == "release":
        assert node.orders == [("release", "beat", "web-3", 5)]
    if verb == "restart":
        assert node.of("beat").epoch == 8


def test_an_order_without_wait_answers_at_once(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, "/v1/programs/beat/release")
        assert (code, answer["program"]["state"]) == (200, "leading")
        assert node.orders == [("release", "beat", None, 30.0)]

    run(main)


def test_a_start_is_done_when_another_node_leads(tmp_path: Path) -> None:
    node = MemoryNode(program("beat", "stopped"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/programs/beat/start", {"wait": True}))
            await until(lambda: bool(node.orders))
            node.become("beat", program("beat"))
            node.become("beat", program("beat", leader="web-2"))
            code, answer = await asked
        assert (code, answer["program"]["leader"]) == (200, "web-2")

    run(main)


def test_a_start_is_not_done_before_there_is_a_child_that_is_ready(tmp_path: Path) -> None:
    node = MemoryNode(program("beat", "stopped"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/programs/beat/start", {"wait": True}))
            await until(lambda: bool(node.orders))
            node.become("beat", leading("beat", ready=False))
            surveys = node.surveys
            await until(lambda: node.surveys > surveys)
            assert not asked.done()
            node.become("beat", leading("beat"))
            assert (await asked)[1]["program"]["pid"] == 4007

    run(main)


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_child_that_fails_fails_the_order(tmp_path: Path, verb: str) -> None:
    before = leading("beat", failures=2) if verb == "restart" else program("beat", "stopped", failures=2)
    node = MemoryNode(before, obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, f"/v1/programs/beat/{verb}", {"wait": True}))
            await until(lambda: bool(node.orders))
            node.become("beat", program("beat", "backoff", failures=3, reason="exited with code 1"))
            code, answer = await asked
        assert (code, answer["error"]["code"]) == (409, "failed")
        assert "exited with code 1" in answer["error"]["message"]

    run(main)


def test_what_does_not_happen_in_time_is_told_as_that(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat", reason="stopping"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, "/v1/programs/beat/stop", {"wait": True, "timeout": 0.05})
        assert (code, answer["error"]["code"]) == (504, "timed_out")
        assert answer["error"]["message"].startswith("beat is still leading after 0.05 s: stopping.")

    run(main)


def test_a_program_that_is_removed_ends_the_wait_for_it(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/programs/beat/stop", {"wait": True}))
            await until(lambda: bool(node.orders))
            node.become("beat", None)
            assert (await asked)[0] == 404

    run(main)


@pytest.mark.parametrize("verb", ["release", "restart"])
def test_an_order_for_a_leader_is_passed_on_to_it_and_refused_where_no_node_leads(tmp_path: Path, verb: str) -> None:
    node = MemoryNode(program("beat", leader="web-2"), program("bot"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, f"/v1/programs/beat/{verb}", {"wait": True, "reason": "new disk"})
            assert (code, answer["program"]["leader"]) == (200, "web-2")
            code, answer = await post(path, f"/v1/programs/bot/{verb}")
            assert (code, answer["error"]["code"]) == (409, "not_leading")

    run(main)
    assert node.orders == [("relay", "web-2", verb, "beat", {"wait": True, "reason": "new disk"})]
    assert node.authors[0].remark == "new disk"


def test_the_whole_node_s_orders(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert await post(path, "/v1/reload", {"dry_run": True}) == (
                200,
                {
                    "dry_run": True,
                    "changes": ["beat: changed (umask): drains and starts again here"],
                    "warnings": ["/etc/h.toml:7: no such command"],
                    "restarted": [],
                    "added": [],
                },
            )
            assert (await post(path, "/v1/reload", {"force": True}))[1]["dry_run"] is False
            assert await get(path, "/v1/ledger") == (200, {"schema": "highlander", "lease": 10.0, "settled": None})
            code, answer = await post(path, "/v1/ledger/lease", {"lease": 20})
            assert (code, answer["lease"], answer["in_force"], answer["pending"]) == (200, 20.0, 20.0, [])
            assert await post(path, "/v1/ledger/migrate") == (200, {"version": 2, "migrated": True, "waits_for": []})
            assert await post(path, "/v1/shutdown") == (200, {"node": "web-1"})
            node.trouble = ConfigurationError(("a.toml:3: program.beat: no command", "a.toml:9: unknown key"))
            code, answer = await post(path, "/v1/reload")
            assert (code, answer["error"]["code"]) == (422, "configuration_invalid")
            assert len(answer["error"]["message"].splitlines()) == 2

    run(main)
    reloads = [("reload", True, False), ("reload", False, True)]
    assert node.orders == [*reloads, ("lease", 20.0, False), ("migrate",), ("shutdown",)]
