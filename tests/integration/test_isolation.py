"""What one program does to the worker, or to its keeper's messages, ends at that program."""

from __future__ import annotations

import contextlib
import os
import signal
import urllib.request
from pathlib import Path

import pytest

from highlanderd.config import ProgramConfig
from highlanderd.config.needs import descriptors
from highlanderd.errors import HighlanderError
from highlanderd.guardian.suspects import written
from tests.support.commands import answers
from tests.support.deaths import open_files, stand_still
from tests.support.floods import frozen
from tests.support.nodes import PATIENCE, Node, Nodes, Status, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.undisturbed import Strained
from tests.support.wait import wait_for

PROGRAMS = "[program.beat]\n[program.relay]\n"
LONG_LEASE = 30.0
"""Seconds; two workers have to start within it on a busy machine."""


def dies_at(node: Node, program: str) -> None:
    """Have the present worker crash while it handles a program: as it would write it itself, into its own memory."""
    worker = node.worker
    memory = next(fd for fd, name in open_files(worker).items() if "memfd:attention" in name)
    stand_still(worker)  # between two turns, or within one: what it writes next is that it is at none
    memory.write_bytes(written(program, 1.0))
    os.kill(worker, signal.SIGSEGV)
    os.kill(worker, signal.SIGCONT)
    next_worker(node, worker)


def next_worker(node: Node, former: int) -> None:
    wait_for(lambda: node.worker != former and "relay" in answered(node), PATIENCE, "the next worker answers")


def answered(node: Node) -> dict[str, Status]:
    """Return the programs that it leads; none while it does not answer."""
    with contextlib.suppress(HighlanderError):
        return node.leading()
    return {}


def test_a_program_that_two_workers_have_died_of_is_kept_from_the_third_and_a_start_lifts_that(
    nodes: Nodes, database: Database
) -> None:
    strained = Strained(nodes, database, PROGRAMS, lease=LONG_LEASE)
    node = strained.node
    dies_at(node, "beat")
    assert strained.await_led() == strained.led, "once may be chance"
    dies_at(node, "beat")
    beat = wait_for(lambda: node.program("beat")["state"] == "stopped" and node.program("beat"), what="it is set aside")
    assert "quarantined: two workers have died while they handled it, the last one by signal 11" in beat["reason"]
    assert any("beat: quarantined" in warning for warning in node.status()["warnings"])
    third = node.worker
    os.kill(third, signal.SIGKILL)
    next_worker(node, third)
    assert "quarantined" in node.program("beat")["reason"], "the guardian remembers"
    relay = node.leading()["relay"]
    assert (relay["epoch"], relay["pid"]) == strained.led["relay"]
    node.order("start", "beat")
    after = strained.await_led()
    assert after["beat"][0] > strained.led["beat"][0]
    assert after["relay"] == strained.led["relay"]


@pytest.mark.long
def test_a_worker_that_is_dead_but_for_a_thread_in_a_hung_disk_is_replaced_and_its_doors_with_it(
    nodes: Nodes, database: Database
) -> None:
    port = reserved_port()
    strained = Strained(nodes, database, PROGRAMS, metrics=f"127.0.0.1:{port}", lease=LONG_LEASE)
    node, worker = strained.node, strained.node.worker
    node.control.ask("POST", "/v1/reload", {})  # it logs, and has a thread for that
    thread = wait_for(lambda: [int(each.name) for each in Path(f"/proc/{worker}/task").iterdir()][1:], what="a thread")
    with frozen(thread[0]):
        os.kill(worker, signal.SIGSTOP)  # the guardian finds it silent, and kills it
        next_worker(node, worker)
        assert Path(f"/proc/{worker}/task/{thread[0]}").exists(), "the thread is still there"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
            assert answer.status == 200
        with strained.undisturbed():
            pass
        assert strained.await_led() == strained.led
    strained.works()


def test_a_node_that_is_short_of_descriptors_contends_for_what_it_can_run_and_a_healthy_one_leads_the_rest(
    nodes: Nodes, database: Database
) -> None:
    names = [f"program-{number}" for number in range(6)]
    configured = {name: ProgramConfig(name=name, command=("true",)) for name in names}
    limit = descriptors([configured[name] for name in names[:3]])
    settled_ledger(database, LONG_LEASE)
    short, healthy = (
        Node(name, nodes.directory / name, database.dsn, LONG_LEASE, nodes.journal) for name in ("short", "healthy")
    )
    nodes.nodes += [short, healthy]
    short.enter = ("prlimit", f"--nofile={limit}:{limit}")
    for node in (short, healthy):
        node.configure(names)
        node.start()
    wait_for(lambda: answers(short), what="the node that is short of them answers")
    leaders = nodes.await_led(*names)
    assert {name for name, node in leaders.items() if node is short} <= set(names[:3])
    for name in names[3:]:
        left = short.program(name)
        assert left["state"] == "stopped"
        assert "only the first 3 of 6 contend on this node" in left["reason"]
    log = short.log.read_text()
    assert f"this process may have {limit}" in log
    assert "does not answer" not in log
