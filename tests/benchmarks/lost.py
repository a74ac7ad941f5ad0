"""A host that is lost with all that runs on it: how long each program is led nowhere. Peers in the same run.

Every process of one contender is killed at once, its child included, and none may say goodbye. Measured is from there
to the first act of the next child. All have ten seconds: our lease, the time to live of ``etcdctl lock``, which renews
it every third of that, and single-beat's ``LOCK_TIME``, whose Redis is one server.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.nodes import settled_ledger
from tests.support.ports import reserved_port
from tests.support.wait import wait_for

from .bed import daemons, program, server
from .peers import etcd
from .processes import below
from .results import OURS, lacking, note
from .supervisors import fetched

ROUNDS = int(os.environ.get("LOST_ROUNDS", "3"))
PROGRAMS = 10
"""At once, for us and each peer: one lost host is as many samples."""
LEASE = 10.0
PART, WHAT = "host lost", "led nowhere for"


def beats(files: Sequence[Path]) -> list[list[str]]:
    """Return the command of each child: it writes when it begins, and stays. A script: peers read options as theirs."""
    found = []
    for file in files:
        script = file.with_suffix(".sh")
        script.write_text(f"#!/bin/sh\ndate +%s.%N >> {file}\nexec sleep 1000\n")
        script.chmod(0o755)
        found.append([str(script)])
    return found


def begun(file: Path) -> list[float]:
    """Return when each child of a file has begun."""
    return list(map(float, file.read_text().split())) if file.exists() else []


def await_next(file: Path, count: int) -> None:
    """Wait until more than ``count`` children have begun."""
    wait_for(lambda: len(begun(file)) > count, 60, "it is led again")


def ours(files: Sequence[Path]) -> Iterator[float]:
    """Yield the seconds of each program, round by round."""
    text = "".join(program(f"p{number}", command) for number, command in enumerate(beats(files)))
    with server() as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        made = nodes(database, "a", "b", programs=text, lease=LEASE, log="error")
        for _ in range(ROUNDS):
            wait_for(lambda: sum(len(node.leading()) for node in made) == PROGRAMS, 120, "all are led")
            time.sleep(3)
            leader = max(made, key=lambda node: len(node.leading()))
            led, counts = [int(name[1:]) for name in leader.leading()], [len(begun(file)) for file in files]
            leader.crash()
            killed = time.time()
            for number in led:
                await_next(files[number], counts[number])
            yield from (begun(files[number])[-1] - killed for number in led)
            leader.start()
            nodes.await_up(leader)


class Host:
    """The contenders of one host, one for each program."""

    def __init__(self, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]) -> None:
        self.processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for command, environment in zip(commands, environments, strict=True)
        ]

    def lose(self) -> None:
        """Kill everything at once."""
        pids = [pid for one in self.processes for pid in below(one.pid)]
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
        for one in self.processes:
            one.wait()


def theirs(
    words: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], files: Sequence[Path]
) -> Iterator[float]:
    """Yield the seconds of each program of a peer, round by round."""
    commands = [[*peer, *child] for peer, child in zip(words, beats(files), strict=True)]
    hosts = [Host(commands, environments)]
    try:
        wait_for(lambda: all(begun(file) for file in files), 60, "all are led")
        for _ in range(ROUNDS):
            hosts.append(Host(commands, environments))
            time.sleep(5)
            lost, counts = hosts.pop(0), [len(begun(file)) for file in files]
            lost.lose()
            killed = time.time()
            for file, count in zip(files, counts, strict=True):
                await_next(file, count)
            yield from (begun(file)[-1] - killed for file in files)
    finally:
        for host in hosts:
            host.lose()


@contextmanager
def redis() -> Iterator[int | None]:
    """Run a Redis; return its port, None where it is not installed."""
    if not shutil.which("redis-server"):
        yield None
        return
    port = reserved_port()
    with tempfile.TemporaryDirectory(prefix="hl-redis-") as directory:
        command = ["redis-server", "--port", str(port), "--dir", directory, "--bind", "127.0.0.1"]
        one = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True).stdout != b"")
            yield port
        finally:
            one.terminate()
            one.wait()


@contextmanager
def own_files() -> Iterator[list[Path]]:
    """Make a place for the acts of each program's children."""
    with tempfile.TemporaryDirectory(prefix="hl-lost-") as place:
        Path(place).chmod(0o777)
        yield [Path(place) / f"p{number}" for number in range(PROGRAMS)]


def main() -> None:
    """Print a row for each."""
    with own_files() as acts:
        note(PART, WHAT, OURS, list(ours(acts)), "s", PROGRAMS)
    with etcd() as address, own_files() as acts:
        if address is None:
            lacking(PART, "etcdctl lock", "etcd is not installed")
        else:
            words = [["etcdctl", "lock", f"--ttl={LEASE:.0f}", f"p{number}"] for number in range(PROGRAMS)]
            environment = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": address}
            note(PART, WHAT, "etcdctl lock", list(theirs(words, [environment] * PROGRAMS, acts)), "s", PROGRAMS)
    place = fetched("single-beat")
    with redis() as port, own_files() as acts:
        if port is None or place is None:
            lacking(PART, "single-beat", "Redis is not installed, or single-beat could not be fetched from PyPI")
            return
        words = [[str(place / "single-beat")]] * PROGRAMS
        shared = {"SINGLE_BEAT_REDIS_SERVER": f"redis://127.0.0.1:{port}", "SINGLE_BEAT_LOCK_TIME": f"{LEASE:.0f}"}
        shared["SINGLE_BEAT_HEARTBEAT_INTERVAL"] = "2"
        each = [{**shared, "SINGLE_BEAT_IDENTIFIER": f"p{number}"} for number in range(PROGRAMS)]
        note(PART, WHAT, "single-beat", list(theirs(words, each, acts)), "s", PROGRAMS)


if __name__ == "__main__":
    main()
