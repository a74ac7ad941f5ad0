"""What a daemon says of programs that cannot be started: the others run on."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

from tests.support.bad_input import LEASE, QUIET, begin, reason
from tests.support.commands import NOBODY, as_nobody, led
from tests.support.nodes import PACKAGE, Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

BROKEN = """
[program.missing]
command = "no-such-command --at-all"
[program.stranger]
command = "sleep 1000"
user = "no-such-user"
[program.lost]
command = "sleep 1000"
directory = "/no/such/directory"
[program.bare]
command = "sleep 1000"
environment_file = "/no/such/file"
[program.good]
command = "sleep 1000"
"""


def test_broken_programs_stop_no_other_one_and_each_says_why(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    node = begin(nodes, database.dsn, BROKEN)
    led(node, "good")
    assert reason(node, "missing", "cannot execute") == (
        "cannot execute 'no-such-command': No such file or directory; "
        "install it, correct `command`, or set PATH in `environment`"
    )
    assert reason(node, "lost", "cannot enter") == (
        "cannot enter directory '/no/such/directory': No such file or directory; create it, or correct `directory`"
    )
    assert reason(node, "stranger", "no user") == (
        'program stranger cannot be started: there is no user "no-such-user" on this machine; create it, '
        "or set another user"
    )
    assert reason(node, "bare", "environment file") == (
        "/no/such/file: there is no such environment file; create it, "
        'or write "-" before its path where it may be missing'
    )
    for name in ("missing", "stranger", "lost", "bare"):
        wait_for(lambda name=name: node.program(name)["failures"] >= 3, what=f"{name} has failed three times")  # type: ignore[misc]
    assert "good" in node.leading()
    assert node.program("good")["restarts"] == 0
    assert node.program("good")["epoch"] == 1
    warned = [line for line in node.log.read_text().splitlines() if line.startswith("warning: ") and "program." in line]
    assert [line.split(": ")[2] for line in warned] == [
        "program.missing.command",
        "program.stranger.user",
        "program.lost.directory",
        "program.bare.environment_file",
    ]


def test_a_broken_program_is_tried_less_and_less_often(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    node = begin(nodes, database.dsn, '[program.beat]\ncommand = "no-such-command"\nbackoff = 0.1\nbackoff_max = 0.8\n')
    ends = "SELECT extract(epoch FROM ended_at)::float FROM highlander.term WHERE ended_at IS NOT NULL ORDER BY epoch"
    wait_for(lambda: len(database.sql(ends)) >= 6, what="six terms have ended")
    at = [moment for (moment,) in database.sql(ends)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert all(pauses[n] >= least for n, least in enumerate((0.09, 0.18, 0.36, 0.72, 0.72)))  # never sooner
    wait_for(lambda: node.program("beat")["failures"] >= 6, what="the node has counted them")


class Unprivileged(Node):
    """A daemon that runs as nobody."""

    def start(self) -> None:
        command = [*as_nobody(), sys.executable, "-m", "highlanderd", "-c", str(self.file)]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "TEST_HOME": str(self.home)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )


def test_a_user_that_only_root_could_become(nodes: Nodes, database: Database) -> None:
    as_nobody()  # or skip
    settled_ledger(database, LEASE)
    nodes.directory.chmod(0o755)
    node = Unprivileged("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    node.configure(f'[program.root]\ncommand = ["sleep", "1000"]\nuser = "daemon"\n{QUIET}')
    os.chown(node.home, NOBODY, NOBODY)
    node.file.chmod(0o644)
    nodes.nodes.append(node)
    node.start()
    led(node, "beat")
    assert reason(node, "root", "cannot become") == (
        "cannot become user 1, group 1: Operation not permitted; only root may start programs as another user: run the "
        "daemon as root, or remove `user`, `group` and `supplementary_groups`"
    )
