"""A user database that gives no answer holds up what asks for it, and nothing else."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.support.commands import answers, highlanderctl, highlanderd, led
from tests.support.long import first_of
from tests.support.nodes import PATIENCE, Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.processes import children
from tests.support.userdb import UserDatabase
from tests.support.wait import wait_for

LEASE = 10.0
AWAY = "the user database does not answer"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a program as another user")
LODGER = f"""
[program.beat]
[program.lodger]
command = ["sleep", "1000"]
user = "{pwd.getpwuid(65534).pw_name}"
backoff = "100ms"
"""


def begin(nodes: Nodes, database: Database, names: UserDatabase, programs: str) -> Node:
    settled_ledger(database, LEASE)
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    node.environment = names.environment
    nodes.nodes.append(node)
    node.configure(programs)
    node.start()
    return node


@needs_root
@pytest.mark.parametrize("key", first_of(["{}", "groups of {}"]))
def test_the_neighbour_of_a_program_whose_user_cannot_be_looked_up_leads_on(
    nodes: Nodes, database: Database, tmp_path: Path, key: str
) -> None:
    names, nobody = UserDatabase(tmp_path), pwd.getpwuid(65534).pw_name
    node = begin(nodes, database, names, LODGER)
    led(node, "beat", "lodger")
    worker = node.worker
    names.hang(key.format(nobody))
    node.order("restart", "lodger", wait=False)
    wait_for(lambda: AWAY in str(node.program("lodger")["reason"]), PATIENCE, "the reason is named")
    assert node.worker == worker
    assert ends(database, "beat") == [None]
    names.hang()
    led(node, "beat", "lodger")
    assert node.program("beat")["restarts"] == 0


@needs_root
def test_a_worker_is_renewed_without_its_user_database_and_has_no_spare_that_could_never_ask(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    names = UserDatabase(tmp_path)
    node = begin(nodes, database, names, LODGER)
    led(node, "beat", "lodger")
    names.hang(pwd.getpwuid(65534).pw_name)
    renewed = highlanderctl(node.socket, "renew")
    assert (renewed.code, AWAY in renewed.err) == (0, True)
    assert children(node.worker) == []
    names.hang()
    node.order("restart", "lodger", wait=False)
    led(node, "beat", "lodger")
    assert ends(database, "beat") == [None]


@needs_root
def test_a_daemon_starts_without_its_user_database(nodes: Nodes, database: Database, tmp_path: Path) -> None:
    names = UserDatabase(tmp_path)
    names.hang(pwd.getpwuid(65534).pw_name)
    node = begin(nodes, database, names, LODGER)
    led(node, "beat")
    assert AWAY in node.log.read_text()


def test_orders_of_a_user_without_a_name_are_carried_out_and_leave_no_threads(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    names = UserDatabase(tmp_path)
    node = begin(nodes, database, names, "[program.beat]\n")
    led(node, "beat")
    names.hang(str(os.geteuid()))
    node.order("stop", "beat")
    before = len(os.listdir(f"/proc/{node.worker}/task"))  # noqa: PTH208
    for _ in range(10):
        node.order("stop", "beat")
    assert len(os.listdir(f"/proc/{node.worker}/task")) <= before + 2  # noqa: PTH208
    assert node.program("beat")["state"] == "stopped"


@pytest.mark.long  # beside a user that cannot be looked up
def test_a_daemon_whose_control_group_cannot_be_looked_up_leads_and_tries_again(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    names = UserDatabase(tmp_path)
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    settled_ledger(database, LEASE)
    node.environment = names.environment
    nodes.nodes.append(node)
    node.extra = '[control]\ngroup = "nogroup"\n'
    node.configure("[program.beat]\n")
    names.hang("group nogroup")
    node.start()
    wait_for(lambda: AWAY in node.log.read_text(), PATIENCE, "it says so")
    assert not answers(node)
    names.hang()
    wait_for(lambda: answers(node), PATIENCE, "it answers")


def test_a_check_names_the_user_and_ends(nodes: Nodes, database: Database, tmp_path: Path) -> None:
    names = UserDatabase(tmp_path)
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    node.configure(LODGER)
    names.hang(pwd.getpwuid(65534).pw_name)
    checked = highlanderd("--check", "-c", node.file, **names.environment)
    assert checked.code == 78
    assert f"program.lodger.user: {AWAY}" in checked.err
