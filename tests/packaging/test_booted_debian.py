"""The .deb on a real systemd: Debian booted in a container, from installation to purge, with programs running.

Needs root, systemd-nspawn, mmdebstrap, and a mirror of Debian for the first run of each release; the root file systems
are kept in build/packages. The container shares the network of this machine, and so reaches the test's PostgreSQL.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fact import wait_for
from fix_packages import ROOTS, made, root_file_system, tool
from fix_postgres import Database

from highlanderd import __version__

PATIENCE = 60.0
"""Seconds for a machine that boots beside other tests, and for a lease after a restart."""
PROGRAMS = """
[program.beat]
command = ["sleep", "infinity"]
[program.bot]
command = ["sleep", "infinity"]
user = "nobody"
"""
OTHERS = ("etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "etc/machine-id", "etc/.pwd.lock", "root/")
"""What may be there after the purge: backups of whoever writes accounts, what booting writes, what we copied there."""


class Machine:
    """A booted container, seen from outside."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        command = ["systemd-nspawn", "--quiet", f"--directory={root}", "--boot", "--register=no", "--keep-unit"]
        command += ["--console=read-only", "--machine=highlander-test", "--link-journal=no"]
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with log.open("wb") as output:
            self._nspawn = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._leader = 0

    def await_up(self) -> None:
        """Wait until it has booted."""
        self._leader = wait_for(self._first_process, PATIENCE, "the container has a first process")
        wait_for(lambda: self.says("systemctl", "is-system-running") in ("running", "degraded"), PATIENCE, "it is up")

    def _first_process(self) -> int:
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        within = ["nsenter", "--target", str(self._leader), "--all", "env", "-i"]
        within += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *command]
        return subprocess.run(
            within, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )

    def says(self, *command: str) -> str:
        """Give what a command says."""
        return self.run(*command).stdout.strip()

    def does(self, *command: str) -> str:
        """Run a command that has to succeed; gives what it says."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def programs(self) -> dict[str, dict[str, Any]]:
        """Give the programs' status by name; none while the daemon does not answer."""
        asked = self.run("highlanderctl", "status", "--json")
        return {one["name"]: one for one in json.loads(asked.stdout)["programs"]} if asked.returncode == 0 else {}

    def led(self) -> dict[str, int]:
        """Give the pids of the programs that are led, by name."""
        return {name: one["pid"] for name, one in self.programs().items() if one["state"] == "leading" and one["pid"]}

    def await_led(self) -> dict[str, int]:
        """Wait until both programs run."""
        wait_for(lambda: len(self.led()) == 2, PATIENCE, "both programs are led")
        return self.led()

    def worker(self) -> str:
        """Give the pid of the daemon's worker."""
        return self.says("pgrep", "-f", "^/usr/bin/python3 -ISB /usr/bin/highlanderd --worker")

    def journal(self) -> str:
        """Give the unit's journal."""
        return self.says("journalctl", "--unit=highlanderd", "--no-pager", "--output=cat")

    def halt(self) -> None:
        """Power it off, or pull the plug: what runs inside outlives systemd-nspawn, but not its own first process."""
        first = self._first_process() if self._nspawn.poll() is None else 0
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(20)
        except subprocess.TimeoutExpired:
            if first:
                os.kill(first, signal.SIGKILL)
            self._nspawn.kill()
            self._nspawn.wait(20)


@pytest.fixture(params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    made(f"highlander_{__version__}-*_amd64.deb")  # or skip, before anything is fetched
    for name in ("systemd-nspawn", "nsenter"):
        tool(name)
    root = root_file_system(request.param, tmp_path / "root")
    with (ROOTS / "booted.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two containers would share one part of the cgroup tree
        booted = Machine(root, tmp_path / "console")
        try:
            booted.await_up()
            yield booted
            print(booted.journal())
        finally:
            booted.halt()
            shutil.rmtree(root)


def files_in(root: Path) -> dict[str, str]:
    """Give what is in a root file system, but for what booting and running machines write all the time."""
    running = (
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "var/tmp",
        "var/log",
        "var/cache",
        "var/lib/apt",
        "var/lib/dpkg",
        "var/lib/systemd",
        "var/lib/dbus",
    )
    found = {}
    for directory, below, files in os.walk(root):
        place = Path(directory).relative_to(root)
        below[:] = [name for name in below if str(place / name) not in running]
        for name in (*below, *files):
            path = root / place / name
            about = path.lstat()
            found[str(place / name)] = (
                f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {'' if path.is_dir() else about.st_size}"
            )
    return found


@pytest.mark.timeout(600)
def test_from_installation_to_purge(machine: Machine, database: Database) -> None:
    deb = made(f"highlander_{__version__}-*_amd64.deb")
    before = files_in(machine.root)
    shutil.copy(deb, machine.root / "root/highlander.deb")

    # Installed, it waits for its configuration.
    assert "edit /etc/highlander.toml" in machine.does("dpkg", "--install", "/root/highlander.deb")
    assert machine.says("systemctl", "is-active", "highlanderd") == "inactive"
    assert machine.does("dpkg", "--verify", "highlander") == ""

    # Configured, it runs, and each program has a cgroup of its own.
    file = machine.root / "etc/highlander.toml"
    file.write_text(file.read_text().replace("[postgres]\n", f'[postgres]\ndsn = "{database.dsn}"\nlease = "4s"\n'))
    (machine.root / "etc/highlander/conf.d/programs.toml").write_text(PROGRAMS)
    machine.does("systemctl", "enable", "--now", "highlanderd")
    pids = machine.await_led()
    for pid in pids.values():
        assert "/highlanderd.service/highlander." in machine.says("cat", f"/proc/{pid}/cgroup")
    assert machine.does("dpkg", "--verify", "highlander").splitlines() == ["??5?????? c /etc/highlander.toml"]

    # A reload tells its outcome.
    wrong = machine.root / "etc/highlander/conf.d/wrong.toml"
    wrong.write_text("[colours]\n")
    assert machine.run("systemctl", "reload", "highlanderd").returncode != 0

    # An upgrade that cannot load this configuration leaves everything as it is.
    worker = machine.worker()
    assert "the old worker goes on" in machine.does("dpkg", "--install", "/root/highlander.deb")
    assert (machine.worker(), machine.led()) == (worker, pids)

    # One that can replaces the worker beneath the same programs.
    wrong.unlink()
    machine.does("systemctl", "reload", "highlanderd")
    assert "programs that run on: 2" in machine.does("dpkg", "--install", "/root/highlander.deb")
    assert machine.await_led() == pids
    assert machine.worker() != worker

    # SIGKILL of the daemon: systemd starts another one, and the programs begin a new term.
    machine.does("kill", "-KILL", machine.says("systemctl", "show", "--property=MainPID", "--value", "highlanderd"))
    wait_for(lambda: not set(pids.values()) & set(machine.led().values()), PATIENCE, "the former children are gone")
    pids = machine.await_led()

    # Removal drains, and keeps what the administrator wrote.
    assert "stopping the daemon" in machine.does("dpkg", "--remove", "highlander")
    assert "everything is drained; ends with code 0" in machine.journal()
    assert file.exists()
    assert (machine.root / "var/lib/highlander/instance").exists()

    # Installed again, it goes on where it was; purged, nothing is left.
    machine.does("dpkg", "--install", "/root/highlander.deb")
    machine.does("systemctl", "start", "highlanderd")
    machine.await_led()
    machine.does("dpkg", "--purge", "highlander")
    after = files_in(machine.root)
    differs = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in differs if not path.startswith(OTHERS)} == set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("hardening", ["root", "unprivileged"])
def test_a_hardened_daemon_leads(machine: Machine, database: Database, hardening: str) -> None:
    deb = made(f"highlander_{__version__}-*_amd64.deb")
    shutil.copy(deb, machine.root / "root/highlander.deb")
    machine.does("dpkg", "--install", "/root/highlander.deb")
    file = machine.root / "etc/highlander.toml"
    file.write_text(file.read_text().replace("[postgres]\n", f'[postgres]\ndsn = "{database.dsn}"\nlease = "4s"\n'))
    mine = PROGRAMS if hardening == "root" else PROGRAMS.replace('user = "nobody"', "")
    (machine.root / "etc/highlander/conf.d/programs.toml").write_text(mine)
    source = f"/usr/share/highlander/hardening/{hardening}.conf"
    machine.does("install", "-D", "-m", "644", source, "/etc/systemd/system/highlanderd.service.d/hardening.conf")
    machine.does("systemctl", "daemon-reload")
    machine.does("systemctl", "start", "highlanderd")
    for pid in machine.await_led().values():
        assert "/highlanderd.service/highlander." in machine.says("cat", f"/proc/{pid}/cgroup")
    machine.does("systemctl", "stop", "highlanderd")
    assert "everything is drained; ends with code 0" in machine.journal()
