"""What an upgrade does to a running daemon: new code beneath the programs, or nothing at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fix_nodes import PATIENCE, Nodes, settled_ledger
from fix_postgres import Database

SCRIPT = Path(__file__).parents[2] / "packaging/files/replace-worker"
LEASE = 30.0
"""Seconds; a worker that is replaced on a busy machine may need seconds to start."""


def replace_worker(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, "-ISB", str(SCRIPT), *map(str, arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    return run.returncode, run.stdout


def test_an_upgrade_replaces_the_worker_and_no_program(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    before, worker = a.program("beat"), a.worker
    code, said = replace_worker("--pid", a.guardian)
    assert (code, "programs that run on: 1" in said) == (0, True), said
    nodes.await_up(a)
    nodes.await_led("beat")
    assert a.worker != worker
    after = a.program("beat")
    assert (after["pid"], after["epoch"]) == (before["pid"], before["epoch"])


def test_a_configuration_that_the_new_code_refuses_leaves_the_old_worker(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    worker = a.worker
    a.file.write_text(a.file.read_text() + "\n[colours]\n")
    code, said = replace_worker("--pid", a.guardian)
    assert code == 1
    assert "the old worker goes on" in said
    assert "colours" in said
    assert a.worker == worker


def test_a_process_that_is_no_daemon_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        code, said = replace_worker("--pid", other.pid)
        assert (code, other.poll()) == (1, None)
        assert "not a daemon of ours" in said
        other.kill()


def test_an_upgrade_of_a_daemon_that_does_not_run_says_nothing() -> None:
    assert replace_worker("--pid", 0) == (0, "")
