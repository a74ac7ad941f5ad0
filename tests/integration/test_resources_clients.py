"""What clients and children pour over a daemon holds up no program that it leads, and does not fill its memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.listeners.places import LEAST
from tests.support.nodes import PATIENCE, Node, Nodes
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.undisturbed import Strained
from tests.support.wait import wait_for

PROGRAMS = "[program.beat]\n[program.relay]\n"
STATUS = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
MANY = 1000
ROOM = 96 * 1024 * 1024
"""Bytes that a worker may grow by: a thousand connections with their buffers take a third of it."""


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Let this process hold so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    return client


def test_a_thousand_clients_that_never_read_disturb_nobody(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, PROGRAMS)
    before = strained.memory()
    with many_descriptors(MANY + 200), contextlib.ExitStack() as crowd, strained.undisturbed():
        for _ in range(MANY):
            client = crowd.enter_context(connected(strained.node.socket))
            with contextlib.suppress(OSError):  # turned away: there are more than enough already
                client.sendall(STATUS * 20)
    assert strained.memory() - before < ROOM
    wait_for(strained.node.up, PATIENCE, "it answers again")
    strained.works()


@pytest.mark.long  # beside a thousand that never read
def test_a_client_that_never_reads_what_it_asks_for_over_and_over_fills_nothing(
    nodes: Nodes, database: Database
) -> None:
    strained = Strained(nodes, database, PROGRAMS)
    before = strained.memory()
    with connected(strained.node.socket) as deaf, strained.undisturbed():
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # until the kernel takes no more, because nobody reads it
            while True:
                deaf.send(STATUS * 1000)
    assert strained.memory() - before < ROOM
    strained.works()


def test_garbage_on_every_door_is_shrugged_off(nodes: Nodes, database: Database) -> None:
    port = reserved_port()
    strained = Strained(nodes, database, PROGRAMS, metrics=f"127.0.0.1:{port}")
    before, noise = strained.memory(), random.Random(3)
    endless = b"GET /" + b"x" * 3_000_000
    pieces = [b"", b"\0" * 1000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", STATUS[:-2], endless]
    pieces += [noise.randbytes(noise.randrange(1, 5000)) for _ in range(40)]
    pieces += [b"POST /v1/shutdown HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{", b"POST /v1/" + b"%" * 9000]
    with contextlib.ExitStack() as crowd, strained.undisturbed():
        for piece in pieces:
            for door in (connected(strained.node.socket), socket.create_connection(("127.0.0.1", port), PATIENCE)):
                crowd.enter_context(door)
                with contextlib.suppress(OSError):  # it hung up on us, and rightly
                    door.sendall(piece)
    assert strained.memory() - before < ROOM
    assert "Traceback" not in strained.log()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
        assert answer.status == 200
    strained.works()


@pytest.mark.long
def test_a_child_that_writes_as_fast_as_it_can_holds_up_nobody(nodes: Nodes, database: Database) -> None:
    log = nodes.directory / "flood.log"
    flood = f'command = ["sh", "-c", "exec yes"]\nstdout = "{log}"\nlog_max_bytes = "1MB"\nlog_backups = 2\n'
    strained = Strained(nodes, database, f"[program.beat]\n[program.flood]\n{flood}[program.noise]\ncommand = 'yes'\n")
    with strained.undisturbed(), nobody_reads_much(strained.node.log):
        pass
    assert strained.memory() < ROOM + 96 * 1024 * 1024
    assert sum(one.stat().st_size for one in nodes.directory.glob("flood.log*")) <= 3 * 1024 * 1024 + 65536
    strained.works()


@contextlib.contextmanager
def nobody_reads_much(log: Path) -> Iterator[None]:
    """Keep a log short whose writer does not rotate it: what matters is not in it."""
    over = threading.Event()

    def shorten() -> None:
        while not over.wait(0.2):
            if log.stat().st_size > 50_000_000:
                with log.open("r+b") as file:
                    file.truncate()

    thread = threading.Thread(target=shorten)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.long  # beside a daemon that may open nothing
def test_clients_take_no_descriptor_that_others_need(nodes: Nodes, database: Database) -> None:
    """Strangers keep their connections open at both doors; what they ask for is not yet whole."""
    limit, port = 200, reserved_port()
    node = Node("a", nodes.directory / "a", database.dsn, 10.0, nodes.journal)
    nodes.nodes.append(node)
    node.configure(["beat"])
    node.file.write_text(node.file.read_text().replace('listen = ""', f'listen = "127.0.0.1:{port}"'))
    node.enter = ("prlimit", f"--nofile={limit}:{limit}")
    node.start()
    nodes.await_led("beat")
    for half in (b"", b"POST /v1/programs/beat/start HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
        with contextlib.ExitStack() as crowd:
            for _ in range(limit):
                for client in (connected(node.socket), socket.create_connection(("127.0.0.1", port), PATIENCE)):
                    crowd.enter_context(client)
                    with contextlib.suppress(OSError):  # turned away
                        client.sendall(half)
            assert node.status()["postgres"]["connected"]
            assert len(os.listdir(f"/proc/{node.worker}/fd")) <= limit - LEAST  # noqa: PTH208
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
                assert answer.status == 200
    assert "Too many open files" not in node.log.read_text()
