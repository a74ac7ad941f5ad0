"""Throwaway PostgreSQL: real clusters that a test may stop, kill, pause, copy and promote. No fake anywhere.

The programs are those of ``highlanderd[embedded]``, or ``--pg-bin DIR``; nothing has to be installed on the machine.
With ``--pg-dsn DSN`` (a superuser's) the shared server is one that runs already. fsync stays on: the daemon insists.

| fixture | scope | what |
|---|---|---|
| `shared_cluster` | session | one server for everybody: do not stop it |
| `database` | function | a fresh database in it, with a role that may log in and owns one empty schema, nothing more |
| `clusters` | function | `clusters.create(**settings)`: as many servers of one's own as a test needs |
| `cluster` | function | one of these |
| `open_dir` | function | a short directory that every user may pass, unlike pytest's |
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg.conninfo import make_conninfo

from highlanderd.embedded.account import Account
from highlanderd.embedded.installation import Installation
from tests.support.ports import reserved_port
from tests.support.wait import wait_for

SUPERUSER = "postgres"
SCHEMA = "highlander"
SETTINGS = {
    "max_connections": "600",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "wal_keep_size": "64MB",  # a standby that was paused for a while still finds its place
    "huge_pages": "off",
    "dynamic_shared_memory_type": "mmap",  # below the data directory: of a server that is killed nothing stays
    "jit": "off",
}
DISK = Path("/tmp")
ENOUGH = 4 << 30
"""Bytes: four processes with three servers each, and other people's memory."""
IPC_RMID = 0
MODES = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
Mode = Literal["smart", "fast", "immediate"]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server of our own runs: on loopback, or in a network namespace, where daemons reach it and we do not."""

    host: str = "127.0.0.1"
    enter: tuple[str, ...] = ()
    """The words before a command that make it run there; nothing for loopback."""


LOOPBACK = Place()
ADMITTED = "host all all all trust\nhost replication all all trust\n"
"""Lines of ``pg_hba.conf``: a namespace is as closed as loopback."""


@dataclass(frozen=True, slots=True)
class Database:
    """A fresh database, and a role that has LOGIN and its own schema, nothing more."""

    server: Server
    name: str
    role: str

    @property
    def dsn(self) -> str:
        """How a daemon connects: by TCP, as the role."""
        return make_conninfo(self.server.dsn, dbname=self.name, user=self.role)

    def with_standby(self, standby: Server) -> str:
        """Return the DSN that names the standby, too, and asks for whichever takes writes."""
        ways = [psycopg.conninfo.conninfo_to_dict(server.dsn) for server in (self.server, standby)]
        hosts, ports = (",".join(str(way[name]) for way in ways) for name in ("host", "port"))
        return make_conninfo(self.dsn, host=hosts, port=ports, target_session_attrs="read-write")

    def sql(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None, *, admin: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run a statement as the role, or as the superuser."""
        return run(make_conninfo(self.dsn, user=self.server.user) if admin else self.dsn, statement, parameters)

    def drop(self) -> None:
        """Remove it, whoever is connected."""
        self.server.sql(f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)')
        self.server.sql(f'DROP ROLE IF EXISTS "{self.role}"')


class Server:
    """A server that answers under a superuser's DSN."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.user = str(psycopg.conninfo.conninfo_to_dict(dsn).get("user", SUPERUSER))

    def sql(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser, outside of any transaction."""
        return run(self.dsn, statement, parameters)

    def database(self) -> Database:
        """Create a database with its role and the role's empty schema."""
        name = f"highlander_{os.getpid()}_{next(_numbers)}"
        self.sql(f'CREATE ROLE "{name}" LOGIN')
        self.sql(f'CREATE DATABASE "{name}"')
        database = Database(self, name, name)
        database.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC", admin=True)
        database.sql(f'CREATE SCHEMA {SCHEMA} AUTHORIZATION "{name}"', admin=True)
        return database


class Cluster(Server):
    """A server of our own: one data directory, one postmaster, a port of its place, and a Unix socket.

    ``dsn`` is for us: by TCP on loopback, by the socket when it runs in a namespace.
    """

    def __init__(
        self,
        programs: Installation,
        account: Account,
        directory: Path,
        settings: Mapping[str, str],
        place: Place = LOOPBACK,
    ) -> None:
        self.programs = programs
        self.account = account
        self.directory = directory
        self.place = place
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.settings = {**SETTINGS, **settings}
        self.port = reserved_port()
        self._process: subprocess.Popen[bytes] | None = None
        host = str(directory) if place.enter else place.host
        super().__init__(make_conninfo(host=host, port=self.port, user=SUPERUSER, dbname="postgres"))

    @property
    def socket_dsn(self) -> str:
        """The same server by its Unix socket."""
        return make_conninfo(self.dsn, host=str(self.directory))

    @property
    def tcp_dsn(self) -> str:
        """The same server as others reach it."""
        return make_conninfo(self.dsn, host=self.place.host)

    @property
    def pid(self) -> int:
        """The postmaster."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def initialise(self) -> None:
        """Create the data directory."""
        self._run(
            "initdb", "-D", str(self.data), "-U", SUPERUSER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"
        )
        if self.place.enter:
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write(ADMITTED)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {"listen_addresses": self.place.host, **self.settings, "port": str(self.port)}
        options = [f"{name}={value}" for name, value in settings.items()]
        command = ["postgres", "-D", str(self.data), "-k", str(self.directory)]
        command += [argument for option in options for argument in ("-c", option)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(*command), stdout=log, stderr=log, start_new_session=True, **self._as_account()
            )
        wait_for(self._answers, within=60, what=f"PostgreSQL answers on port {self.port}")

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server as ``pg_ctl stop -m`` does, and wait for it."""
        if self._process is not None:
            self._process.send_signal(MODES[mode])
            self._process.wait(60)
            self._process = None

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL every process at once, as a power cut does."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.wait(60)
        if self._process is not None:  # it may have died before, by itself
            self._process.wait(60)
        self._process = None

    def forget(self) -> None:
        """Remove the segment of shared memory that a killed server leaves: the machine has room for 4,096 of them."""
        with contextlib.suppress(FileNotFoundError, IndexError):
            segment = int((self.data / "postmaster.pid").read_text().splitlines()[6].split()[1])
            ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)

    def pause(self) -> None:
        """SIGSTOP every process, the postmaster first: the machine hangs, connections stay."""
        for pid in (self.pid, *self.processes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """Return the pids of the server: everything that works in its data directory."""
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in numbers if self._works_here(pid)]

    def configure(self, **settings: str) -> None:
        """Change settings and reload; those that need it take effect at the next restart."""
        for name, value in settings.items():
            self.settings.pop(name, None)
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def copy_to(self, directory: Path, place: Place = LOOPBACK) -> Cluster:
        """Make a hot standby of this server in ``directory`` and start it. Its ``cluster_name`` names it to us."""
        settings = {**self.settings, "cluster_name": directory.name}
        standby = Cluster(self.programs, self.account, directory, settings, place)
        backup = ("pg_basebackup", "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast", "--no-sync")
        standby._run(*backup, "-d", self.tcp_dsn)
        standby.start()
        return standby

    def promote(self) -> None:
        """Make a primary of a standby."""
        assert self.sql("SELECT pg_promote(true, 60)") == [(True,)]

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"PostgreSQL ended at once:\n{self.log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.sql("SELECT 1"))
        return False

    def _works_here(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == self.data
        except OSError:
            return False

    def _run(self, program: str, *arguments: str) -> None:
        command = self._command(program, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **self._as_account())
        assert done.returncode == 0, f"{program} failed: {done.stderr}"

    def _command(self, program: str, *arguments: str) -> list[str]:
        entering = [*self.place.enter]
        if entering and self.account.foreign:  # who enters a namespace must still be root, and is not afterwards
            entering += ["--setuid", str(self.account.uid), "--setgid", str(self.account.gid)]
        return [*entering, str(self.programs.program(program)), *arguments]

    def _as_account(self) -> dict[str, Any]:
        who: dict[str, Any] = {}
        if self.account.foreign and not self.place.enter:
            who = {"user": self.account.uid, "group": self.account.gid, "extra_groups": ()}
        return {"cwd": "/", "stdin": subprocess.DEVNULL, "env": {"PATH": os.defpath, "LC_ALL": "C"}, **who}


class Clusters:
    """Makes clusters below one directory, and leaves nothing of them."""

    def __init__(self, programs: Installation, account: Account, directory: Path) -> None:
        self._programs = programs
        self._account = account
        self._directory = directory
        self._made: list[Cluster] = []

    def create(self, place: Place = LOOPBACK, /, **settings: str) -> Cluster:
        """Create and start a server, with settings of ``postgresql.conf`` beside our own."""
        cluster = Cluster(self._programs, self._account, self._room(), settings, place)
        cluster.initialise()
        return self._started(cluster)

    def standby(self, primary: Cluster, place: Place = LOOPBACK) -> Cluster:
        """Create and start a hot standby of ``primary`` by streaming replication, and wait until it streams."""
        standby = primary.copy_to(self._room(), place)
        self._made.append(standby)
        wait_for(lambda: primary.sql("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), what="streaming")
        return standby

    def close(self) -> None:
        """Kill them all, and leave nothing of them."""
        for cluster in self._made:
            cluster.kill()
            cluster.forget()

    def _started(self, cluster: Cluster) -> Cluster:
        self._made.append(cluster)
        cluster.start()
        return cluster

    def _room(self) -> Path:
        room = self._directory / f"pg{next(_numbers)}"
        room.mkdir(mode=0o755)
        if self._account.foreign:
            os.chown(room, self._account.uid, self._account.gid)
        return room


def run(
    dsn: str, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None
) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, in autocommit; gives its rows, if it has any."""
    with psycopg.connect(dsn, autocommit=True, connect_timeout=20) as connection:
        answer = connection.execute(statement.encode(), parameters)
        return answer.fetchall() if answer.description else []


def throwaway_place() -> Path:
    """Return where to put what a test throws away: in memory if there is enough, as a server makes a thousand files."""
    memory = Path("/dev/shm")
    try:
        room = os.statvfs(memory)
    except OSError:
        return DISK
    enough = room.f_bavail * room.f_frsize > ENOUGH and not room.f_flag & os.ST_NOEXEC
    return memory if enough and os.access(memory, os.W_OK) else DISK


@contextlib.contextmanager
def passable_directory(place: Path) -> Iterator[Path]:
    """Make a directory that every user may pass and whose name leaves room for socket names; remove it in the end."""
    made = Path(tempfile.mkdtemp(prefix="hl-", dir=place))
    made.chmod(0o755)
    try:
        yield made
    finally:
        while made.exists():
            with contextlib.suppress(FileNotFoundError):  # a server that is just ending removes files, too
                shutil.rmtree(made)
