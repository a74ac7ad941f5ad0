"""Three real daemons and the embedded PostgreSQL they share, below one directory that is removed in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from highlanderd.ctl.client import ControlClient
from highlanderd.embedded import steward
from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from highlanderd.system.proctree import children

NODES = ("alpha", "bravo", "charlie")
PROGRAMS = ("beat", "relay", "poller", "mailer", "cron")
LEASE = 4.0
"""Seconds. Short, so that even the loss of a whole node is over soon; the default is 10."""
ASK_EVERY = 0.15
"""Seconds between two looks at a node's status."""
CHILD = [sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "children" / "journal_child.py")]

Status = dict[str, Any]


class Node:
    """One daemon, perhaps dead, and what it last said of itself."""

    def __init__(self, name: str, home: Path, configuration: str) -> None:
        self.name = name
        self.file, self.log, self.socket = home / "highlander.toml", home / "log", home / "control.sock"
        home.mkdir(mode=0o755)
        self.file.write_text(configuration)
        self.process: subprocess.Popen[bytes] | None = None
        self.seen: Status | None = None
        """Its status, as fresh as can be, and in ``asked`` when it was asked; None while it does not answer."""
        self._over = threading.Event()

    def start(self) -> None:
        """Start the daemon in a session of its own: Ctrl-C is for the demo alone."""
        command = [sys.executable, "-m", "highlanderd", "-c", str(self.file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def watch(self) -> None:
        """Ask for its status until told otherwise; for a thread, because a frozen daemon would hold up the picture."""
        daemon = ControlClient(str(self.socket))
        while not self._over.wait(ASK_EVERY):
            asked = boottime()
            try:
                self.seen = {**daemon.ask("GET", "/v1/status"), "asked": asked}
            except HighlanderError:
                self.seen = None

    def forget(self) -> None:
        """Look no more."""
        self._over.set()

    @property
    def runs(self) -> bool:
        """Whether the guardian lives; reaps it when it does not."""
        return self.process is not None and self.process.poll() is None

    @property
    def guardian(self) -> int:
        """Its pid, which is the daemon's."""
        assert self.process is not None, "started before anybody asks"
        return self.process.pid

    @property
    def worker(self) -> int:
        """The pid of the present worker; 0 while there is none."""
        return next((pid for pid in children(self.guardian) if b"--worker" in command_of(pid)), 0)

    @property
    def family(self) -> list[int]:
        """Guardian, worker and keepers: all of the daemon but the children, which die of it."""
        return [self.guardian, *children(self.guardian)]

    def program(self, name: str) -> Status | None:
        """Return what it says of one program; what it said before it was killed is over."""
        programs = self.seen["programs"] if self.seen and self.runs else ()
        return next((program for program in programs if program["name"] == name), None)

    def renewed(self, program: str, since: float) -> bool:
        """Whether it has renewed a term of its own since that moment: a lease was left that only a renewal explains."""
        status, seen = self.program(program), self.seen
        return bool(status and seen and seen["asked"] + (status["lease_remaining"] or 0.0) >= since + LEASE)

    @property
    def well(self) -> bool:
        """Whether it answers, and every program has its session with PostgreSQL."""
        seen = self.seen
        return self.runs and seen is not None and all(program["connected"] for program in seen["programs"])


class Cluster:
    """All of it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.journal = directory, directory / "journal"
        self.data = directory / "postgres" / "data"
        self.nodes = [Node(name, directory / name, self._configuration(name)) for name in NODES]

    def _configuration(self, node: str) -> str:
        programs = "".join(f"\n[program.{name}]\n" for name in PROGRAMS)
        return f"""\
[daemon]
node = "{node}"
run_dir = "."
state_dir = "state"
[postgres]
dsn = "embedded:{self.directory}/postgres"
lease = {LEASE}
[metrics]
listen = ""
[defaults]
command = {CHILD}
environment = {{ JOURNAL = "{self.journal}" }}
{programs}"""

    def begin(self) -> None:
        """Start everything; it is up a moment later."""
        for node in self.nodes:
            node.start()
            threading.Thread(target=node.watch, daemon=True).start()

    def leader(self, program: str) -> Node | None:
        """Return the node that says it leads a program with a running child."""
        for node in self.nodes:
            status = node.program(program)
            if status and status["state"] == "leading" and status["started"] is not None:
                return node
        return None

    @property
    def postmaster(self) -> int:
        """The pid of PostgreSQL; 0 while it does not run."""
        return steward.postmaster_of(str(self.data)) or 0

    def end(self, until: Callable[[Callable[[], bool], float], bool]) -> None:
        """End in good order, and with force what does not; ``until`` waits for a fact, so many seconds at most."""
        for node in self.nodes:
            node.forget()
            if node.runs:
                node.process.terminate()  # type: ignore[union-attr]  # it runs
        until(lambda: not any(node.runs for node in self.nodes), 15)
        until(lambda: not any(self.left()), 10)
        while left := list(self.left()):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until(lambda: not any(self.left()), 1)

    def left(self) -> Iterator[int]:
        """Return what still runs of ours: daemons, PostgreSQL and its steward, children."""
        mark = os.fsencode(self.directory)
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            if pid != os.getpid() and mark in command_of(pid) + read(entry / "environ"):
                yield pid


def command_of(pid: int) -> bytes:
    """Return a process' command line; empty when it has ended."""
    return read(Path(f"/proc/{pid}/cmdline"))


def read(path: Path) -> bytes:
    """Read a file of /proc whose process may have ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
