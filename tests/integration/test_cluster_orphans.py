"""Guardian and keeper killed at once: what the child has started must not live on beside the next leader's."""

from __future__ import annotations

import os
import signal

import pytest

from highlanderd.guardian import cgroup
from highlanderd.system import proctree
from tests.support.deaths import gone, stand_still
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it."""
PROGRAM = """
[program.plain]
command = ["sh", "-c", "sleep 1001 & exec sleep 1000"]
"""


@pytest.mark.skipif(cgroup.own() is None, reason="no cgroup can be made here")
def test_a_grandchild_dies_with_its_guardian_and_its_keeper(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=PROGRAM, lease=LEASE)
    main = wait_for(lambda: node.program("plain")["pid"], what="it runs")
    [grandchild] = wait_for(lambda: proctree.children(main), what="it has started another process")
    keeper = node.keeper("plain")

    stand_still(node.guardian, keeper)  # neither may see the other one die
    for pid in (node.guardian, keeper):
        os.kill(pid, signal.SIGKILL)

    wait_for(lambda: gone(main) and gone(grandchild), what="nothing of the tree is left")
