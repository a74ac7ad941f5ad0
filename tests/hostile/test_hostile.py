"""Five innocent programs on two nodes, a hostile one, and a hostile client: the innocent do not notice."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.errors import HighlanderError
from tests.hostile import SECONDS
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.scarcity import tiny_disk

pytestmark = pytest.mark.long

INNOCENT = ("beat", "relay", "poller", "mailer", "cron")
STRANGER = 59_999
"""A user that no other process here is: it may signal all of its own."""
LEASE = 20.0
RESTART_EVERY = 4.0
"""Seconds; orders to stop what does not want to stop belong to what its neighbours must not notice."""
CHILD = Path(__file__).parents[1] / "children" / "hostile_child.py"
REQUESTS = (
    b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 8,
    b"GET /v1/programs/hostile HTTP/1.1\r\nHost: x\r\n\r\n" * 4,
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 4,
    b"POST /v1/programs/beat/%1b%5b2J HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{}}",
    b"POST /v1/programs/nobody/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{",
    b"GET /v1/history?limit=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00" + bytes(500),
)


class Bed:
    """Two nodes with the same programs, and files of root's beside everything that the stranger can influence."""

    def __init__(self, nodes: Nodes, database: Database, disk: Path, python: str) -> None:
        self.nodes, self.database, self.disk = nodes, database, disk
        os.chown(disk, STRANGER, STRANGER)
        script = nodes.directory / "hostile_child.py"
        shutil.copy(CHILD, script)
        script.chmod(0o644)
        self.canaries = [disk / "canary", nodes.directory / "canary"]
        for canary in self.canaries:
            canary.write_text("SECRET=of root\n")
            canary.chmod(0o600)
        self.before = [self._seen(canary) for canary in self.canaries]
        self.ports = [reserved_port(), reserved_port()]
        settled_ledger(database, LEASE)
        for name, port in zip("ab", self.ports, strict=True):
            node = Node(name, nodes.directory / name, database.dsn, LEASE, nodes.journal)
            nodes.nodes.append(node)
            node.configure(self._programs(python, script, node))
            node.file.write_text(node.file.read_text().replace('listen = ""', f'listen = "127.0.0.1:{port}"'))
            node.start()
        nodes.await_up(*nodes.nodes)
        nodes.await_led(*INNOCENT)
        self.workers = {node.name: node.worker for node in nodes.nodes}

    def _programs(self, python: str, script: Path, node: Node) -> str:
        innocent = "".join(f"[program.{name}]\n" for name in INNOCENT)
        words = [python, "-IS", str(script), str(self.disk), str(self.ports[0]), str(node.socket)]
        command = ", ".join(f'"{word}"' for word in [*words, *map(str, self.canaries)])
        return (
            f'{innocent}[program.hostile]\ncommand = [{command}]\nuser = "{STRANGER}"\ngroup = "{STRANGER}"\n'
            f'stdout = "{self.disk}/hostile.log"\nstderr = "{self.disk}/hostile.log"\nlog_max_bytes = "1MB"\n'
            f'environment_file = ["-{self.disk}/env"]\nbackoff = 0.2\nbackoff_max = 1\n'
        )

    @staticmethod
    def _seen(path: Path) -> tuple[object, ...]:
        found = path.lstat()
        return found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, path.read_text()

    def violations(self) -> list[str]:
        """Return what must not have happened."""
        said = [*self.nodes.journal.doubles()]
        for name in INNOCENT:
            lives = self.nodes.journal.lives(name)
            if len(lives) != 1 or lives[0].starts != 1:
                said.append(f"{name} was started again: {[str(life) for life in lives]}")
            if ends(self.database, name) != [None]:
                said.append(f"the terms of {name} have ended: {ends(self.database, name)}")
        for node in self.nodes.nodes:
            log = node.log.read_text(errors="replace")
            if node.worker != self.workers[node.name]:
                causes = [
                    line for line in log.splitlines() if "the worker has ended" in line or "no sign of life" in line
                ]
                said.append(f"the worker of {node.name} was replaced: {causes}")
            if "Traceback" in log:
                said.append(f"the log of {node.name} has a traceback")
        for canary, before in zip(self.canaries, self.before, strict=True):
            if self._seen(canary) != before:
                said.append(f"{canary} is not what it was")
        return said

    def restart(self) -> None:
        """Have the neighbour started anew: it may have stopped itself, or left an environment that nothing can use."""
        for remove in (Path.unlink, Path.rmdir):
            with contextlib.suppress(OSError):
                remove(self.disk / "env")
        for node in self.nodes.nodes:
            with contextlib.suppress(HighlanderError):  # it does not lead it, or does not answer at once
                node.control.ask("POST", "/v1/programs/hostile/restart", {"wait": False})

    def tally(self) -> Counter[str]:
        """Return how often each mischief was done."""
        with contextlib.suppress(OSError):
            return Counter((self.disk / "tally").read_text().split())
        return Counter()


@contextlib.contextmanager
def hammered(bed: Bed) -> Iterator[Counter[str]]:
    """Have a client of root's ask nonsense of all listeners for the block, and keep connections that it never reads."""
    over, done = threading.Event(), Counter[str]()

    def hammer() -> None:
        kept: list[socket.socket] = []
        while not over.wait(0.01):
            for door in (*(node.socket for node in bed.nodes.nodes), *bed.ports):
                client = socket.socket(socket.AF_INET if isinstance(door, int) else socket.AF_UNIX)
                client.settimeout(1)
                with contextlib.suppress(OSError):
                    client.connect(("127.0.0.1", door) if isinstance(door, int) else str(door))
                    client.sendall(random.choice((*REQUESTS, random.randbytes(300))))
                    done["TCP" if isinstance(door, int) else "control socket"] += 1
                kept.append(client)
            while len(kept) > 300:
                kept.pop(random.randrange(len(kept))).close()
        for client in kept:
            client.close()

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a program as another user")
def test_a_hostile_neighbour_is_not_noticed(nodes: Nodes, database: Database) -> None:
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(path).exists()), None)
    if python is None:
        pytest.skip("needs a Python that every user may run")
    seconds = float(os.environ.get(SECONDS, "15"))
    with tiny_disk(nodes.directory / "theirs", 16 << 20) as disk:
        bed = Bed(nodes, database, disk, python)
        with hammered(bed) as requests:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not bed.violations():
                time.sleep(RESTART_EVERY)
                bed.restart()
        said, tally = bed.violations(), bed.tally()
        show(tally, requests, said)
        assert tally, "the neighbour did nothing"
        assert said == []
        nodes.end()  # before its disk goes


def show(tally: Counter[str], requests: Counter[str], said: list[str]) -> None:
    """Print what was done, and what came of it."""
    rows = [*sorted(tally.items()), *((f"requests: {door}", count) for door, count in sorted(requests.items()))]
    print("\n| mischief | times |\n|---|---|", *(f"| {name} | {count} |" for name, count in rows), sep="\n")
    print("", *(said or [f"none of {', '.join(INNOCENT)} has noticed"]), sep="\n")
