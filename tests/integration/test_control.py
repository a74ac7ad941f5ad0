"""Claims about the control socket: what it answers, whom it lets in, and that no client can harm the daemon."""

from __future__ import annotations

import asyncio
import fcntl
import grp
import json
import os
import pwd
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from highlanderd.errors import ConfigurationError, HighlanderError, TimedOut
from highlanderd.listeners import leases
from highlanderd.listeners.control import serve_control
from highlanderd.listeners.sockets import Peer
from tests.support.memory_node import LOOPS, Ended, MemoryNode, ended, leading, program, run, serving, until

NOBODY = 65534


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[ClientSession]:
    async with ClientSession("http://localhost", connector=UnixConnector(str(path), limit=0)) as session:
        yield session


async def get(path: Path, resource: str) -> tuple[int, Any]:
    async with client(path) as session, session.get(resource) as response:
        return response.status, await response.json()


async def post(path: Path, resource: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
    async with client(path) as session, session.post(resource, data=data) as response:
        return response.status, await response.json()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


# ------------------------------------------------------------------------------------------------------------ answers


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


def test_a_start_is_not_done_before_there_is_a_child(tmp_path: Path) -> None:
    node = MemoryNode(program("beat", "stopped"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/programs/beat/start", {"wait": True}))
            await until(lambda: bool(node.orders))
            node.become("beat", leading("beat", pid=None))
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
def test_an_order_for_a_leader_is_refused_elsewhere(tmp_path: Path, verb: str) -> None:
    async def main() -> None:
        async with serving(MemoryNode(program("beat", leader="web-2")), tmp_path) as path:
            code, answer = await post(path, f"/v1/programs/beat/{verb}")
        assert (code, answer["error"]["code"]) == (409, "not_leading")
        assert "web-2" in answer["error"]["message"]

    run(main)


def test_the_whole_node_s_orders(tmp_path: Path) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            assert await post(path, "/v1/reload", {"dry_run": True}) == (
                200,
                {"dry_run": True, "changes": ["beat: changed (umask): drains and starts again"]},
            )
            assert (await post(path, "/v1/reload"))[1]["dry_run"] is False
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
    assert node.orders == [("reload", True), ("reload", False), ("lease", 20.0, False), ("migrate",), ("shutdown",)]


# ------------------------------------------------------------------------------------------------- lengths of leases

LENGTHS: dict[str, object] = {
    "lease": 10.0,
    "in_force": 10.0,
    "ceiling": 10.0,
    "maintenance": None,
    "replaced_within": 13.0,
    "pending": [],
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
                await node.maintenance(300.0, reason="", author="somebody else")
            code, answer = await asked
        assert (code, answer["error"]["code"]) == (409, "failed")
        assert "another order has replaced it" in answer["error"]["message"]

    run(main)


def test_a_lease_that_changes_is_waited_for_whatever_maintenance_does(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            await node.maintenance(60.0, reason="", author="somebody else")
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


# --------------------------------------------------------------------------------------------------------- bad clients


@pytest.mark.parametrize(
    ("resource", "body"),
    [
        ("/v1/programs/beat/stop", b"{"),
        ("/v1/programs/beat/stop", b"\xff\xfe"),
        ("/v1/programs/beat/stop", b"[" * 50_000),
        ("/v1/programs/beat/stop", []),
        ("/v1/programs/beat/stop", {"to": "web-2"}),
        ("/v1/programs/beat/stop", {"wait": 1}),
        ("/v1/programs/beat/stop", {"timeout": True}),
        ("/v1/programs/beat/stop", {"timeout": -1}),
        ("/v1/programs/beat/stop", b'{"timeout": NaN}'),
        ("/v1/programs/beat/release", {"to": ""}),
        ("/v1/programs/beat/release", {"to": "caf\udce9"}),
        ("/v1/programs/beat/release", {"to": "x y"}),
        ("/v1/programs/beat/release", {"for": "30s"}),
        ("/v1/ledger/lease", {}),
        ("/v1/ledger/lease", {"lease": "10s"}),
        ("/v1/ledger/lease", {"lease": -1}),
        ("/v1/ledger/lease", b'{"lease": Infinity}'),
        ("/v1/ledger/lease", {"lease": True}),
        ("/v1/ledger/lease", {"lease": 10, "force": 1}),
        ("/v1/ledger/lease", {"lease": 10, "reason": "slow network"}),
        ("/v1/ledger/migrate", {"force": True}),
        ("/v1/maintenance", {}),
        ("/v1/maintenance", {"for": 60}),
        ("/v1/maintenance", {"on": 1, "for": 60}),
        ("/v1/maintenance", {"on": True}),
        ("/v1/maintenance", {"on": True, "for": 0}),
        ("/v1/maintenance", {"on": True, "for": -60}),
        ("/v1/maintenance", {"on": True, "for": 86_401}),
        ("/v1/maintenance", {"on": True, "for": "60s"}),
        ("/v1/maintenance", {"on": True, "for": None}),
        ("/v1/maintenance", b'{"on": true, "for": NaN}'),
        ("/v1/maintenance", {"on": True, "for": 10**400}),
        ("/v1/maintenance", {"on": True, "for": 60, "reason": None}),
        ("/v1/maintenance", {"on": True, "for": 60, "reason": "x" * 501}),
        ("/v1/maintenance", {"on": True, "for": 60, "reason": "one\ntwo"}),
        ("/v1/maintenance", {"on": True, "for": 60, "reason": "\x1b[2J"}),
        ("/v1/maintenance", {"on": True, "for": 60, "reason": "\x00"}),
        ("/v1/maintenance", {"on": True, "for": 60, "reason": "\u202eright to left"}),
        ("/v1/maintenance", {"on": True, "for": 60, "reason": "\udc80"}),
        ("/v1/maintenance", {"on": True, "for": 60, "author": "root"}),
        ("/v1/maintenance", {"on": True, "for": 60, "force": "yes"}),
        ("/v1/maintenance", {"on": False, "for": 60}),
        ("/v1/maintenance", {"on": False, "reason": "done"}),
        ("/v1/maintenance", {"on": False, "force": True}),
        ("/v1/reload", {"dryrun": True}),
        ("/v1/shutdown", {"now": True}),
    ],
)
def test_a_body_that_makes_no_sense_orders_nothing(tmp_path: Path, resource: str, body: object) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await post(path, resource, body)
        assert (code, answer["error"]["code"]) == (400, "bad_request")
        assert answer["error"]["message"]

    run(main)
    assert node.orders == []


def test_unknown_resources_and_methods_are_errors_of_the_same_form(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(program("beat")), tmp_path) as path:
            assert (await get(path, "/v2/status"))[0] == 404
            assert (await get(path, "/v1/reload"))[0] == 405
            assert (await post(path, "/v1/programs/beat/explode"))[0] == 404
            code, answer = await post(path, "/v1/reload", b" " * 100_000)
            assert (code, answer["error"]["code"]) == (413, "bad_request")

    run(main)


def test_our_own_bug_is_an_answer_and_a_loud_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = MemoryNode(program("beat"))
    node.trouble = RuntimeError("a bug")

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            code, answer = await get(path, "/v1/status")
        assert (code, answer["error"]["code"]) == (500, "internal")

    run(main)
    assert "RuntimeError: a bug" in caplog.text


@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02 nonsense \xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_garbage_is_refused_and_the_next_client_served(
    tmp_path: Path,
    sent: bytes,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = MemoryNode(program("beat"))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(sent)
            answer = await asyncio.wait_for(reader.readline(), 60)
            assert answer.split()[1] == b"400"
            await hang_up(writer)
            assert (await get(path, "/v1/status"))[0] == 200

    run(main, loop_factory)
    assert node.orders == []
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_half_requests_hold_up_nobody_and_are_not_orders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = MemoryNode(program("beat"))
    halves = [
        b"",
        b"POST /v1/shut",
        b"POST /v1/shutdown HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
    ]

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            writers = []
            for half in halves:
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(half)
                writers.append(writer)
            assert (await get(path, "/v1/status"))[0] == 200
            for writer in reversed(writers):  # the last one is gone in the middle of its body
                await hang_up(writer)
                assert (await get(path, "/v1/status"))[0] == 200

    run(main)
    assert node.orders == []
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_two_hundred_clients_at_once(tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    node = MemoryNode(*(leading(f"program-{number}") for number in range(100)))

    async def main() -> None:
        async with serving(node, tmp_path) as path, client(path) as session:

            async def one(number: int) -> int:
                if number % 2:
                    resource, body = f"/v1/programs/program-{number // 2}/stop", '{"wait": true}'
                    async with session.post(resource, data=body) as response:
                        return response.status
                async with session.get("/v1/status") as response:
                    assert len((await response.json())["programs"]) == 100
                    return response.status

            codes = await asyncio.gather(*(one(number) for number in range(200)))
        assert codes == [200] * 200

    run(main, loop_factory)
    assert sorted(str(order[1]) for order in node.orders) == sorted(f"program-{number}" for number in range(100))


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_clients_that_never_read_hold_up_nobody_and_take_bounded_memory(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    node = MemoryNode(*(leading(f"program-{number}", reason="x" * 500) for number in range(500)))

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            deaf = []
            for _ in range(20):
                one = socket.socket(socket.AF_UNIX)
                one.setblocking(False)
                await asyncio.get_running_loop().sock_connect(one, str(path))
                # Many requests, none of whose answers is ever read: the later ones must not be answered into memory
                await asyncio.get_running_loop().sock_sendall(one, b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
                deaf.append(one)
            await until(lambda: node.surveys >= 20)
            for _ in range(20):
                assert (await get(path, "/v1/status"))[0] == 200
            assert node.surveys <= 20 + 20 + 5  # one answer each, and those that were read
            for one in deaf:
                one.close()

    run(main, loop_factory)


def test_the_end_waits_for_no_client(tmp_path: Path) -> None:
    node = MemoryNode(leading("beat"), obedient=False)

    async def main() -> None:
        async with serving(node, tmp_path) as path:
            asked = asyncio.create_task(post(path, "/v1/programs/beat/stop", {"wait": True, "timeout": 3600}))
            await until(lambda: bool(node.orders))
        with pytest.raises(Exception, match="disconnect"):
            await asked

    run(main)
    assert not (tmp_path / "control.sock").exists()


# ---------------------------------------------------------------------------------------------------------- the socket


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        async with serving(MemoryNode(program("beat")), tmp_path):
            assert (await get(path, "/v1/status"))[0] == 200

    run(main)
    assert not path.exists()


def test_a_live_owner_keeps_its_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(program("beat")), tmp_path) as path:
            with pytest.raises(HighlanderError, match="already answers"):
                await serve_control(MemoryNode(), path, 0o660, None)
            assert (await get(path, "/v1/status"))[1]["programs"][0]["name"] == "beat"

    run(main)


def test_a_live_owner_that_is_frozen_with_a_full_backlog_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as frozen, socket.socket(socket.AF_UNIX) as first:
            frozen.bind(str(path))
            frozen.listen(0)
            first.connect(str(path))
            with pytest.raises(HighlanderError, match="already answers"):
                await serve_control(MemoryNode(), path, 0o660, None)

    run(main)


def test_of_many_that_start_at_once_exactly_one_gets_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def main() -> None:
        tries = await asyncio.gather(
            *(serve_control(MemoryNode(), path, 0o660, None) for _ in range(10)), return_exceptions=True
        )
        closers = [one for one in tries if not isinstance(one, BaseException)]
        assert len(closers) == 1
        assert all(isinstance(one, HighlanderError) for one in tries if isinstance(one, BaseException))
        assert (await get(path, "/v1/status"))[0] == 200
        await closers[0]()

    run(main)


def test_nobody_binds_while_another_process_does(tmp_path: Path) -> None:
    async def main() -> None:
        directory = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)
        started = asyncio.create_task(serve_control(MemoryNode(), tmp_path / "control.sock", 0o660, None))
        done, _ = await asyncio.wait([started], timeout=0.2)
        assert not done
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - the pathlib call is refused in async functions
        os.close(directory)
        await (await started)()

    run(main)


def test_a_later_daemon_s_socket_is_not_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        async with serving(MemoryNode(), tmp_path):
            path.unlink()
            later = await serve_control(MemoryNode(program("beat")), path, 0o660, None)
        assert (await get(path, "/v1/status"))[0] == 200
        await later()

    run(main)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("precious")

    async def main() -> None:
        with pytest.raises(HighlanderError, match="is not a socket"):
            await serve_control(MemoryNode(), tmp_path / "control.sock", 0o660, None)

    run(main)
    assert (tmp_path / "control.sock").read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "group", "cure"),
    [
        ("missing/control.sock", None, "create it"),
        ("x" * 120, None, "shorter"),
        ("control.sock", "no-such-group-here", "groupadd"),
    ],
)
def test_a_socket_that_cannot_be_made_is_refused_with_the_cure(
    tmp_path: Path, path: str, group: str | None, cure: str
) -> None:
    async def main() -> None:
        with pytest.raises(HighlanderError, match=cure):
            await serve_control(MemoryNode(), tmp_path / path, 0o660, group)

    run(main)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_socket_has_the_right_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    async def main() -> None:
        async with serving(MemoryNode(), tmp_path, mode=0o620) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o620

    before = os.umask(umask)
    try:
        run(main)
    finally:
        os.umask(before)


# ------------------------------------------------------------------------------------------------------ who gets in

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def some_group() -> str:
    return next(group.gr_name for group in grp.getgrall() if group.gr_gid not in (0, NOBODY))


async def ctl_as(uid: int, groups: list[int], path: Path, *arguments: str) -> Ended:
    """Run highlanderctl as another user. Python is imported as root: its files may be hidden from that user."""
    program = (
        "import grp, os, sys; from highlanderd.ctl import main, parser; parser(); "
        f"os.setgroups({groups}); os.setgid({NOBODY}); os.setuid({uid}); sys.exit(main(sys.argv[1:]))"
    )
    return await ended([sys.executable, "-c", program, *arguments], HIGHLANDER_SOCKET=str(path))


@needs_root
@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_stranger_is_turned_away_although_the_mode_lets_it_connect(
    open_dir: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with serving(node, open_dir, mode=0o666, group=some_group()) as path:
            asked = await ctl_as(NOBODY, [], path, "status")
            assert (asked.code, asked.out) == (6, "")
            assert f"user {NOBODY} may not command this daemon" in asked.err
            assert some_group() in asked.err
            assert (await ctl_as(NOBODY, [], path, "stop", "beat")).code == 6

    run(main, loop_factory)
    assert node.orders == []


@needs_root
@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_member_of_the_group_may_command(
    open_dir: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    node = MemoryNode(leading("beat"))
    group = some_group()

    async def main() -> None:
        async with serving(node, open_dir, group=group) as path:
            asked = await ctl_as(NOBODY, [grp.getgrnam(group).gr_gid], path, "stop", "beat")
            assert (asked.code, asked.out) == (0, "beat: stopped\n")

    with caplog.at_level("INFO"):
        run(main, loop_factory)
    assert node.orders == [("stop", "beat")]
    assert f"ordered by uid {NOBODY}" in caplog.text


@needs_root
def test_who_cannot_even_connect_is_told_which_group_can(open_dir: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(leading("beat")), open_dir, group=some_group()) as path:
            asked = await ctl_as(NOBODY, [], path, "status")
            assert asked.code == 6
            assert "permission denied" in asked.err
            assert repr(some_group()) in asked.err
            os.chmod(open_dir, 0o700)  # noqa: PTH101 - the pathlib call is refused in async functions
            asked = await ctl_as(NOBODY, [], path, "status")
            assert asked.code == 6
            assert "'root'" in asked.err

    run(main)
