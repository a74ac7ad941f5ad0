"""What an upgrade does to a running daemon: new code beneath the programs, or nothing at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nodes import PATIENCE, Nodes, settled_ledger
from tests.support.postgres import Database

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


def test_what_this_machine_lacks_for_a_program_keeps_no_new_code_away(nodes: Nodes, database: Database) -> None:
    [a] = nodes(database, "a", programs=["beat"])
    nodes.await_led("beat")
    worker = a.worker
    a.file.write_text(a.file.read_text() + '\n[program.other]\ncommand = "/none"\nuser = "nobody-we-know"\n')
    code, said = replace_worker("--pid", a.guardian)
    assert (code, "programs that run on: 1" in said) == (0, True), said
    nodes.await_up(a)
    assert a.worker != worker


def test_a_process_that_is_no_daemon_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        code, said = replace_worker("--pid", other.pid)
        assert (code, other.poll()) == (1, None)
        assert "not a daemon of ours" in said
        other.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights that another user has not")
def test_what_a_daemons_user_can_write_is_run_with_that_users_rights_and_no_terminal() -> None:
    """An unprivileged daemon's program may write into the daemon's memory, and so what /proc says of its command."""
    check = "exec >&2; id -u; id -g; id -G; cut -d ' ' -f 6 /proc/$$/stat; echo $$; printf '\\033[2J'; exit 1"
    guardian = ["--lock-fd", "3", "--", "/bin/sh", "-c", check]
    idle = ["/bin/sh", "-c", "read line", *guardian]
    with subprocess.Popen(idle, stdin=subprocess.PIPE, user=65534, group=65534, extra_groups=[65533]) as other:
        code, said = replace_worker("--pid", other.pid)
        other.kill()
    uid, gid, groups, session, leader, rest = said.partition("goes on:\n")[2].splitlines()[:6]
    assert (code, uid.rpartition(" ")[2], gid, groups) == (1, "65534", "65534", "65534 65533")
    assert session == leader  # so no terminal of ours is theirs
    assert rest == "?[2J"


def test_an_upgrade_of_a_daemon_that_does_not_run_says_nothing() -> None:
    assert replace_worker("--pid", 0) == (0, "")
