"""Users of an embedded server, each a process of its own, and what a test sees of that server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.postgres import run
from tests.support.wait import wait_for

USER = """
import json, os, sys
from pathlib import Path
from highlanderd.embedded import server as embedded
from highlanderd.errors import HighlanderError
try:
    used = embedded.start(Path(sys.argv[1]), float(sys.argv[2]))
except HighlanderError as error:
    print(json.dumps({"refused": str(error)}), flush=True)
else:
    print(json.dumps({"dsn": used.dsn, "fresh": used.fresh.exists()}), flush=True)
    sys.stdin.read()
"""
REPOSITORY = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


class User:
    """A process that uses the server in a directory for as long as it lives."""

    def __init__(self, directory: Path, *, uid: int | None = None, path: Path | None = None) -> None:
        before = "" if uid is None else f"import os; os.setgroups(()); os.setgid({uid}); os.setuid({uid})\n"
        self.directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + USER, str(directory), "60"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PYTHONPATH": os.pathsep.join(map(str, (*([path] if path else []), REPOSITORY)))},
        )

    def told(self) -> dict[str, object]:
        """Wait for what became of the start."""
        assert self._process.stdout is not None
        answer: dict[str, object] = json.loads(self._process.stdout.readline())
        return answer

    def dsn(self) -> str:
        """Wait for the server."""
        told = self.told()
        assert "dsn" in told, told
        return str(told["dsn"])

    def kill(self) -> None:
        """End as nobody wants to."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End in good order, if it has not ended yet."""
        self._process.communicate()


class Users:
    """The users of one test. In the end all of them are gone, and the servers with them."""

    def __init__(self) -> None:
        self._made: list[User] = []

    def __call__(self, directory: Path, *, uid: int | None = None, path: Path | None = None) -> User:
        user = User(directory, uid=uid, path=path)
        self._made.append(user)
        return user

    def close(self) -> None:
        """End them all, and see that nothing is left running."""
        for user in self._made:
            user.close()
        for directory in {user.directory for user in self._made}:
            try:
                stopped(directory)
            finally:
                for pid in processes(directory):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def users() -> Iterator[Users]:
    with contextlib.closing(Users()) as made:
        yield made


def processes(directory: Path) -> dict[int, str]:
    """Return the steward and the server of a directory: whatever works there or names it in its arguments."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and entry.joinpath("comm").read_text().strip() in ("postgres", "highlander-pg"):
                here = str(directory / "data").encode()
                if here in entry.joinpath("cmdline").read_bytes() or bytes(entry.joinpath("cwd").readlink()) == here:
                    found[int(entry.name)] = entry.joinpath("comm").read_text().strip()
    return found


def stopped(directory: Path) -> None:
    """Wait until nothing is left running."""
    wait_for(lambda: not processes(directory), what="steward and server are gone")


def another(dsn: str, before: object) -> object:
    """Wait for the next run of the server."""
    return wait_for(lambda: answering(dsn) not in (None, before) and answering(dsn), what="the next server")


def steward(directory: Path) -> int:
    (pid,) = (pid for pid, name in processes(directory).items() if name == "highlander-pg")
    return pid


def postmaster(directory: Path) -> int:
    return int((directory / "data/postmaster.pid").read_text().split()[0])


def life(dsn: str) -> object:
    """Tell one run of the server from the next."""
    return run(dsn, "SELECT pg_postmaster_start_time()")[0][0]


def answering(dsn: str) -> object:
    with contextlib.suppress(psycopg.OperationalError):
        return life(dsn)
    return None


def let_the_steward_look(directory: Path) -> None:
    """Wait for two further looks at the users' lock: the steward sleeps in between, so its switches count them."""
    status = Path(f"/proc/{steward(directory)}/status")

    def looks() -> int:
        return int(status.read_text().split("voluntary_ctxt_switches:")[1].split()[0])

    before = looks()
    wait_for(lambda: looks() >= before + 2, what="the steward has looked twice")
