"""Clients that never pause keep no other client out, and take no more than their share of the answers."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from highlanderd.listeners.control import CLIENTS
from highlanderd.listeners.health import SCRAPERS
from highlanderd.listeners.places import KEPT
from tests.integration.test_control_metrics import get, listening
from tests.support.long import first_of
from tests.support.memory_node import LOOPS, MemoryNode, leading, run, serving
from tests.support.nodes import PATIENCE
from tests.support.wait import until

PLACES = CLIENTS - KEPT
"""Those that a user gets who may not do more than others."""
HOG, OTHER, GROUP = 54321, 54322, 54320
"""Users that no other process here is, and the group that may command."""
WAITING = b"GET /v1/status?wait=3600 HTTP/1.1\r\nHost: x\r\n\r\n"
NOW = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may connect as somebody else")


@contextmanager
def acting(uid: int) -> Iterator[None]:
    """Be another user, who is a member of the group, for the block."""
    os.setegid(GROUP)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class Client:
    """A connection of one user's."""

    def __init__(self, path: Path, uid: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        with acting(uid):
            self._socket.connect(str(path))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def answer(self) -> bytes:
        """Return the beginning of the next answer; empty when there is none, and never will be."""
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 12), PATIENCE)
        except ConnectionResetError:
            return b""

    def holds_a_place(self) -> bool:
        """Return whether the listener has not closed it yet, by what has come here. It was never answered."""
        try:
            return bool(self._socket.recv(1))
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False

    def close(self) -> None:
        self._socket.close()


async def decided(client: Client, node: MemoryNode) -> Client:
    """Have a client wait for a change; return it once its request has arrived, or it was turned away."""
    before = node.waits
    await client.send(WAITING)
    await until(lambda: node.waits > before or not client.holds_a_place())
    return client


def holding(clients: list[Client]) -> int:
    return sum(client.holds_a_place() for client in clients)


@asynccontextmanager
async def filled(path: Path, node: MemoryNode) -> AsyncIterator[list[Client]]:
    """Have one user hold all places that one may have, each with a request that waits."""
    hogs: list[Client] = []
    try:
        for _ in range(CLIENTS):
            hogs.append(Client(path, HOG))
            await hogs[-1].send(WAITING)
            await asyncio.sleep(0)
        await until(lambda: holding(hogs) == PLACES <= node.waits)
        yield hogs
    finally:
        for hog in hogs:
            hog.close()


@as_root
@pytest.mark.parametrize("loop_factory", first_of(LOOPS))
@pytest.mark.parametrize("uid", first_of([OTHER, 0]))
def test_a_user_who_holds_every_place_keeps_no_other_out(
    open_dir: Path, uid: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        node = MemoryNode(leading("beat"))
        async with serving(node, open_dir, group=str(GROUP)) as path, filled(path, node):
            for _ in range(5):
                other = Client(path, uid)
                await other.send(NOW)
                assert await other.answer() == b"HTTP/1.1 200"
                other.close()

    run(main, loop_factory)


@as_root
def test_users_who_hold_equal_shares_keep_each_other_and_leave_places_for_root(open_dir: Path) -> None:
    async def main() -> None:
        node = MemoryNode(leading("beat"))
        async with serving(node, open_dir, group=str(GROUP)) as path, filled(path, node) as hogs:
            others = [await decided(Client(path, OTHER), node) for _ in range(PLACES // 2 + 3)]
            assert holding(hogs) == holding(others) == PLACES // 2
            root = Client(path, 0)
            await root.send(NOW)
            assert await root.answer() == b"HTTP/1.1 200"
            for client in (*others, root):
                client.close()

    run(main)


@contextmanager
def hammered(port: int) -> Iterator[threading.Event]:
    """Have another address hold all places that it can for the block, and never pause on any; tell when it has them."""
    over, full = threading.Event(), threading.Event()

    def hammer() -> None:
        clients: list[socket.socket] = []
        while not over.wait(0.001):  # which lets the event loop go on: it is in this process
            if len(clients) < 2 * SCRAPERS:
                clients.append(_connected(port))
            for client in list(clients):
                with suppress(BlockingIOError):
                    try:
                        client.sendall(HEALTH)
                        alive = bool(client.recv(1 << 16))
                    except ConnectionError:
                        alive = False
                    if not alive:
                        clients.remove(client)
                        client.close()
                        full.set()
        for client in clients:
            client.close()

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        yield full
    finally:
        over.set()
        thread.join()


def _connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), PATIENCE, ("127.0.0.2", 0))
    client.setblocking(False)
    return client


@pytest.mark.parametrize("loop_factory", first_of(LOOPS))
def test_an_address_that_never_pauses_keeps_no_other_out(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        async with listening(MemoryNode(leading("beat"))) as address:
            host, port = address.split(":")
            with hammered(int(port)) as full:
                await until(full.is_set)  # one of its connections was turned away
                for _ in range(20):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    writer.write(HEALTH)
                    assert await asyncio.wait_for(reader.read(12), PATIENCE) == b"HTTP/1.1 200"
                    writer.close()
            assert await get(address, "/healthz") == (200, "ok\n")  # and by then all of these are closed

    run(main, loop_factory)
