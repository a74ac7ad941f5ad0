"""While no worker answers: what guardian and keepers say to people and to systemd, and what the commands do."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from highlanderd.errors import DaemonUnreachable
from tests.support.commands import highlanderctl, highlanderd
from tests.support.deaths import gone
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


def test_a_command_rides_over_a_worker_that_is_being_replaced(led: Node) -> None:
    os.kill(led.worker, signal.SIGKILL)
    assert highlanderctl(led.socket, "status", "beat").code == 0
    os.kill(led.worker, signal.SIGKILL)
    ordered = highlanderctl(led.socket, "restart", "beat", "--no-wait")
    assert ordered.code in (0, 3), ordered.err


def test_a_second_daemon_is_refused_while_the_worker_of_the_first_is_replaced(led: Node, tmp_path: Path) -> None:
    second = tmp_path / "second.toml"
    second.write_text(led.file.read_text().replace(str(led.home / "state"), str(tmp_path / "state")))
    worker = led.worker
    led.freeze(led.guardian)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: gone(worker), PATIENCE, "the worker is dead")
    refused = highlanderd("-c", second, TEST_HOME=str(led.home))
    led.thaw()
    assert refused.code == 1
    assert re.search(rf"a running daemon already (owns|answers on) {led.socket}", refused.err)


def test_a_closed_socket_is_told_from_no_daemon(led: Node) -> None:
    led.socket.unlink()
    with pytest.raises(DaemonUnreachable, match=r"the daemon runs, but its control socket .* is closed"):
        led.control.ask("GET", "/v1/status", patience=-9.0)
    led.signal(signal.SIGTERM)
    led.ended()
    with pytest.raises(DaemonUnreachable, match="no daemon is running here"):
        led.status()
