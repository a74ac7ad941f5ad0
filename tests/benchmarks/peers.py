"""Other software that runs a command in one place at a time: two contenders each, for the lock of one child.

Who ends is started again, and contends for the next turn. etcd comes from the distribution, ``withlock`` from npm; the
loops are our own. What is not installed is left out, and said.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg.conninfo

from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.wait import wait_for

from .lives import Life

NULL = subprocess.DEVNULL

LOOP = """
import subprocess, sys, time
import psycopg
dsn, pause, *command = sys.argv[1:]
with psycopg.connect(dsn, autocommit=True) as connection:
    if pause == "blocking":
        connection.execute("SELECT pg_advisory_lock(4711)")
    else:
        while not connection.execute("SELECT pg_try_advisory_lock(4711)").fetchone()[0]:
            time.sleep(float(pause))
    subprocess.run(command)
"""
"""A loop as people write it: hold a session's advisory lock, run the command. A child outlives a lost session."""


@dataclass(frozen=True, slots=True)
class Peer:
    """How one contender is started: the words of the child's command follow."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Contenders:
    """Two processes of a peer, kept running."""

    def __init__(self, peer: Peer, child: Sequence[str]) -> None:
        self._peer, self._child = peer, child
        self._processes = [self._start(), self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self._peer.environment}
        command = [*self._peer.command, *self._child]
        return subprocess.Popen(command, env=environment, stdin=NULL, stdout=NULL, stderr=NULL, start_new_session=True)

    def renew(self) -> None:
        """Start again the one that has ended: a turn ends with the process that had it."""
        wait_for(lambda: len([one for one in self._processes if one.poll() is None]) == 1)
        self._processes = [*(one for one in self._processes if one.poll() is None), self._start()]

    def hand_over(self, life: Life) -> None:
        """Tell the child to end, which is how a turn ends."""
        os.kill(life.pid, signal.SIGTERM)

    def end(self) -> None:
        """End both, and their children: a child outlives what has started it."""
        for one in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()


@contextmanager
def etcd() -> Iterator[str | None]:
    """Run an etcd with its data on a disk; return its address, None where it is not installed."""
    if not (shutil.which("etcd") and shutil.which("etcdctl")):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hl-etcd-") as directory:
        client, peer = (f"http://127.0.0.1:{reserved_port()}" for _ in range(2))
        command = ["etcd", "--data-dir", directory, "--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"default={peer}"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: _healthy(client), what="etcd answers")
            yield client
        finally:
            server.terminate()
            server.wait()


def _healthy(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1) as answer:  # noqa: S310 - ours
        return bool(answer.status == 200)
    return False


def withlock() -> str | None:
    """Return the path of ``withlock``, fetched from npm if it can be; None where it cannot."""
    place = Path(tempfile.gettempdir()) / "highlander-benchmark-npm"
    found = place / "node_modules/.bin/withlock"
    if not found.exists() and shutil.which("npm"):
        place.mkdir(exist_ok=True)
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["npm", "install", "--silent", "advisory-lock"], cwd=place, check=True, timeout=120)
    return str(found) if found.exists() else None


def peers(database: Database, etcd_at: str | None) -> Iterator[tuple[str, Peer | None]]:
    """Yield each peer by name; None for one that is not installed."""
    loop = [sys.executable, "-c", LOOP, database.dsn]
    yield "advisory lock and spawn", Peer([*loop, "blocking"])
    lock = Peer(["etcdctl", "lock", "beat"], {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": etcd_at or ""})
    yield "etcdctl lock", lock if etcd_at else None
    found = withlock()
    yield "withlock (npm)", None if found is None else Peer([found, "beat", "--db", _url(database), "--"])
    yield "polling, 300 ms", Peer([*loop, "0.3"])


def _url(database: Database) -> str:
    way = psycopg.conninfo.conninfo_to_dict(database.dsn)
    return f"postgresql://{way['user']}@{way['host']}:{way['port']}/{way['dbname']}"
