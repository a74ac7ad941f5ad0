"""``lock_key = [a, b]`` with psql on the other side, as HighlanderPG takes its lock: each waits for the other."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.support.commands import highlanderctl
from tests.support.nodes import PATIENCE, Node, Nodes
from tests.support.postgres import Database
from tests.support.wait import wait_for

PROGRAM = "[program.clock]\nlock_key = [1, 52318]\n"
HOLD = "SELECT pg_try_advisory_lock(1, 52318);\nSELECT pg_sleep(600);\n"
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'"
"""psql's own end is noticed only once its statement has ended."""


def psql(database: Database) -> subprocess.Popen[str]:
    """Start psql on the ledger's database."""
    program = shutil.which("psql")
    if program is None:
        pytest.skip("needs psql")
    command = [program, "--no-psqlrc", "--tuples-only", "--no-align", database.dsn]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def reason(node: Node) -> str:
    return str(node.program("clock")["reason"])


def test_a_program_takes_over_when_the_other_session_ends_and_keeps_it_out_then(
    nodes: Nodes, database: Database
) -> None:
    with psql(database) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(HOLD)
        other.stdin.flush()
        assert other.stdout.readline() == "t\n"
        [a] = nodes(database, "a", programs=PROGRAM)
        wait_for(lambda: "holds the advisory lock: pid " in reason(a), PATIENCE, "the program waits, and says for whom")
        assert "application 'psql'" in highlanderctl(a.socket, "explain", "clock").out
        assert not nodes.journal.lives()
        other.kill()
        database.sql(END)
    nodes.await_led("clock")

    with psql(database) as other:
        assert other.communicate("SELECT pg_try_advisory_lock(1, 52318);\n", PATIENCE)[0] == "f\n"
    a.order("stop", "clock")
    with psql(database) as other:
        assert other.communicate("SELECT pg_try_advisory_lock(1, 52318);\n", PATIENCE)[0] == "t\n"
