"""Real daemons of a cluster on one host: each with its configuration, log and control socket, and nothing left of them.

`nodes(database, "a", "b")` starts daemons that share a ledger and one journal. Their children keep the journal unless a
test says otherwise. In the end everything is killed that carries the fixture's directory in its environment, and the
journal is asked whether any two lives overlapped: no test passes beside a doubled child.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from highlanderd.ctl.client import ControlClient
from highlanderd.errors import HighlanderError
from highlanderd.guardian import cgroup
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.sql.leading import SETTLE_FRESH
from highlanderd.system.linux import boottime
from tests.support.deaths import gone, marked, proc_file, stand_still
from tests.support.forked import Forked, forkable
from tests.support.journal import CHILD, Journal, Life
from tests.support.postgres import Database, passable_directory, throwaway_place
from tests.support.wait import wait_for

PACKAGE = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds for what takes a moment on an idle machine: three daemons may start at once on two busy cores."""
NO_CERTIFICATES = os.devnull
"""What a daemon loads for a client of aiohttp that it does not have: the machine's own take 50 ms at each start."""

Status = dict[str, Any]


class Node:
    """One daemon, perhaps dead, perhaps started again."""

    def __init__(self, name: str, home: Path, dsn: str, lease: float, journal: Journal, extra: str = "") -> None:
        self.name, self.home, self.dsn, self.lease, self.journal, self.extra = name, home, dsn, lease, journal, extra
        self.python = sys.executable
        self.enter: tuple[str, ...] = ()
        """The words before its command that make it run elsewhere: in a network namespace."""
        self.environment: dict[str, str] = {}
        """Variables of the daemon's own, beside ours."""
        self.handed_down: dict[str, str] = {}
        """Variables of its children, beside ours."""
        self.home.mkdir(exist_ok=True)
        self.file, self.log, self.socket = home / "node.toml", home / "log", home / "run" / "control.sock"
        self.control = ControlClient(str(self.socket))
        self.asleep: tuple[int, ...] = ()
        """Processes of it that were stopped: it cannot be asked meanwhile."""
        self._process: subprocess.Popen[bytes] | Forked | None = None

    # ------------------------------------------------------------------------------------------------ configuration

    def configure(self, programs: Iterable[str] | str, log: object = "debug", **postgres: object) -> None:
        """Write the file: bare names of programs that keep the journal, or the text of their tables."""
        if not isinstance(programs, str):
            programs = "\n".join(f"[program.{name}]" for name in programs)
        environment = {"JOURNAL": str(self.journal.path), "CHILD": " ".join(CHILD), "TEST_HOME": str(self.home)}
        environment |= self.handed_down
        tables: dict[str, dict[str, object]] = {
            "daemon": {"node": self.name, "run_dir": str(self.home / "run"), "state_dir": str(self.home / "state")},
            "postgres": {"dsn": self.dsn, "lease": self.lease, **postgres},
            "metrics": {"listen": ""},
            "log": {"level": log},
            "defaults": {"command": CHILD, "environment": environment, "backoff": 0.2, "stop_timeout": 2},
        }
        self.file.write_text("\n".join(_table(name, keys) for name, keys in tables.items()) + self.extra + programs)

    # --------------------------------------------------------------------------------------------------- processes

    def start(self) -> None:
        """Start the daemon; it is up a moment later."""
        command = [*self.enter, self.python, "-m", "highlanderd", "-c", str(self.file)]
        ours = {"PYTHONPATH": str(PACKAGE), "TEST_HOME": str(self.home), "SSL_CERT_FILE": NO_CERTIFICATES}
        environment = {**os.environ, **ours, **self.environment}
        if forkable(command, self.environment):
            self._process = Forked(command, environment, self.log, self.log, session=True)
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def runs(self) -> bool:
        """Whether the guardian lives; reaps it when it does not."""
        return self._process is not None and self._process.poll() is None

    @property
    def guardian(self) -> int:
        """The pid of the daemon: the guardian, once it has become that."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def worker(self) -> int:
        """The pid of the present worker."""
        return wait_for(lambda: next(iter(self.mine(b"--worker")), 0), PATIENCE, f"{self.name} has a worker")

    def keeper(self, program: str) -> int:
        """The pid of a program's keeper."""
        return next(
            pid
            for pid in marked(self.home)
            if proc_file(f"/proc/{pid}/comm").strip() == f"keep {program}"[:15].encode() and not gone(pid)
        )

    def mine(self, argument: bytes) -> list[int]:
        """Return the guardian's own processes with this argument: ``--worker``, or ``--lock-fd`` for keepers."""
        pids = map(int, proc_file(f"/proc/{self.guardian}/task/{self.guardian}/children").split())
        return [pid for pid in pids if argument in proc_file(f"/proc/{pid}/cmdline").split(b"\0")]

    def signal(self, signum: int) -> None:
        """Send the daemon a signal."""
        os.kill(self.guardian, signum)

    def ended(self) -> int:
        """Wait until the daemon has ended; gives its exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def crash(self) -> None:
        """SIGKILL guardian, worker and keepers at once, as a lost machine would; children die of it."""
        pids = [self.guardian, *self.mine(b"--worker"), *self.mine(b"--lock-fd")]
        stand_still(*pids)  # none may see another one die
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGKILL)
        self.ended()

    def freeze(self, *pids: int) -> None:
        """Stop processes of it, as a machine does that swaps."""
        self.asleep = pids
        stand_still(*pids)

    def thaw(self) -> None:
        """Let them go on. Whoever was awake, or is again, may have buried one of them."""
        for pid in self.asleep:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.asleep = ()

    # ------------------------------------------------------------------------------------------------------- facts

    def status(self) -> Status:
        """Return what ``highlanderctl status --json`` gives."""
        return self.control.ask("GET", "/v1/status")

    def program(self, name: str) -> Status:
        """Return one program's part of it."""
        return next(program for program in self.status()["programs"] if program["name"] == name)

    def up(self) -> bool:
        """Whether it answers and all its programs have their sessions."""
        assert self._process is not None
        if self._process.poll() is not None:
            said = self.log.read_text(errors="replace")
            raise AssertionError(f"{self.name} ended at once:\n{said[-2000:]}")
        try:
            status = self.status()
        except HighlanderError:
            return False
        return bool(status["postgres"]["connected"] and all(program["connected"] for program in status["programs"]))

    def order(self, verb: str, program: str, **body: object) -> None:
        """Give an order and wait until it is carried out; a release or stop is meant, whoever could take over."""
        force = {"force": True} if verb in ("release", "stop") else {}
        self.control.order(program, verb, {"wait": True, "timeout": PATIENCE, **force, **body}, PATIENCE)()

    def leading(self) -> dict[str, Status]:
        """Return the programs that it leads with a running child."""
        programs = self.status()["programs"]
        return {one["name"]: one for one in programs if one["state"] == "leading" and one["started"] is not None}

    def leads(self, program: str, epoch: int) -> bool:
        """Whether it says that it leads a program with a running child in this very term."""
        try:
            return bool(self.leading().get(program, {}).get("epoch") == epoch)
        except HighlanderError:  # it is down
            return False

    def trusted_until(self, program: str) -> float:
        """Return until when the node trusts its term by its own word, a millisecond's answer late at most."""
        remaining = self.program(program)["lease_remaining"]  # told last of all: a survey may have waited before
        assert remaining is not None, f"{self.name} does not lead {program}"
        return boottime() + float(remaining)


class Nodes:
    """The daemons of one test, with one journal and one ledger."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = Journal(directory / "journal")
        self.nodes: list[Node] = []

    def __call__(
        self, where: Database | str, *names: str, programs: Iterable[str] | str = (), lease: float = 4.0, **keys: Any
    ) -> list[Node]:
        """Start daemons with the same programs, and wait until all are up. ``keys`` are ``configure``'s."""
        dsn = where if isinstance(where, str) else where.dsn
        made = [Node(name, self.directory / name, dsn, lease, self.journal) for name in names]
        self.nodes += made
        for node in made:
            node.configure(programs, **keys)
            node.start()
        self.await_up(*made)
        return made

    def await_up(self, *nodes: Node) -> None:
        """Wait until each of these is up."""
        for node in nodes:
            wait_for(node.up, PATIENCE, f"{node.name} is up")

    def leaders(self) -> dict[str, Node]:
        """Return the nodes that lead with a running child, by program; fails when two claim to at one moment."""
        leaders: dict[str, tuple[Node, int]] = {}
        for node in [node for node in self.nodes if not node.asleep]:
            with contextlib.suppress(HighlanderError):  # it is down
                for program, status in node.leading().items():
                    former, epoch = leaders.get(program, (node, 0))
                    still = former is not node and former.leads(program, epoch)  # or had it let go before this one led?
                    assert not still, f"{program} is led by {former.name} and {node.name}"
                    leaders[program] = node, status["epoch"]
        return {program: node for program, (node, _) in leaders.items()}

    def await_led(self, *programs: str, without: Node | None = None, within: float = PATIENCE) -> dict[str, Node]:
        """Wait until each program is led, by another node than ``without``, and its child has spoken."""

        def led() -> dict[str, Node] | None:
            leaders = self.leaders()
            good = all(leaders.get(program) not in (None, without) for program in programs)
            return leaders if good and all(self._spoken(leaders[program], program) for program in programs) else None

        leaders = wait_for(led, within, f"{', '.join(programs)} are led")
        assert leaders is not None
        return leaders

    def _spoken(self, node: Node, program: str) -> bool:
        epoch = node.program(program)["epoch"]
        return any(life.epoch == epoch for life in self.journal.lives(program))

    def life(self, program: str) -> Life:
        """Return the latest life of a program."""
        return self.journal.lives(program)[-1]

    def close(self) -> None:
        """End everything, and show the logs in case that somebody asks."""
        self.end()
        for node in self.nodes:
            print(f"---- {node.name}\n{node.log.read_text(errors='replace')}")

    def _pids(self) -> set[int]:
        """Return what may be left; a daemon that has not even begun bears no mark."""
        return {*marked(self.directory), *(node.guardian for node in self.nodes if node.runs)}

    def end(self) -> None:
        """Kill everything."""
        while pids := {pid for pid in self._pids() if not gone(pid)}:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)  # the kernel needs a moment; a process that forks is met in the next round
        for node in self.nodes:
            with contextlib.suppress(AssertionError):
                node.ended()
            _sweep(node.home / "state" / "instance")


def expiry(database: Database, program: str) -> float:
    """Return when the lease ends as the ledger shows it: never before the leader's own end of trust."""
    [(shown,)] = database.sql(
        "SELECT extract(epoch FROM expires_at) FROM highlander.lease WHERE program = %s", [program]
    )
    return float(shown) - (time.time() - boottime())


def ends(database: Database, program: str) -> list[str | None]:
    """Return why each term of a program ended, None for the one under way, once the history has heard of that."""
    unheard = (
        "SELECT 1 FROM highlander.lease AS l WHERE l.program = %s AND NOT EXISTS "
        "(SELECT FROM highlander.term AS t WHERE t.lock_id = l.lock_id AND t.epoch >= l.epoch)"
    )
    wait_for(lambda: not database.sql(unheard, [program]), what="the history has heard of the latest term")
    terms = database.sql("SELECT reason FROM highlander.term WHERE program = %s ORDER BY epoch", [program])
    return [reason for (reason,) in terms]


def renewals(database: Database) -> dict[str, int]:
    """Return how often each row was written, by program."""
    return dict(database.sql("SELECT program, renewal FROM highlander.lease"))


def settled_ledger(database: Database, lease: float) -> None:
    """Create a ledger that nobody can have led on, so that a test's first terms begin without waiting a lease."""
    ledger = Ledger("highlander", "highlander", lease)
    owner = database.role
    as_admin = make_conninfo(database.dsn, user=database.server.user)
    script = f'GRANT CREATE ON DATABASE "{conninfo_to_dict(as_admin)["dbname"]}" TO "{owner}"'
    database.sql(script, admin=True)
    for statement in (ledger.creation().sql, ledger.statement("settle", SETTLE_FRESH).sql):
        database.sql(statement)


def _sweep(instance: Path) -> None:
    """Remove the empty cgroups of a node that was killed."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        name, parent = instance.read_text().splitlines()
        if parent:
            cgroup.sweep(parent, name, 5)


def _table(name: str, keys: dict[str, object]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {_value(value)}" for key, value in keys.items()), ""])


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Daemons: ``nodes(database, "a", "b", programs=["beat"])``."""
    with passable_directory(throwaway_place()) as directory:
        made = Nodes(directory)
        try:
            yield made
            assert not made.journal.doubles()
        finally:
            made.close()
