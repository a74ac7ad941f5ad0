"""While no worker can be started, guardian and keepers say what becomes of the children: to people and to systemd."""

from __future__ import annotations

import os
import signal

from tests.support.installed import Installed
from tests.support.nodes import PATIENCE, Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.services import ServiceManager
from tests.support.wait import wait_for

LEASE = 10.0


def test_children_that_keepers_kill_are_in_the_log_and_in_the_status_of_the_service(
    nodes: Nodes, database: Database, service_manager: ServiceManager
) -> None:
    settled_ledger(database, LEASE)
    installed = Installed(nodes.directory / "site")
    node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.log.touch()
    stream = node.log.stat()
    journal = {"JOURNAL_STREAM": f"{stream.st_dev}:{stream.st_ino}"}
    node.environment = {"NOTIFY_SOCKET": service_manager.address, **installed.environment, **journal}
    node.configure(["beat", "bot"])
    node.start()
    nodes.await_led("beat", "bot")
    wait_for(lambda: "leading 2" in service_manager.values("STATUS"), PATIENCE, "it says that it leads")

    led = len(service_manager.values("STATUS"))
    installed.break_workers()
    os.kill(node.worker, signal.SIGKILL)

    said = "no worker answers; programs that run on: "
    wait_for(lambda: f"{said}0" in service_manager.values("STATUS")[led:], PATIENCE, "the keepers have killed both")
    shown = service_manager.values("STATUS")[led:]
    assert f"{said}2" in shown
    lines = node.log.read_text().splitlines()
    assert "<3>beat: its keeper kills it in epoch 1, because the lease was not renewed in time" in lines
    assert any(line.startswith("<4>the worker has ended (signal 9)") for line in lines)
    assert not any("on a:" in line for line in lines), "the journal knows the node"

    installed.mend()
    wait_for(lambda: service_manager.values("STATUS")[-1].startswith("leading 2"), PATIENCE, "a worker speaks again")
