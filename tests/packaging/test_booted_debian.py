"""The .deb on a real systemd: Debian booted in a container, from installation to purge, with programs running.

Needs root, systemd-nspawn, mmdebstrap, and a mirror of Debian for the first run of each release; the root file systems
are kept in build/packages. The container shares the network of this machine, and so reaches the test's PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd import __version__
from tests.packaging.booted.machine import PATIENCE, Machine, machines_lacking
from tests.packaging.booted.versions import following
from tests.support.nodes import settled_ledger
from tests.support.packages import made, root_beneath
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 30
"""Seconds; a busy machine takes some of them to load a worker, and none is replaced when they could pass meanwhile."""
PROGRAMS = """
[program.beat]
command = ["sleep", "infinity"]
[program.bot]
command = ["sleep", "infinity"]
user = "nobody"
"""
OTHERS = ("etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "etc/machine-id", "etc/.pwd.lock", "root/")
"""What may be there after the purge: backups of whoever writes accounts, what booting writes, what we copied there."""


@pytest.fixture(params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    made(f"highlander_{__version__}-*_amd64.deb")  # or skip, before anything is fetched
    if why := machines_lacking(tmp_path):
        pytest.skip(why)
    booted = Machine(f"{request.param}-alone", root_beneath(request.param), tmp_path / "machine")
    try:
        booted.boot()
        booted.await_up()
        yield booted
        print(booted.journal())
    finally:
        booted.close()
        shutil.rmtree(booted.home)


def await_led(machine: Machine) -> dict[str, int]:
    """Wait until both programs run; gives their pids."""
    wait_for(lambda: len(machine.led()) == 2, PATIENCE, "both programs are led")
    return machine.led()


def await_forked(machine: Machine) -> None:
    """Wait until a fork waits to become a keeper; none does where the sandbox keeps the fork server from forking."""
    names = ("ps", "-o", "comm=", "--ppid", machine.main_pid())
    wait_for(lambda: "forked" in machine.says(*names).splitlines(), PATIENCE, "the fork server has forked ahead")


def files_in(root: Path) -> dict[str, str]:
    """Return what is in a root file system, but for what booting and running machines write all the time."""
    running = (
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "var/tmp",
        "var/log",
        "var/cache",
        "var/backups",  # dpkg's own, at midnight
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
def test_from_installation_to_purge(machine: Machine, database: Database, tmp_path: Path) -> None:
    deb = made(f"highlander_{__version__}-*_amd64.deb")
    before = files_in(machine.root)
    shutil.copy(deb, machine.root / "root/highlander.deb")
    following(deb, tmp_path / "next", machine.root / "root/next.deb")

    # Installed, it waits for its configuration.
    assert "edit /etc/highlander.toml" in machine.does("dpkg", "--install", "/root/highlander.deb")
    assert machine.says("systemctl", "is-active", "highlanderd") == "inactive"
    assert machine.does("dpkg", "--verify", "highlander") == ""
    assert list((machine.root / "usr/lib/highlander/highlanderd/worker/__pycache__").glob("daemon.*.pyc")) != []

    # Configured, it runs, and each program has a cgroup of its own.
    machine.configure(PROGRAMS, postgres=f'dsn = "{database.dsn}"\nlease = "{LEASE}s"\n')
    machine.does("systemctl", "enable", "--now", "highlanderd")
    pids = await_led(machine)
    for pid in pids.values():
        assert "/highlanderd.service/highlander." in machine.says("cat", f"/proc/{pid}/cgroup")
    assert machine.does("dpkg", "--verify", "highlander").splitlines() == ["??5?????? c /etc/highlander.toml"]
    await_forked(machine)

    # A reload tells its outcome.
    wrong = machine.root / "etc/highlander/conf.d/wrong.toml"
    wrong.write_text("[colours]\n")
    assert machine.run("systemctl", "reload", "highlanderd").returncode != 0

    # An upgrade that cannot load this configuration leaves everything as it is.
    worker = machine.worker()
    assert "the present worker goes on" in machine.does("dpkg", "--install", "/root/highlander.deb")
    assert (machine.worker(), machine.led()) == (worker, pids)

    # One that can replaces the worker beneath the same programs.
    wrong.unlink()
    machine.does("systemctl", "reload", "highlanderd")
    assert "programs reattached: 2: beat, bot" in machine.does("dpkg", "--install", "/root/highlander.deb")
    assert await_led(machine) == pids
    assert machine.worker() != worker

    # So does the next version, and the way back from it: nothing that it writes is unknown to the former.
    for package in ("next", "highlander"):
        said = machine.does("dpkg", "--install", f"/root/{package}.deb")
        assert "programs reattached: 2: beat, bot" in said
        assert ("guardian and keepers are still" in said) == (package == "next")
        assert await_led(machine) == pids
    assert machine.does("dpkg", "--verify", "highlander").splitlines() == ["??5?????? c /etc/highlander.toml"]

    # SIGKILL of the daemon: systemd starts another one, and the programs begin a new term.
    machine.does("kill", "-KILL", machine.says("systemctl", "show", "--property=MainPID", "--value", "highlanderd"))
    wait_for(lambda: not set(pids.values()) & set(machine.led().values()), PATIENCE, "the former children are gone")
    pids = await_led(machine)

    # Removal drains, and keeps what the administrator wrote.
    assert "stopping the daemon" in machine.does("dpkg", "--remove", "highlander")
    assert "everything is drained; ends with code 0" in machine.journal()
    assert (machine.root / "etc/highlander.toml").exists()
    assert (machine.root / "var/lib/highlander/instance").exists()

    # Installed again, it is started, because it is enabled, and goes on where it was.
    machine.does("dpkg", "--install", "/root/highlander.deb")
    await_led(machine)

    # One that the administrator has stopped is not started by an upgrade, which says so; purged, nothing is left.
    machine.does("systemctl", "stop", "highlanderd")
    assert "is enabled, but does not run" in machine.does("dpkg", "--install", "/root/highlander.deb")
    assert machine.says("systemctl", "is-active", "highlanderd") == "inactive"
    machine.does("dpkg", "--purge", "highlander")
    after = files_in(machine.root)
    differs = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in differs if not path.startswith(OTHERS)} == set()


@pytest.mark.timeout(300)
def test_a_removal_stops_the_daemon_even_after_an_upgrade_that_was_broken_off(
    machine: Machine, database: Database, tmp_path: Path
) -> None:
    deb = made(f"highlander_{__version__}-*_amd64.deb")
    shutil.copy(deb, machine.root / "root/highlander.deb")
    following(deb, tmp_path / "next", machine.root / "root/next.deb", "# What follows is new.\n")

    # Masked, it cannot be enabled: the advice begins with that.
    machine.does("systemctl", "mask", "highlanderd")
    first = machine.does("dpkg", "--install", "/root/highlander.deb")
    again = machine.does("dpkg", "--install", "/root/highlander.deb")
    advised = "systemctl unmask highlanderd && systemctl enable --now highlanderd\n"
    assert first.endswith(f"edit /etc/highlander.toml, then: {advised}")
    assert again.endswith(f"highlanderd.service is masked, and does not run; start it: {advised}")
    machine.configure(PROGRAMS, postgres=f'dsn = "{database.dsn}"\nlease = "{LEASE}s"\n')
    machine.does("sh", "-c", advised)
    pids = await_led(machine)

    # The question which configuration counts finds nobody: the new files are there, and the daemon goes on.
    assert machine.run("dpkg", "--install", "/root/next.deb").returncode != 0
    assert machine.led() == pids
    assert "stopping the daemon" in machine.does("dpkg", "--remove", "highlander")
    assert "everything is drained; ends with code 0" in machine.journal()
    assert machine.says("systemctl", "is-active", "highlanderd") == "inactive"
    assert not (machine.root / "usr/lib/highlander").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("hardening", ["root", "unprivileged"])
def test_a_hardened_daemon_leads(machine: Machine, database: Database, hardening: str) -> None:
    deb = made(f"highlander_{__version__}-*_amd64.deb")
    shutil.copy(deb, machine.root / "root/highlander.deb")
    machine.does("dpkg", "--install", "/root/highlander.deb")
    mine = PROGRAMS if hardening == "root" else PROGRAMS.replace('user = "nobody"', "")
    machine.suggest("dsn", "lease")
    machine.configure(mine, postgres=f'dsn = "file:highlander/dsn"\nlease = "{LEASE}s"\n')
    settled_ledger(database, LEASE)
    (machine.root / "etc/highlander/dsn").write_text(database.dsn)
    machine.does("chmod", "640", "/etc/highlander/dsn")
    machine.does("chgrp", "highlander", "/etc/highlander/dsn")
    source = f"/usr/share/highlander/hardening/{hardening}.conf"
    machine.does("install", "-D", "-m", "644", source, "/etc/systemd/system/highlanderd.service.d/hardening.conf")
    machine.does("systemctl", "daemon-reload")
    machine.does("systemctl", "start", "highlanderd")
    for pid in await_led(machine).values():
        assert "/highlanderd.service/highlander." in machine.says("cat", f"/proc/{pid}/cgroup")
    await_forked(machine)
    assert machine.says("stat", "-c", "%G %a", "/run/highlander/control.sock") == "highlander 660"
    text = ("systemctl", "show", "--property=StatusText", "--value", "highlanderd")
    wait_for(lambda: machine.says(*text) == "leading 2", PATIENCE, "the status of the service has no trouble")
    worker = machine.worker()
    assert "programs reattached: 2" in machine.does("highlanderctl", "renew")
    assert machine.worker() != worker
    assert machine.does("highlanderctl", "reload") == "nothing to change\n"
    machine.does("systemctl", "stop", "highlanderd")
    assert "everything is drained; ends with code 0" in machine.journal()
