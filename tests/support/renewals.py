"""Nodes whose worker is renewed: by the code that is installed beneath them, which a test may change."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.deaths import proc_file
from tests.support.installed import PACKAGE, Installed
from tests.support.nodes import PATIENCE, Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.processes import children
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; a worker that is replaced on a busy machine may need seconds to start."""


def renewing(node: Node) -> subprocess.Popen[str]:
    """Order a renewal, and do not wait for it."""
    command = [sys.executable, "-m", "highlanderd.ctl", "--socket", str(node.socket), "renew"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def rehearsal(node: Node) -> int:
    """Wait until the worker has executed the installed code; gives that process."""

    def found() -> int:
        words = ((pid, proc_file(f"/proc/{pid}/cmdline").split(b"\0")) for pid in children(node.worker))
        return next((pid for pid, command in words if b"--handover" in command), 0)

    return wait_for(found, PATIENCE, "the worker has executed the installed code")


def life(node: Node) -> tuple[object, object]:
    """Return what tells one child of the program beat from the next."""
    status = node.program("beat")
    return status["pid"], status["epoch"]


def was_executed_ahead(node: Node) -> bool:
    """Return whether the worker is a process that the one before it has executed."""
    words = proc_file(f"/proc/{node.worker}/environ").split(b"\0")
    return any(word.startswith(b"HIGHLANDER_SPARE_FD=") and b"," in word for word in words)


@pytest.fixture
def led(nodes: Nodes, database: Database) -> Node:
    """A node that leads the program beat."""
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    return node


@pytest.fixture
def installed(nodes: Nodes) -> Installed:
    """A copy of the code, which a test may replace as a package does."""
    return Installed(nodes.directory / "site")


def started(
    nodes: Nodes, database: Database, installed: Installed, lease: float, program: str = "[program.beat]"
) -> Node:
    """Start a node of version 0.0.9, and wait until it leads the program beat."""
    installed.of_version("0.0.9")
    settled_ledger(database, lease)
    node = Node("a", nodes.directory / "a", database.dsn, lease, nodes.journal)
    nodes.nodes.append(node)
    node.environment = installed.environment
    node.configure(program)
    node.start()
    nodes.await_up(node)
    nodes.await_led("beat")
    return node


@pytest.fixture
def older(nodes: Nodes, database: Database, installed: Installed) -> Node:
    """A node of version 0.0.9, which leads the program beat."""
    return started(nodes, database, installed, LEASE)
