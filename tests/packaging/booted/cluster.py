"""Machines made from the package, PostgreSQL beside them, a network between them, programs that keep a journal.

Everything lies below one directory and is buried by an undertaker, whatever becomes of the run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from psycopg.conninfo import make_conninfo

from highlanderd.embedded.account import Account
from highlanderd.embedded.installation import Installation
from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from tests.chaos.network import Undertaker, Wires
from tests.chaos.oracle import Oracle
from tests.support.journal import Life
from tests.support.nodes import settled_ledger
from tests.support.postgres import Clusters
from tests.support.wait import wait_for

from .machine import PATIENCE, UNIT, Down, Machine
from .versions import following

SERVER = "pg"
SHARED = "/srv/shared"
"""Where every machine sees the journal, the child's program and the packages."""
CHILD = f"/usr/bin/python3 -I -S {SHARED}/journal_child.py"
PROGRAMS = f"""
[program.plain]
[program.nobody]
user = "nobody"
[program.games]
user = "games"
[program.deaf]
user = "daemon"
command = "{CHILD} stubborn"
[program.tree]
user = "www-data"
command = ["sh", "-c", "setsid {CHILD} part & exec {CHILD}"]
"""
"""Five users; one that is deaf to SIGTERM; one with a process that has left its session."""
PROCESSES = {"plain": 1, "nobody": 1, "games": 1, "deaf": 1, "tree": 2}
"""How many of each keep the journal."""
DEFAULTS = f"""
command = "{CHILD}"
environment = {{ JOURNAL = "{SHARED}/journal" }}
stop_timeout = "2s"
"""


class Cluster:
    """Everything of one cluster; ``lowers`` are the root file systems of its machines, by their names."""

    def __init__(
        self, programs: Installation, account: Account, lowers: Mapping[str, Path], deb: Path, lease: float
    ) -> None:
        self.lease = lease
        self.directory = Path(tempfile.mkdtemp(prefix="hl-booted-", dir="/tmp"))
        self.directory.chmod(0o755)
        names = [*lowers, SERVER]
        self._undertaker = Undertaker(self.directory, 1 + len(names))
        self._clusters = Clusters(programs, account, self.directory)
        self.machines: list[Machine] = []
        try:
            self.network = Wires(names, self._undertaker.paths)
            self.server = self._clusters.create(self.network.place(SERVER))
            self.database = self.server.database()
            settled_ledger(self.database, lease)
            self.shared = self._share(deb)
            self.oracle = Oracle(self.shared / "journal")
            for (name, lower), path in zip(lowers.items(), self._undertaker.paths[1:], strict=False):
                options = (f"--network-namespace-path={path}", f"--bind={self.shared}:{SHARED}")
                self.machines.append(Machine(name, lower, self.directory / name, *options))
            self.each(self._install)
            self.await_whole()
        except BaseException:
            self.close()
            raise

    def _share(self, deb: Path) -> Path:
        """Make the directory that all machines see. The journal has to be there: no child may make it its own."""
        shared = self.directory / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        (shared / "journal").touch()
        (shared / "journal").chmod(0o666)
        shutil.copy(Path(__file__).parents[2] / "children" / "journal_child.py", shared)
        shutil.copy(deb, shared / "first.deb")
        following(deb, self.directory / "next", shared / "next.deb")
        return shared

    def _install(self, machine: Machine) -> None:
        """Do what an administrator does: boot, install, configure, start."""
        machine.boot()
        machine.await_up()
        machine.does("dpkg", "--install", f"{SHARED}/first.deb")
        host, port = self.network.way(machine.name, SERVER, self.server)
        dsn = make_conninfo(self.database.dsn, host=host, port=port)
        machine.configure(PROGRAMS, postgres=f'dsn = "{dsn}"\nlease = {self.lease}\n', defaults=DEFAULTS)
        machine.does("systemctl", "enable", "--now", UNIT)

    def close(self) -> None:
        """Leave nothing of it; show the journals in case that somebody asks."""
        for machine in self.machines:
            print(f"---- {machine.name}\n{machine.journal()}")
            machine.close()
        self._clusters.close()
        self._undertaker.bury()

    # ------------------------------------------------------------------------------------------------ for the faults

    def each(self, do: Callable[[Machine], object]) -> None:
        """Do something to all machines at once."""
        with ThreadPoolExecutor(len(self.machines)) as threads:
            list(threads.map(do, self.machines))

    def leader(self) -> Machine:
        """Return the machine that leads most."""
        nodes = [life.node for life in self.oracle.present().values()]
        return max(self.machines, key=lambda machine: nodes.count(machine.name))

    def ends(self, since: Mapping[str, int]) -> dict[str, str]:
        """Return why terms have ended that were under way, by program; ``since`` are their epochs."""
        told = self.database.sql("SELECT program, epoch, reason FROM highlander.term WHERE reason IS NOT NULL")
        return {program: reason for program, epoch, reason in told if since.get(program) == epoch}

    # ---------------------------------------------------------------------------------------------------- all is well

    def await_whole(self) -> dict[str, Life]:
        """Wait until all is well: every daemon connected, every program led by one, renewed and heard of since now."""
        since = boottime()
        present = wait_for(lambda: self._whole(since), PATIENCE, "all is whole")
        assert present is not None
        return present

    def _whole(self, since: float) -> dict[str, Life] | None:
        present = self.oracle.present()
        if {name: len(life.pids) for name, life in present.items() if life.last > since} != PROCESSES:
            return None
        alive = {name: (life.node, life.epoch) for name, life in present.items()}
        return present if alive == self._leaders(since) else None

    def _leaders(self, since: float) -> dict[str, tuple[str, int]] | None:
        """Return node and epoch by program; None when one is led twice, not renewed since, or a daemon is not well."""
        leaders: dict[str, tuple[str, int]] = {}
        for machine in self.machines:
            asked = boottime()
            try:
                programs = machine.control.ask("GET", "/v1/status")["programs"]
            except (HighlanderError, Down):
                return None
            if not all(program["connected"] for program in programs):
                return None
            for program in (one for one in programs if one["state"] == "leading"):
                if program["name"] in leaders or asked + (program["lease_remaining"] or 0) < since + self.lease:
                    return None
                leaders[program["name"]] = (machine.name, program["epoch"])
        return leaders
