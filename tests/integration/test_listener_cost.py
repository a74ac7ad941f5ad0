"""What clients can make a listener do is bounded: pages are shared, and the longest idle connection makes room."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import ClientSession

from highlanderd.core.cluster import ClusterOverview
from highlanderd.core.status import NodeStatus, Process, ProgramDetail
from highlanderd.core.terms import PastTerm
from highlanderd.errors import HighlanderError
from highlanderd.listeners import asked_page
from highlanderd.listeners.control import CLIENTS
from highlanderd.listeners.health import KEEP, SCRAPERS
from highlanderd.listeners.shared_page import AT_ONCE, LEAST_COST, SHARE
from highlanderd.system.proctree import children
from tests.integration.test_control_metrics import get, listening
from tests.support.floods import FLOOD
from tests.support.memory_node import LOOPS, MemoryNode, leading, run, serving
from tests.support.nodes import PATIENCE, Nodes
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.undisturbed import Strained
from tests.support.wait import wait_for

MANY = [leading(f"program-{number}") for number in range(301)]
PIPELINED = 4
ZOMBIES, CROWD = 3000, 10_000


class CountingNode(MemoryNode):
    """Counts how often it was asked for each kind of answer."""

    statuses = details = questions = 0

    def status(self) -> NodeStatus:
        self.statuses += 1
        return super().status()

    async def cluster(self) -> ClusterOverview:
        self.questions += 1
        return await super().cluster()

    async def history(self, names: Sequence[str], limit: int) -> tuple[PastTerm, ...]:
        self.questions += 1
        return await super().history(names, limit)

    async def detail(self, name: str) -> ProgramDetail:
        self.details += 1
        return await super().detail(name)


def ask_all(connect: Callable[[], socket.socket], resource: str, clients: int) -> int:
    """Ask from many connections, four requests behind each other on each; return how many answers came."""
    request = f"GET {resource} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * PIPELINED
    answers = 0

    def read(client: socket.socket) -> None:
        nonlocal answers
        client.settimeout(PATIENCE)
        seen, got = b"", 0
        while got < PIPELINED and (data := client.recv(1 << 20)):
            seen = seen[-20:] + data
            got += seen.count(b"HTTP/1.1 200")
            seen = seen[-11:]
        answers += got

    with ExitStack() as opened:
        connections = [opened.enter_context(connect()) for _ in range(clients)]
        for each in connections:
            each.sendall(request)
        readers = [threading.Thread(target=read, args=(each,)) for each in connections]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    return answers


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_a_crowd_of_scrapers_shares_its_pages(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        node = CountingNode(*MANY[:50])  # what is sent is read by threads of this very process
        async with listening(node) as address:
            host, port = address.split(":")
            loop = asyncio.get_running_loop()
            began = loop.time()
            answers = await loop.run_in_executor(
                None, ask_all, lambda: socket.create_connection((host, int(port)), PATIENCE), "/metrics", SCRAPERS
            )
            assert answers == SCRAPERS * PIPELINED
            assert node.statuses <= (loop.time() - began) / KEEP + 1

    run(main, loop_factory)


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize(("resource", "questions"), [("/cluster", 1), ("/history", 1), ("/", 2)])
def test_a_crowd_asks_postgresql_once_a_second(resource: str, questions: int, away: bool) -> None:
    async def main() -> None:
        node = CountingNode(*MANY)
        node.unanswered = HighlanderError("PostgreSQL does not answer: no session") if away else None
        async with listening(node) as address, ClientSession(f"http://{address}") as session:
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(3):
                answers = [session.get(resource) for _ in range(40)]
                seen = {answer.status for answer in await asyncio.gather(*answers)}
                assert seen == {503 if away and resource != "/" else 200}
            assert node.questions <= questions * ((loop.time() - began) / asked_page.KEEP + 1)

    run(main)


@pytest.mark.parametrize("resource", ["/v1/status", "/v1/programs/program-7"])
def test_a_crowd_at_the_control_socket_shares_its_pages(resource: str, tmp_path: Path) -> None:
    async def main() -> None:
        node = CountingNode(*MANY)

        async with serving(node, tmp_path) as path:

            def connect() -> socket.socket:
                client = socket.socket(socket.AF_UNIX)
                client.connect(str(path))
                return client

            loop = asyncio.get_running_loop()
            began = loop.time()
            answers = await loop.run_in_executor(None, ask_all, connect, resource, SCRAPERS)
            assert answers == SCRAPERS * PIPELINED
            rests = (loop.time() - began + AT_ONCE / SHARE) / (LEAST_COST / SHARE)  # after each page but the first few
            assert 0 < node.statuses + node.details <= rests + 1

    run(main)


def test_an_answer_is_never_older_than_its_question(tmp_path: Path) -> None:
    async def main() -> None:
        node = MemoryNode(leading("beat"))
        async with serving(node, tmp_path) as path:
            for number in range(20):
                node.warnings = (f"warning {number}",)
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert f"warning {number}" in (await reader.read()).decode()
                writer.close()

    run(main)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_the_longest_idle_connection_makes_room(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with listening(MemoryNode(leading("beat"))) as address:
            host, port = address.split(":")
            idle = [await asyncio.open_connection(host, int(port)) for _ in range(SCRAPERS)]
            idle[0][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")  # so the second one is idle for longest
            assert b"200" in await idle[0][0].readline()
            assert await get(address, "/healthz") == (200, "ok\n")
            assert await idle[1][0].read() == b""
            assert not idle[0][0].at_eof()
            for _, writer in idle:
                writer.close()

    run(main, loop_factory)


def test_unread_answers_do_not_hold_the_control_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(MemoryNode(*MANY), tmp_path) as path:
            deaf = [await asyncio.open_unix_connection(str(path), limit=1) for _ in range(CLIENTS)]
            for _, writer in deaf:
                writer.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
            reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"200" in await asyncio.wait_for(reader.readline(), PATIENCE)
            for _, other in [*deaf, (reader, writer)]:
                other.close()

    run(main)


@pytest.mark.long  # they take a while to be there
def test_a_tree_of_thousands_is_shown_in_part_and_says_so(nodes: Nodes, database: Database) -> None:
    command = [*FLOOD, "zombies", str(ZOMBIES)]
    strained = Strained(nodes, database, f"[program.beat]\n[program.many]\ncommand = {command!r}\n".replace("'", '"'))
    with strained.undisturbed():

        def shown() -> bool:
            detail = strained.node.control.ask("GET", "/v1/programs/many")
            return bool(len(detail["processes"]) + detail["more_processes"] == ZOMBIES + 1)

        wait_for(shown, PATIENCE, "all are counted")
    detail = strained.node.control.ask("GET", "/v1/programs/many")
    assert len(detail["processes"]) == 1000
    assert Process(**detail["processes"][0]).pid == strained.led["many"][1]
    assert strained.await_led() == strained.led


def test_a_process_of_another_program_is_never_shown(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, "[program.beat]\n[program.relay]\n")
    pids = {name: pid for name, (_, pid) in strained.led.items()}
    for name, pid in pids.items():
        listed = {one["pid"] for one in strained.node.control.ask("GET", f"/v1/programs/{name}")["processes"]}
        assert pid in listed
        assert not listed & (set(pids.values()) - {pid})


@pytest.mark.long
def test_a_tree_of_ten_thousand_holds_no_scrape(nodes: Nodes, database: Database) -> None:
    command = [*FLOOD, "zombies", str(CROWD)]
    programs = f"[program.beat]\n[program.many]\ncommand = {command!r}\n".replace("'", '"')
    address = f"127.0.0.1:{reserved_port()}"
    strained = Strained(nodes, database, programs, metrics=address)
    main = strained.led["many"][1]

    def shown() -> dict[str, float]:
        page = asyncio.run(get(address, "/metrics"))[1]
        return {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if not line.startswith("#")}

    wait_for(lambda: len(children(main)) >= CROWD, PATIENCE, "all are there")
    with strained.undisturbed():
        for _ in range(3):
            assert shown()['highlander_program_leading{program="many"}'] == 1
        wait_for(lambda: 'highlander_program_cpu_seconds_total{program="beat"}' in shown(), PATIENCE, "it is measured")
    assert shown()['highlander_program_processes{program="many"}'] == 1  # those that have ended use nothing
    assert strained.await_led() == strained.led
