"""Claims about the TCP listener: what scrapers and load balancers get, and that strangers cannot exhaust it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import ClientSession

from highlanderd.core.status import Usage
from highlanderd.core.terms import PastTerm
from highlanderd.errors import HighlanderError
from highlanderd.listeners.health import SCRAPERS, serve_health
from highlanderd.listeners.metrics import Metrics
from highlanderd.listeners.status_page import HEADERS
from tests.support.memory_node import LOOPS, MemoryNode, leading, program, run, serving
from tests.support.ports import reserved_port

TERM = PastTerm("beat", 7, "web-1", "2026-01-02T03:04:05.678Z", None, 3725.0, None, None, None)


@asynccontextmanager
async def listening(node: MemoryNode, alive: Callable[[], bool] = lambda: True) -> AsyncIterator[str]:
    """Serve ``node`` on a port of its own."""
    address = f"127.0.0.1:{reserved_port()}"
    close = await serve_health(node, Metrics(), address, alive)
    try:
        yield address
    finally:
        await close()


async def get(address: str, resource: str, method: str = "GET") -> tuple[int, str]:
    async with ClientSession() as session, session.request(method, f"http://{address}{resource}") as response:
        return response.status, await response.text()


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_metrics_are_served_in_prometheus_text_format(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with (
            listening(MemoryNode(leading("beat"))) as address,
            ClientSession() as session,
            session.get(f"http://{address}/metrics") as response,
        ):
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert 'highlander_program_leading{program="beat"} 1.0\n' in await response.text()

    run(main, loop_factory)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, from Debian's package prometheus")
def test_promtool_has_no_complaint() -> None:
    usage = Usage(cpu=1.5, memory=4096, processes=2, tasks=5, open_files=9, oom_kills=0)
    node, metrics = MemoryNode(leading("beat", usage=usage), program("relay", "backoff", failures=2)), Metrics()
    metrics.transition("beat", "waiting", "leading")
    metrics.exited("beat", 256)
    metrics.term_ended("beat", "exited")
    metrics.killed("beat", "deadline")
    metrics.oom_killed("beat", 1)
    metrics.output("beat", "stdout", "lines", 3)
    for record in (metrics.took_over, metrics.leaderless, metrics.stopped, metrics.renewed, metrics.loop_lag):
        record(0.1)
    judged = subprocess.run(
        ["promtool", "check", "metrics"],
        input=metrics.render(node.status()),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, b"", b"")


def test_health_is_the_daemon_s_own_word() -> None:
    alive = True

    async def main() -> None:
        nonlocal alive
        async with listening(MemoryNode(), lambda: alive) as address:
            assert await get(address, "/healthz") == (200, "ok\n")
            assert (await get(address, "/healthz", "HEAD"))[0] == 200
            alive = False
            assert (await get(address, "/healthz"))[0] == 503

    run(main)


def test_readiness_is_a_usable_postgresql() -> None:
    node = MemoryNode(leading("beat"))

    async def main() -> None:
        async with listening(node) as address:
            assert await get(address, "/readyz") == (200, "ok\n")
            node.postgres = node.postgres.__class__(False, "db1:5432/ops", None, "it is a standby", 10.0, None, 0)
            assert await get(address, "/readyz") == (503, "PostgreSQL cannot be used: it is a standby\n")

    run(main)


def test_a_load_balancer_finds_the_one_ready_leader() -> None:
    node = MemoryNode(leading("beat"), leading("slow", ready=False), program("relay", leader="web-2"), program("web/1"))

    async def main() -> None:
        async with listening(node) as address:
            assert await get(address, "/leader/beat") == (200, "beat is led here\n")
            assert await get(address, "/leader/slow") == (503, "slow is led here, but not ready yet\n")
            assert await get(address, "/leader/relay") == (503, "relay is waiting here; led by web-2\n")
            assert (await get(address, "/leader/baet"))[0] == 404
            assert await get(address, "/leader/web%2F1") == (503, "web/1 is waiting here; led by nobody\n")
            node.become("web/1", program("web/1", connected=False, reason="connection refused"))
            assert await get(address, "/leader/web%2F1") == (503, "web/1 is waiting here; who leads it is not known\n")
            node.become("beat", program("beat", "draining", leader="web-1"))
            assert (await get(address, "/leader/beat"))[0] == 503

    run(main)


ENDPOINTS = (
    "/",
    "/metrics",
    "/healthz",
    "/readyz",
    "/leader/beat",
    "/leader/relay",
    "/cluster",
    "/history",
    "/leader/baet",
)


def test_head_and_options_say_what_get_would() -> None:
    async def main() -> None:
        async with (
            listening(MemoryNode(leading("beat"), program("relay"))) as address,
            ClientSession(f"http://{address}") as session,
        ):
            for resource in ENDPOINTS:
                wanted = (await get(address, resource))[0]
                for method in ("HEAD", "OPTIONS"):
                    async with session.request(method, resource) as response:
                        assert (response.status, await response.text()) == (wanted, ""), (method, resource)
            async with session.options("/leader/beat") as response:
                assert response.headers["Allow"] == "GET, HEAD, OPTIONS"

    run(main)


def test_a_leader_whose_lease_has_run_out_gets_no_requests() -> None:
    async def main() -> None:
        async with listening(MemoryNode(leading("beat", lease_remaining=0.0))) as address:
            assert await get(address, "/leader/beat") == (503, "beat was led here, and its lease has run out\n")

    run(main)


def test_the_cluster_and_its_history_are_what_the_control_socket_says(tmp_path: Path) -> None:
    async def main() -> None:
        node = MemoryNode(leading("beat"))
        node.terms = (TERM,)
        async with listening(node) as address, serving(node, tmp_path) as path:
            for resource in ("/cluster", "/history"):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(f"GET /v1{resource} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                same = (await reader.read()).decode().partition("\r\n\r\n")[2]
                writer.close()
                assert await get(address, resource) == (200, same)

    run(main)


def test_without_postgresql_the_cluster_is_refused_in_a_sentence() -> None:
    async def main() -> None:
        node = MemoryNode(leading("beat"))
        node.unanswered = HighlanderError("PostgreSQL does not answer: no session")
        async with listening(node) as address:
            for resource in ("/cluster", "/history"):
                status, text = await get(address, resource)
                assert (status, json.loads(text)["error"]) == (503, {"code": "failed", "message": str(node.unanswered)})

    run(main)


def test_the_page_for_people_comes_with_its_policy() -> None:
    async def main() -> None:
        async with (
            listening(MemoryNode(leading("beat"))) as address,
            ClientSession() as session,
            session.get(f"http://{address}/") as response,
        ):
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
            assert {name: response.headers[name] for name in HEADERS} == HEADERS
            assert "The cluster as node <b>web-1</b> sees it" in await response.text()

    run(main)


def test_it_is_read_only_and_has_nothing_else() -> None:
    async def main() -> None:
        async with listening(MemoryNode(leading("beat"))) as address:
            for resource in ENDPOINTS[:-1]:
                for method in ("POST", "PUT", "DELETE"):
                    assert (await get(address, resource, method))[0] == 405
            assert (await get(address, "/v1/status"))[0] == 404

    run(main)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_connections_are_bounded_and_come_back(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with listening(MemoryNode()) as address:
            with ExitStack() as held:
                connections = []
                for _ in range(SCRAPERS + 1):
                    one = held.enter_context(await connection(address))
                    connections.append(one)
                    assert (await say(one, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200")
                while await say(connections[0], b""):  # to its end: it was idle for longest, and has made room
                    pass
            async with asyncio.timeout(60):
                while await answers(address) != 200:
                    pass

    async def connection(address: str) -> socket.socket:
        host, port = address.split(":")
        one = socket.socket()
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, (host, int(port)))
        return one

    async def say(one: socket.socket, what: bytes) -> bytes:
        """Return the beginning of the answer; nothing when the other end has closed."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(one, what)
            return await asyncio.wait_for(loop.sock_recv(one, 100), 60)
        except ConnectionError:
            return b""

    async def answers(address: str) -> int:
        try:
            return (await get(address, "/healthz"))[0]
        except OSError:
            return 0

    run(main, loop_factory)


@pytest.mark.parametrize(
    ("listen", "cure"),
    [
        ("nonsense", "write it as"),
        ("127.0.0.1:", "write it as"),
        ("127.0.0.1:99999", "write it as"),
        ("192.0.2.1:9841", "change"),
        ("no-such-host.invalid:9841", "change"),
        ("ü..host:9841", "write it as"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_with_the_cure(listen: str, cure: str) -> None:
    async def main() -> None:
        with pytest.raises(HighlanderError, match=cure):
            await serve_health(MemoryNode(), Metrics(), listen, lambda: True)

    run(main)


def test_an_address_in_use_is_refused_with_the_cure() -> None:
    async def main() -> None:
        async with listening(MemoryNode()) as address:
            with pytest.raises(HighlanderError, match="in use"):
                await serve_health(MemoryNode(), Metrics(), address, lambda: True)

    run(main)


def test_a_name_that_takes_long_to_resolve_holds_up_nobody() -> None:
    address = f"localhost:{reserved_port()}"
    may_bind, bound_by = threading.Event(), set()
    binding: list[Callable[[], object]] = []

    def wait_at_bind(event: str, arguments: tuple[object, ...]) -> None:
        """Hold ``bind`` up as a name server would: it resolves names itself."""
        if event == "socket.bind" and arguments[1] == ("localhost", int(address.rpartition(":")[2])):
            bound_by.add(threading.current_thread())
            binding[0]()
            may_bind.wait(10)

    async def main() -> None:
        begun = asyncio.Event()
        binding.append(partial(asyncio.get_running_loop().call_soon_threadsafe, begun.set))
        opening = asyncio.ensure_future(serve_health(MemoryNode(), Metrics(), address, lambda: True))
        await asyncio.wait_for(begun.wait(), 60)
        assert threading.main_thread() not in bound_by
        may_bind.set()
        close = await opening
        assert (await get(address, "/healthz"))[0] == 200
        await close()

    sys.addaudithook(wait_at_bind)
    run(main)
