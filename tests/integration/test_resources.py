"""A daemon that is short of something, descriptors, disk or processes, goes on leading what it leads."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import pytest

from tests.support.deaths import marked
from tests.support.nodes import PATIENCE, Nodes
from tests.support.postgres import Database
from tests.support.processes import children, fork_servers, waiting_fork
from tests.support.scarcity import no_descriptors, no_more_processes, no_room, tiny_disk
from tests.support.undisturbed import Strained
from tests.support.wait import wait_for

PROGRAMS = "[program.beat]\n[program.relay]\n"
LONG_LEASE = 30.0
"""Seconds; a worker takes some of them to start on a busy machine."""
CROWD = 50
"""Clients that are turned away at first, and come again."""


def test_a_daemon_that_may_open_nothing_more_goes_on_leading(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, PROGRAMS)
    node = strained.node
    ours = [pid for pid in marked(node.home) if pid not in {child for _, child in strained.led.values()}]
    with no_descriptors(*ours), contextlib.ExitStack() as crowd, strained.undisturbed():
        for _ in range(CROWD):
            client = crowd.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect_ex(str(node.socket))
    wait_for(node.up, PATIENCE, "it answers again")
    strained.works()


@pytest.mark.long  # beside a daemon that may open nothing
def test_descriptors_that_clients_hold_are_not_missed(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, PROGRAMS)
    node = strained.node
    with contextlib.ExitStack() as crowd:
        for _ in range(CROWD):
            crowd.enter_context(socket.socket(socket.AF_UNIX)).connect(str(node.socket))
        wait_for(lambda: len(os.listdir(f"/proc/{node.worker}/fd")) > CROWD, PATIENCE, "all are let in")  # noqa: PTH208
        with no_descriptors(node.worker), strained.undisturbed():
            pass
    wait_for(node.up, PATIENCE, "it answers again")
    strained.works()


def test_a_full_disk_costs_lines_and_no_child(nodes: Nodes, database: Database) -> None:
    with tiny_disk(nodes.directory / "disk", 1 << 18) as disk:
        flood = f'command = ["sh", "-c", "yes | head -c 300000; exec $CHILD"]\nstdout = "{disk}/flood"\n'
        strained = Strained(nodes, database, f"[program.beat]\n[program.flood]\n{flood}")
        with strained.undisturbed():
            said = f"cannot write to {disk}/flood: No space left on device"
            wait_for(lambda: said in strained.log(), PATIENCE, "it says so")
        (disk / "flood").unlink()
        wait_for(lambda: f"{disk}/flood takes output again" in strained.log(), PATIENCE, "it goes on writing")
        strained.works()
        assert strained.log().count(said) <= 2, "told once per change"


@pytest.mark.long  # beside a full disk
def test_a_log_of_its_own_that_takes_nothing_more_costs_no_child(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, PROGRAMS)
    node = strained.node
    with no_room(node.worker, node.log), no_room(node.guardian, node.log), strained.undisturbed():
        for _ in range(3):
            node.control.ask("POST", "/v1/reload", {})  # each writes to the log, or tries to
    wait_for(lambda: "takes output again" in strained.log(), PATIENCE, "it writes again")
    strained.works()


def test_a_daemon_that_may_fork_nothing_starts_what_it_could_not_once_it_may(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, PROGRAMS)
    node = strained.node
    next_keeper = waiting_fork(node.guardian)
    with no_more_processes(node.guardian, *fork_servers(node.guardian)):
        os.kill(next_keeper, signal.SIGKILL)
        node.control.ask("POST", "/v1/programs/beat/restart", {"wait": False})
        wait_for(lambda: node.program("beat")["failures"] > 1, PATIENCE, "it was tried more than once")
    assert "no keeper can be forked: Resource temporarily unavailable; raise the limit" in strained.log()
    after = strained.await_led()
    assert after["relay"] == strained.led["relay"]
    assert after["beat"][0] > strained.led["beat"][0]


def test_a_keeper_that_may_not_fork_its_child_gives_way_to_another(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, PROGRAMS)
    node = strained.node
    with no_more_processes(waiting_fork(node.guardian)):  # the next keeper
        node.control.ask("POST", "/v1/programs/beat/restart", {"wait": False})
        wait_for(lambda: node.program("beat")["failures"] > 0, PATIENCE, "it was tried")
    after = strained.await_led()
    assert after["relay"] == strained.led["relay"]
    assert after["beat"][0] > strained.led["beat"][0]


def test_a_worker_that_cannot_be_forked_at_first_costs_no_child(nodes: Nodes, database: Database) -> None:
    strained = Strained(nodes, database, PROGRAMS, lease=LONG_LEASE)
    node = strained.node
    with no_more_processes(node.guardian):
        for pid in (*children(node.worker), node.worker):  # its spare as well: that needs no fork to begin
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: "no worker can be started" in strained.log(), PATIENCE, "it was tried")
    wait_for(node.up, PATIENCE, "another worker is up")
    strained.works()
