"""Claims about clients of the control socket: none can harm the daemon, order by mistake, or hold up another one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.control import client, get, hang_up, post
from tests.support.memory_node import LOOPS, MemoryNode, leading, program, run, serving
from tests.support.wait import until


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
        ("/v1/ledger/lease", {"lease": 10, "reason": "slow\nnetwork"}),
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
        ("/v1/maintenance", {"on": False, "reason": "\x1b[2J"}),
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

    with caplog.at_level("INFO"):
        run(main)
    assert node.orders == []
    assert "ordered by" not in caplog.text, "nor does the log say that somebody has ordered something"
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
            await until(lambda: node.surveys >= 1)
            for _ in range(20):
                assert (await get(path, "/v1/status"))[0] == 200
            assert node.surveys <= 20 + 20 + 5  # one answer each at most, and those that were read
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
