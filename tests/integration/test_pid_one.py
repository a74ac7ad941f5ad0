"""Both entrypoints as PID 1 of a PID namespace, as in a container: they reap orphans, and SIGTERM ends them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.support.deaths import proc_file
from tests.support.runs import LEASE, PATIENCE, Run, Runs
from tests.support.wait import wait_for

ALONE = ("unshare", "--pid", "--mount-proc", "--fork", "--kill-child")
PROGRAM = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
ORPHANS = "(sleep 1000 & ); (sleep 1000 & )"


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        pytest.skip("needs root, and util-linux's unshare and nsenter")


def first_of(run: Run) -> int:
    """Return the pid, as it is out here, of the namespace's first process."""

    def first() -> int:
        pids = run.below(b"")
        return next((pid for pid in pids if re.search(rb"NSpid:.*\t1\n", proc_file(f"/proc/{pid}/status"))), 0)

    return wait_for(first, PATIENCE, "there is a PID 1")


def zombies(pid: int) -> list[int]:
    """Return the children of a process that wait to be reaped, and orphans that have not ended."""
    children = map(int, proc_file(f"/proc/{pid}/task/{pid}/children").split())
    return [child for child in children if b"highlanderd" not in proc_file(f"/proc/{child}/cmdline")]


def adopts_and_reaps(pid: int) -> None:
    """Have strangers, as an engine's exec makes them, orphaned in the namespace, and wait until they are reaped."""
    subprocess.run(["nsenter", "-t", str(pid), "-p", "sh", "-c", ORPHANS], check=True)
    for orphan in wait_for(lambda: len(found := zombies(pid)) == 2 and found, PATIENCE, "both are adopted") or ():
        os.kill(orphan, signal.SIGKILL)
    wait_for(lambda: not zombies(pid), PATIENCE, "they are reaped")


def test_a_run_reaps_orphans_and_passes_signals_on_as_pid_1(runs: Runs) -> None:
    run = runs("--", "sh", "-c", PROGRAM, before=ALONE)
    assert run.process.stdout is not None
    assert run.process.stdout.readline() == "ready\n"
    first = first_of(run)
    adopts_and_reaps(first)
    os.kill(first, signal.SIGTERM)
    assert run.ended() == (3, "", "")


def test_a_daemon_reaps_orphans_and_drains_as_pid_1(runs: Runs) -> None:
    file, home = runs.directory / "node.toml", runs.directory
    file.write_text(
        f'[daemon]\nnode = "a"\nrun_dir = "{home}/run"\nstate_dir = "{home}/state"\n'
        f'[postgres]\ndsn = "${{HIGHLANDER_DSN}}"\nlease = {LEASE}\n[metrics]\nlisten = ""\n'
        f'[program.beat]\ncommand = ["sh", "-c", "{PROGRAM}"]\nstop_to = "main"\n'
    )
    daemon = runs.start((*ALONE, sys.executable, "-m", "highlanderd", "-c", str(file)))
    assert daemon.process.stdout is not None
    assert daemon.process.stdout.readline() == "beat: ready\n"
    first = first_of(daemon)
    adopts_and_reaps(first)
    os.kill(first, signal.SIGTERM)
    assert daemon.ended()[0] == 0
