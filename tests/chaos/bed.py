"""One cluster to break: a server, three real daemons, children that count, a network between them, and the oracle.

Everything lies below one directory and is buried by an undertaker, whatever becomes of the run. ``faults.py`` says what
is done to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from highlanderd.embedded.account import Account
from highlanderd.embedded.installation import Installation
from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from tests.support.deaths import gone, marked
from tests.support.journal import CHILD, Life
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Clusters, throwaway_place
from tests.support.wait import wait_for

from .clocks import Clocks, clocks_lacking
from .faults import Missed
from .network import Doors, Network, Undertaker, Wires, namespaces_lacking
from .oracle import TABLES, Oracle

NAMES = ("a", "b", "c")
SERVER = "pg1"
STANDBY = "pg2"
COUNTING = [sys.executable, str(Path(__file__).with_name("counting_child.py"))]
PROGRAMS = {
    "even": COUNTING,
    "odd": COUNTING,
    "deaf": [*CHILD, "stubborn"],
    "tree": ["sh", "-c", f"setsid $CHILD part & exec {' '.join(COUNTING)}"],
}
"""Two that obey; one that is deaf to SIGTERM, and does not count: transactions under ``assert_leader`` hold up a
takeover, too, and would hide a lease that is too short; one with a process that has left its session."""
PATIENT_SOCKET = {"connect_timeout": 2, "keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 3}
"""A counting child notices a dead network, too: otherwise it would wait for an answer for ever after the heal."""
LOGIN_TRIGGERS = 17
"""The first major version of PostgreSQL that has them."""
START_AGAIN_AFTER = 1.0
"""Seconds between two starts of a node that has ended: the one before it may still be draining."""


class Bed:
    """Everything of one cluster. ``doors`` takes TCP doors even where namespaces can be had."""

    def __init__(
        self, programs: Installation, account: Account, lease: float = 4.0, *, doors: bool = False, servers: int = 1
    ) -> None:
        self.lease = lease
        self.directory = Path(tempfile.mkdtemp(prefix="hl-chaos-", dir=throwaway_place()))
        self.directory.chmod(0o755)
        self.lacks = lacking(doors=doors, major=programs.major)
        """What this bed cannot do, by its name in ``Fault.needs``, and why."""
        self.server_struck = False
        """Whether a fault has the server in hand: another one must not wait for it."""
        self.lengthened = False
        """Whether the ledger's lease was changed, or a maintenance begun."""
        self._started: dict[str, float] = {}
        self._undertaker, self.network = self._laid(servers)
        self.clocks = Clocks(self.directory)
        self.clusters = Clusters(programs, account, self.directory)
        self.servers = servers
        self.server = self.clusters.create(self.network.place(SERVER))
        self.database = self.server.database()
        self.standby = self.clusters.standby(self.server, self.network.place(STANDBY)) if servers > 1 else None
        self.cast = Nodes(self.directory)
        self.oracle = Oracle(self.cast.journal.path)

    def _laid(self, servers: int) -> tuple[Undertaker, Network]:
        if "namespaces" in self.lacks:
            return Undertaker(self.directory, 0), Doors()
        names = [*NAMES, *(f"pg{number}" for number in range(1, servers + 1))]
        undertaker = Undertaker(self.directory, 1 + len(names))
        return undertaker, Wires(names, undertaker.paths)

    # ------------------------------------------------------------------------------------------- a life of its own

    def __enter__(self) -> Bed:
        try:
            self._fill()
            for name in NAMES:
                self._add(name)
            wait_for(lambda: self.whole(boottime() - self.lease), what="the bed is made")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave nothing of it."""
        self.cast.end()
        self.clusters.close()
        self.network.close()
        self._undertaker.bury()

    def _fill(self) -> None:
        settled_ledger(self.database, self.lease)
        role = self.database.role
        self.database.sql(TABLES, admin=True)
        self.database.sql("INSERT INTO shop.counter SELECT unnest(%s::text[]), 0", [[*PROGRAMS]], admin=True)
        self.database.sql(f'GRANT USAGE ON SCHEMA shop TO "{role}"', admin=True)
        self.database.sql(f'GRANT ALL ON ALL TABLES IN SCHEMA shop TO "{role}"', admin=True)
        self.database.sql(f'GRANT ALL ON ALL SEQUENCES IN SCHEMA shop TO "{role}"', admin=True)

    def _add(self, name: str) -> None:
        dsn = self.dsn(name)
        node = Node(name, self.directory / name, dsn, self.lease, self.cast.journal)
        node.enter = self.network.enter(name)
        node.handed_down = {"COUNTER_DSN": make_conninfo(dsn, tcp_user_timeout=3000, **PATIENT_SOCKET)}
        node.environment = self.clocks.of(name)
        self.configure(node)
        self.cast.nodes.append(node)
        self.start(node)

    def configure(self, node: Node, lock_keys: Mapping[str, str] = MappingProxyType({}), **keys: object) -> None:
        """Write the node's file, as it was or with lock keys for programs and other keys of ``Node.configure``.

        The first node's programs wait on connections of their own, those of the others share some.
        """
        tables = {name: f"[program.{name}]\ncommand = {_array(words)}\n" for name, words in PROGRAMS.items()}
        tables |= {name: f"{tables[name]}lock_key = '{key}'\n" for name, key in lock_keys.items()}
        connections = "own" if node.name == NAMES[0] else "shared"
        node.configure("".join(tables.values()), **{"standby_connections": connections, **keys})

    def dsn(self, node: str) -> str:
        """Return how a node reaches PostgreSQL."""
        ways = [self.network.way(node, SERVER, self.server)]
        if self.standby is None:
            [(host, port)] = ways
            return make_conninfo(self.database.dsn, host=host, port=port)
        ways.append(self.network.way(node, STANDBY, self.standby))
        hosts, ports = (",".join(map(str, part)) for part in zip(*ways, strict=True))
        return make_conninfo(self.database.dsn, host=hosts, port=ports, target_session_attrs="read-write")

    # ------------------------------------------------------------------------------------------------ for the faults

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return self.cast.nodes

    def sql(self, statement: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, past the network. Raises Missed when the server is struck."""
        if self.server_struck:
            raise Missed
        try:
            return self.database.sql(statement, parameters, admin=True)
        except psycopg.OperationalError:  # it is recovering from another fault
            raise Missed from None

    def ceiling(self) -> float:
        """Return the longest lease that any leader may have been promised, in seconds."""
        return max(float(seconds) for (seconds,) in self.sql("SELECT extract(epoch FROM ceiling) FROM highlander.meta"))

    def restored(self) -> bool:
        """End a maintenance and give the ledger its own lease again; return whether that is done."""
        for node in self.nodes if self.lengthened else ():
            with contextlib.suppress(HighlanderError):
                node.control.ask("POST", "/v1/maintenance", {"on": False})
                node.control.ask("POST", "/v1/ledger/lease", {"lease": self.lease})
                self.lengthened = False
                break
        return not self.lengthened

    def answers(self) -> bool:
        """Whether the server does."""
        with contextlib.suppress(Missed):
            return bool(self.sql("SELECT 1"))
        return False

    def some_leader(self, chance: Random) -> tuple[str, Node]:
        """Return some program that lives at the moment, by its own word, and its node. Raises Missed without any."""
        alive = [life for life in self.oracle.present().values() if boottime() - life.last < self.lease / 4]
        led = [(life.program, node) for life in alive for node in self.nodes if node.name == life.node and node.runs]
        if not led:
            raise Missed
        return chance.choice(sorted(led, key=lambda pair: pair[0]))

    def start(self, node: Node) -> None:
        """Start a node that does not run."""
        self._started[node.name] = boottime()
        node.start()

    def send(self, signum: int, pids: Sequence[int]) -> None:
        """Send a signal to processes of which some may have ended."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    # ------------------------------------------------------------------------------------------------ whole again

    def mend(self) -> None:
        """Undo whatever is left of faults: heal every link, wake whatever sleeps, start what has ended."""
        for name in (*NAMES, SERVER, *[STANDBY] * (self.servers - 1)):
            self.network.heal(name)
        self.server.resume()
        for node in self.nodes:
            self.send(signal.SIGCONT, marked(node.home))
            self.clocks.step(node.name, 0)
        self.server_struck = False

    def revive(self) -> None:
        """Start what has ended, as systemd would."""
        for node in self.nodes:
            if not node.runs and boottime() - self._started[node.name] > START_AGAIN_AFTER:
                self.start(node)

    def running(self) -> bool:
        """Whether every daemon answers, connected or not. Starts what has ended."""
        self.revive()
        try:
            return all(node.runs and bool(node.status()) for node in self.nodes)
        except HighlanderError:
            return False

    def whole(self, since: float) -> dict[str, Life] | None:
        """Return the present lives when all is well: every program led by exactly one, renewed and counted since then.

        Nodes that have ended are started again.
        """
        self.revive()
        if not self.restored():
            return None
        try:
            up = all(node.runs and node.up() for node in self.nodes)
        except AssertionError:  # it ended just now
            return None
        return self._led(since) if up else None

    def _led(self, since: float) -> dict[str, Life] | None:
        leaders = self._leaders(since)
        present = self.oracle.present()
        if leaders is None or leaders.keys() != PROGRAMS.keys() or present.keys() != PROGRAMS.keys():
            return None
        good = all(
            (life.node, life.epoch) == leaders[name] and (life.committed_at if life.asked else life.last) > since
            for name, life in present.items()
        )
        return present if good else None

    def _leaders(self, since: float) -> dict[str, tuple[str, int]] | None:
        """Return node and epoch by program; None when one is led twice, or not renewed since."""
        leaders: dict[str, tuple[str, int]] = {}
        for node in self.nodes:
            asked = boottime()
            try:
                programs = node.status()["programs"]
                for program in programs:
                    if program["state"] == "stopped":  # whoever was to start it again did not get through
                        node.control.order(program["name"], "start", {"wait": False})()
            except HighlanderError:
                return None
            for program in programs:
                if program["state"] != "leading":
                    continue
                if program["name"] in leaders or asked + (program["lease_remaining"] or 0) < since + self.lease:
                    return None
                leaders[program["name"]] = (node.name, program["epoch"])
        return leaders

    def left(self) -> Iterator[str]:
        """Tell of each process of a program beyond those that live by right: nothing may outlive its term."""
        present = {pid for life in self.oracle.present().values() for pid in life.pids}
        memory = {pid: life for life in self.oracle.lives() for pid in life.pids if pid not in present}
        for node in self.nodes:
            for pid in marked(node.home):
                if pid in memory and not gone(pid) and _counts(pid):
                    yield f"pid {pid} is alive after its term: {memory[pid]}"


def lacking(*, doors: bool = False, major: int = LOGIN_TRIGGERS) -> dict[str, str]:
    """Say what cannot be done here, by its name in ``Fault.needs``, and why."""
    reasons = {
        "namespaces": "TCP doors were asked for" if doors else namespaces_lacking(),
        "clocks": clocks_lacking(),
        "login triggers": "" if major >= LOGIN_TRIGGERS else f"login triggers came with PostgreSQL {LOGIN_TRIGGERS}",
    }
    return {name: why for name, why in reasons.items() if why}


def _counts(pid: int) -> bool:
    """Whether the pid still is a child: numbers come again."""
    with contextlib.suppress(OSError):
        return b"_child.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _array(words: Sequence[str]) -> str:
    return "[" + ", ".join("'" + word + "'" for word in words) + "]"


def pause(seconds: float) -> None:
    """Let a fault last: the one wait here that is not for a fact."""
    end = boottime() + seconds
    while (left := end - boottime()) > 0:
        time.sleep(left)
