"""A booted Debian, seen from outside: systemd-nspawn over a root file system that stays as it is.

What the machine writes lies in its ``home`` and outlives a reboot. Its mounts are in a namespace of its own and its
processes in a cgroup of its own, so that nothing is left of it after ``close``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from highlanderd.ctl.client import ControlClient
from highlanderd.guardian import cgroup
from tests.support.wait import wait_for

PATIENCE = 60.0
"""Seconds for a machine that boots beside other tests, and for whatever takes a moment in it."""
UNIT = "highlanderd.service"
TOOLS = ("systemd-nspawn", "nsenter", "unshare", "mount")
WHAT_TAKES = "booting a machine takes"
START = """
echo 0 > "$GROUP/cgroup.procs" &&
mount -t tmpfs tmpfs /run &&
mount -t overlay -o "lowerdir=$LOWER,upperdir=$MACHINE/upper,workdir=$MACHINE/work" overlay "$MACHINE/root" &&
exec systemd-nspawn "$@"
"""
"""In a mount namespace of its own: systemd-nspawn leaves things in /run, too."""
PROBE = 'mkdir "$0/u" "$0/w" && mount -t overlay -o "lowerdir=/etc,upperdir=$0/u,workdir=$0/w" overlay "$0"'
OPTIONS = ("--quiet", "--boot", "--register=no", "--keep-unit", "--console=read-only", "--link-journal=no")


def machines_lacking(directory: Path) -> str:
    """Say why nothing can be booted here, with what it writes in ``directory``; empty when it can."""
    if os.geteuid() != 0:
        return f"{WHAT_TAKES} root"
    if tools := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{WHAT_TAKES} {', '.join(tools)}"
    if not groups_can_be_killed():
        return f"{WHAT_TAKES} cgroups (version 2, of Linux 5.14 or newer) that may be made"
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", PROBE, directory], capture_output=True, text=True)
    for name in ("u", "w"):
        shutil.rmtree(directory / name, ignore_errors=True)
    return f"{WHAT_TAKES} overlays, which are refused here: {tried.stderr.strip()}" if tried.returncode else ""


def groups_can_be_killed() -> bool:
    """Whether cgroups can be made here, and killed as a whole."""
    probe = f"{cgroup.own()}/highlander-test.{os.getpid()}"
    if cgroup.own() is None or not cgroup.create(probe):
        return False
    killed = cgroup.killer(probe)
    if killed is not None:
        os.close(killed)
    cgroup.remove(probe)
    return killed is not None


class Down(Exception):
    """The machine is not up: nothing in it can be asked."""


class Machine:
    """One machine over the root file system ``lower``; ``options`` are more of systemd-nspawn's."""

    def __init__(self, name: str, lower: Path, home: Path, *options: str) -> None:
        self.name, self.home = name, home
        self._lower = lower
        self._options = (*OPTIONS, f"--machine={name}", f"--directory={home / 'root'}", *options)
        self._groups = _groups(f"highlander-test.{os.getpid()}.{name}")
        self._nspawn: subprocess.Popen[bytes] | None = None
        for part in ("upper", "work", "root"):
            (home / part).mkdir(parents=True)
        (home / "upper/etc").mkdir()
        (home / "upper/etc/hostname").write_text(f"{name}\n")
        (home / "upper/var/log/journal").mkdir(parents=True)  # journald keeps it, then, for after a reboot
        (home / "cgroups").write_text("".join(f"{group}\n" for group in self._groups))

    # ----------------------------------------------------------------------------------------------- power

    def boot(self) -> None:
        """Switch it on; it is up a moment later."""
        for group in self._groups:
            group.mkdir(exist_ok=True)
        told = {"GROUP": str(self._groups[0]), "LOWER": str(self._lower), "MACHINE": str(self.home)}
        environment = {**os.environ, **told, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (self.home / "console").open("ab") as output:
            self._nspawn = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", START, "sh", *self._options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def await_up(self) -> None:
        """Wait until it has booted."""
        wait_for(self._booted, PATIENCE, f"{self.name} is up")

    def await_down(self) -> None:
        """Wait until it is off: shut down, rebooting, or without power."""
        assert self._nspawn is not None
        self._nspawn.wait(PATIENCE)

    def cut_power(self) -> None:
        """End all of it at once, as the kernel does with the first process."""
        os.kill(self._first_process(), signal.SIGKILL)
        self.await_down()

    def close(self) -> None:
        """Leave nothing that runs, and no cgroup."""
        for group in self._groups:
            cgroup.kill(str(group))
        if self._nspawn is not None:
            self._nspawn.wait(PATIENCE)
        wait_for(lambda: not any(cgroup.populated(str(group)) for group in self._groups), PATIENCE, "all has ended")
        for group in self._groups:
            cgroup.remove(str(group))

    def _booted(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise AssertionError(f"{self.name} does not boot:\n{(self.home / 'console').read_text()[-2000:]}")
        with contextlib.suppress(Down):
            return self.says("systemctl", "is-system-running") in ("running", "degraded")
        return False

    def _first_process(self) -> int:
        """Return the pid of its init, as we see it. Raises Down."""
        assert self._nspawn is not None
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            listed = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
            for pid in listed:
                if _pid_inside(pid) == "1":
                    return int(pid)
        raise Down(f"{self.name} is not up")

    # ---------------------------------------------------------------------------------------------- inside

    @property
    def root(self) -> Path:
        """Its files. Raises Down."""
        return Path(f"/proc/{self._first_process()}/root")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside. Raises Down."""
        within = ["nsenter", "--target", str(self._first_process()), "--all", "env", "-i"]
        within += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *command]
        return subprocess.run(
            within, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )

    def says(self, *command: str) -> str:
        """Return what a command says."""
        return self.run(*command).stdout.strip()

    def does(self, *command: str) -> str:
        """Run a command that has to succeed; gives what it says."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    # ---------------------------------------------------------------------------------------- highlanderd

    @property
    def control(self) -> ControlClient:
        """Its daemon. Raises Down."""
        return ControlClient(str(self.root / "run/highlander/control.sock"))

    @property
    def unit(self) -> Path:
        """The cgroup of its daemon; there are those of the children below it."""
        return self._groups[0] / "payload/system.slice" / UNIT

    def main_pid(self) -> str:
        """Return the pid of the daemon's guardian, inside."""
        return self.says("systemctl", "show", "--property=MainPID", "--value", UNIT)

    def programs(self) -> dict[str, dict[str, Any]]:
        """Return the programs' status by name; none while the daemon does not answer."""
        asked = self.run("highlanderctl", "status", "--json")
        return {one["name"]: one for one in json.loads(asked.stdout)["programs"]} if asked.returncode == 0 else {}

    def led(self) -> dict[str, int]:
        """Return the pids of the programs that are led, by name."""
        return {name: one["pid"] for name, one in self.programs().items() if one["state"] == "leading" and one["pid"]}

    def configure(self, programs: str, **sections: str) -> None:
        """Write keys into sections of the configuration that came with the package, and programs into a file."""
        file = self.root / "etc/highlander.toml"
        text = file.read_text()
        for section, keys in sections.items():
            text = text.replace(f"\n[{section}]\n", f"\n[{section}]\n{keys}")
        file.write_text(text)
        (self.root / "etc/highlander/conf.d/programs.toml").write_text(programs)

    def suggest(self, *keys: str) -> None:
        """Put the examples of the configuration that came with the package in force, but for those of ``keys``."""
        file = self.root / "etc/highlander.toml"
        lines = file.read_text().splitlines()
        head = lines[: lines.index("[defaults]")]
        suggested = [
            line[1:] if line.startswith("#") and line[1:].split(" = ")[0].isidentifier() and " = " in line else line
            for line in head
            if not any(line.startswith(f"#{key} = ") for key in keys)
        ]
        file.write_text("\n".join(suggested + lines[len(head) :]) + "\n")

    def renew(self) -> None:
        """Renew the daemon, as soon as the machine is not too busy for that."""
        said: list[str] = []

        def renewed() -> bool:
            done = self.run("highlanderctl", "renew")
            said.append(done.stdout)
            return done.returncode == 0

        try:
            wait_for(renewed, PATIENCE, f"{self.name} is renewed")
        except AssertionError as late:
            raise AssertionError(f"{late}; it was told: {said[-1]}") from late

    def worker(self) -> str:
        """Return the pid of the daemon's worker."""
        return self.says("pgrep", "-f", "^/usr/bin/python3 -ISB /usr/bin/highlanderd --worker")

    def journal(self) -> str:
        """Return the unit's journal, of all boots; while it is not up, what was last seen of it."""
        with contextlib.suppress(Down):
            return self.says("journalctl", f"--unit={UNIT}", "--no-pager", "--output=short-iso-precise")
        return f"not up:\n{(self.home / 'console').read_text(errors='replace')[-2000:]}"


def _pid_inside(pid: str) -> str:
    """Return the innermost of a process' pids; empty for one of our own namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    [pids] = [line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")]
    return pids[-1] if len(pids) > 1 else ""


def _groups(name: str) -> Sequence[Path]:
    """Name a cgroup of version 2, and the one of systemd's old hierarchy that systemd-nspawn makes beside it."""
    own = cgroup.own()
    assert own is not None
    place = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    named = [
        mount for _, mount, kind, options, *_ in mounts if kind == "cgroup" and "name=systemd" in options.split(",")
    ]
    return [Path(own) / name, *(Path(mount + place) / name for mount in named)]
