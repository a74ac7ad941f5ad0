"""Claims about maintenance and changed leases over the control socket: when an order is done, and whom it waits for."""

from __future__ import annotations

import asyncio
import os
import pwd
from pathlib import Path

import pytest

from highlanderd.core.states import Author
from highlanderd.errors import HighlanderError, TimedOut
from highlanderd.listeners import leases
from highlanderd.listeners.peers import Peer
from highlanderd.structs import replace
from tests.support.control import get, post
from tests.support.memory_node import MemoryNode, leading, run, serving
from tests.support.wait import until

LENGTHS: dict[str, object] = {
    "lease": 10.0,
    "in_force": 10.0,
    "ceiling": 10.0,
    "maintenance": None,
    "replaced_within": 13.0,
    "pending": [],
    "warnings": [],
}


def ourselves() -> str:
    return f"uid {os.getuid()} ({pwd.getpwuid(os.getuid()).pw_name}) on node web-1"


def test_maintenance_is_ordered_under_the_name_that_the_kernel_knows(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    under_way = {
        "outage": 60.0,
        "lease": 90.0,
        "since": "2026-01-02T03:04:05.678Z",
        "until": "2026-01-02T03:05:05.678Z",
        "author": ourselves(),
        "reason": "PostgreSQL 18.5 \u2013 \u00fc",
    }

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert await get(path, "/v1/maintenance") == (200, LENGTHS)
            assert (await get(path, "/v1/status"))[1]["maintenance"] is None
            body = {"on": True, "for": 60, "reason": under_way["reason"], "force": True}
            longer = {**LENGTHS, "in_force": 90.0, "ceiling": 90.0, "maintenance": under_way, "replaced_within": 97.0}
            assert await post(path, "/v1/maintenance", body) == (200, {**longer, "pending": ["beat on web-1"]})
            code, status = await get(path, "/v1/status")
            assert (code, status["maintenance"]) == (200, under_way)
            shown = {name: status["postgres"][name] for name in ("lease", "lease_in_force", "ceiling", "schema")}
            assert shown == {"lease": 10.0, "lease_in_force": 90.0, "ceiling": 90.0, "schema": 2}
            code, answer = await post(path, "/v1/maintenance", {"on": False})
            assert (code, answer["maintenance"], answer["in_force"]) == (200, None, 10.0)

    run(main)
    assert node.orders == [
        ("maintenance", 60.0, under_way["reason"], ourselves(), True),
        ("maintenance", None, "", ourselves(), False),
    ]


CHANGES = [
    pytest.param("/v1/maintenance", {"on": True, "for": 60}, id="maintenance on"),
    pytest.param("/v1/maintenance", {"on": False}, id="maintenance off"),
    pytest.param("/v1/ledger/lease", {"lease": 20}, id="set-lease"),
]


@pytest.mark.parametrize(("resource", "body"), CHANGES)
def test_a_change_of_leases_that_waits_is_done_when_every_leader_uses_it(
    tmp_path: Path, resource: str, body: dict[str, object]
) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, resource, {**body, "wait": True}))
            await until(lambda: node.looks > 1)
            assert not asked.done()
            node.lengths = replace(node.lengths, pending=())
            code, answer = await asked
        assert (code, answer["pending"]) == (200, [])

    run(main)
    assert len(node.orders) == 1


@pytest.mark.parametrize(("resource", "body"), CHANGES)
def test_leaders_that_do_not_follow_in_time_are_named_five_at_most(
    tmp_path: Path, resource: str, body: dict[str, object]
) -> None:
    node = MemoryNode(*(leading(f"web-{number}") for number in range(8)), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, resource, {**body, "wait": True, "timeout": 0.05})
        assert (code, answer["error"]["code"]) == (504, "timed_out")
        named = ", ".join(f"web-{number} on web-1" for number in range(5))
        assert f"yet: {named} and 3 more. The order stands" in answer["error"]["message"]

    run(main)
    assert len(node.orders) == 1


def test_a_wait_goes_on_while_postgresql_is_away(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.unanswered = HighlanderError("PostgreSQL does not answer: the connection was lost")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/ledger/lease", {"lease": 20, "wait": True}))
            await until(lambda: node.looks > 2)
            assert not asked.done()
            node.unanswered = None
            assert (await asked)[0] == 200

    run(main)


def test_what_cannot_be_known_in_time_is_told_with_why(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"))
    node.unanswered = HighlanderError("PostgreSQL does not answer: the connection was lost")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, "/v1/maintenance", {"on": True, "for": 60, "wait": True, "timeout": 0.3})
        assert (code, answer["error"]["code"]) == (504, "timed_out")
        assert "PostgreSQL does not answer: the connection was lost. The order stands" in answer["error"]["message"]

    run(main)


@pytest.mark.parametrize(("resource", "body"), CHANGES)
def test_an_order_that_another_one_replaces_ends_the_wait_for_it(
    tmp_path: Path, resource: str, body: dict[str, object]
) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, resource, {**body, "wait": True}))
            await until(lambda: node.looks > 0)
            if "lease" in body:
                await node.set_lease(5.0)
            else:
                await node.maintenance(300.0, Author("somebody else", ""))
            code, answer = await asked
        assert (code, answer["error"]["code"]) == (409, "failed")
        assert "another order has replaced it" in answer["error"]["message"]

    run(main)


def test_a_lease_that_changes_is_waited_for_whatever_maintenance_does(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            await node.maintenance(60.0, Author("somebody else", ""))
            asked = asyncio.create_task(post(path, "/v1/ledger/lease", {"lease": 20, "wait": True}))
            await until(lambda: node.looks > 1)
            node.lengths = replace(node.lengths, maintenance=None, pending=())
            assert (await asked)[0] == 200

    run(main)


@pytest.mark.parametrize(
    ("resource", "body"), [CHANGES[0].values, CHANGES[2].values], ids=["maintenance on", "set-lease"]
)
def test_a_longer_lease_without_evidence_needs_force(tmp_path: Path, resource: str, body: dict[str, object]) -> None:
    node = MemoryNode()
    node.lacking = "the longer lease is not on the disk of standby1"

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, resource, body)
            assert (code, answer["error"]["code"]) == (409, "needs_force")
            assert answer["error"]["message"] == node.lacking
            assert node.orders == []
            assert (await post(path, resource, {**body, "force": True}))[0] == 200

    run(main)
    assert len(node.orders) == 1


@pytest.mark.parametrize(("resource", "body"), [*CHANGES, pytest.param("/v1/ledger/migrate", {}, id="migrate")])
def test_what_the_node_refuses_is_its_own_sentence(tmp_path: Path, resource: str, body: dict[str, object]) -> None:
    node = MemoryNode()
    node.refusal = HighlanderError("the ledger has not settled on this server yet; try again in 10.5s")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, resource, body)
        assert (code, answer["error"]) == (409, {"code": "failed", "message": str(node.refusal)})

    run(main)
    assert node.orders == []


def test_nobody_looks_on_for_a_client_that_is_gone() -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        ordered = await node.set_lease(20.0)
        with pytest.raises(TimedOut):
            await leases.in_force(node, ordered, lambda report: report.lease, 3600.0, lambda: node.looks == 2)

    run(main)
    assert node.looks == 2


def test_a_user_without_a_name_is_told_by_number() -> None:
    async def main() -> None:
        assert await leases.author(Peer(1, 3_999_999_999, frozenset()), "a") == "uid 3999999999 on node a"

    run(main)


def test_lengths_that_cannot_be_read_are_an_error_of_the_same_form(tmp_path: Path) -> None:
    node = MemoryNode()
    node.unanswered = HighlanderError("the ledger cannot be read at present; try again in a moment")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await get(path, "/v1/maintenance")
        assert (code, answer["error"]["code"]) == (409, "failed")

    run(main)
