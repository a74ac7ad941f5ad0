"""Claims about hooks of real daemons: a veto gives the program to another node, and the lock is held after the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from highlanderd.core.key import lock_id
from tests.chaos.network import namespaces_lacking
from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Cluster, Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it. A worker that was killed has to be replaced within half of it."""
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = {} AND classid = {}"


def test_a_node_whose_hook_vetoes_gives_the_program_to_another_one(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs='[program.beat]\nbackoff = 60\nbefore_start = "false"\n', lease=LEASE)
    wait_for(lambda: a.program("beat")["state"] == "backoff", what="a has been refused by its hook")
    assert a.program("beat")["reason"] == "before_start: exited with status 1"
    [b] = nodes(database, "b", programs='[program.beat]\nbefore_start = "true"\n', lease=LEASE)
    nodes.await_led("beat")
    assert nodes.leaders()["beat"] is b
    ended = "SELECT reason FROM highlander.term WHERE node = 'a' AND ended_at IS NOT NULL"
    wait_for(lambda: database.sql(ended) == [("hook_failed",)], what="the history says so")
    assert [life.node for life in nodes.journal.lives("beat")] == ["b"]


def test_the_lock_is_held_while_the_last_hook_runs_and_given_up_when_it_fails(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    number = lock_id("highlander", "beat") % 2**64
    held = HELD.format(number % 2**32, number >> 32)
    script = 'echo \\"$HIGHLANDER_EVENT $HIGHLANDER_CAUSE $HIGHLANDER_EPOCH\\" >$TEST_HOME/hook; '
    script += "while ! test -e $TEST_HOME/go; do sleep 0.02; done; exit 7"
    [a] = nodes(database, "a", programs=f'[program.beat]\nafter_stop = ["sh", "-c", "{script}"]\n', lease=LEASE)
    nodes.await_led("beat")
    assert highlanderctl(a.socket, "stop", "beat", "--no-wait", "--force").code == 0
    book = a.home / "hook"
    wait_for(lambda: book.exists() and book.read_text() == "after_stop stopped 1\n", what="the hook runs")
    assert (a.program("beat")["state"], database.sql(held)) == ("draining", [(1,)])
    (a.home / "go").touch()
    wait_for(lambda: a.program("beat")["state"] == "stopped", what="it is released")
    assert database.sql(held) == [(0,)]
    events = highlanderctl(a.socket, "events").out
    assert "after_stop: exited with status 7" in events


def test_hooks_go_on_while_the_worker_is_replaced(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    script = "touch $TEST_HOME/$HIGHLANDER_EVENT; while ! test -e $TEST_HOME/$HIGHLANDER_EVENT.go; do sleep 0.02; done"
    hooks = "\n".join(f'{name} = ["sh", "-c", "{script}"]' for name in ("before_start", "after_stop"))
    [a] = nodes(database, "a", programs=f"[program.beat]\n{hooks}\n", lease=LEASE)
    for name, state in (("before_start", "leading"), ("after_stop", "draining")):
        wait_for((a.home / name).exists, what=f"{name} runs")
        if name == "before_start":
            wait_for(lambda: a.program("beat")["reason"] == "before_start runs", what="it says so")
        os.kill(a.worker, signal.SIGKILL)
        wait_for(lambda: a.up() and a.program("beat")["state"] == state, what="the next worker goes on with it")  # noqa: B023
        (a.home / f"{name}.go").touch()
        if name == "before_start":
            nodes.await_led("beat")
            assert highlanderctl(a.socket, "stop", "beat", "--no-wait", "--force").code == 0
    wait_for(lambda: a.program("beat")["state"] == "stopped", what="it is released")
    ended = "SELECT epoch, reason FROM highlander.term WHERE ended_at IS NOT NULL"
    assert database.sql(ended) == [(1, "stopped")]
    assert len(nodes.journal.lives("beat")) == 1


ADDRESS = "10.203.0.100"
SERVER = f"""
[program.web]
command = ["{sys.executable}", "-m", "http.server", "--bind", "{ADDRESS}", "--directory", "/var/empty", "8000"]
before_start = ["ip", "address", "replace", "{ADDRESS}/24", "dev", "eth0"]
after_stop = ["ip", "address", "del", "{ADDRESS}/24", "dev", "eth0"]
ready = {{ tcp = "{ADDRESS}:8000" }}
"""


@contextmanager
def namespaces() -> Iterator[dict[str, tuple[str, ...]]]:
    """Make two network namespaces whose interfaces are connected; give the words that enter each."""
    processes = {name: subprocess.Popen(["unshare", "--net", "sleep", "1000"]) for name in ("a", "b")}
    enter: dict[str, tuple[str, ...]] = {
        name: ("nsenter", "--net", "--target", str(one.pid)) for name, one in processes.items()
    }
    ours = Path("/proc/self/ns/net").readlink()
    try:
        for process in processes.values():
            theirs = Path(f"/proc/{process.pid}/ns/net")
            wait_for(partial(_another, theirs, ours), what="it has a namespace of its own")
        pids = {name: str(one.pid) for name, one in processes.items()}
        far = ["type", "veth", "peer", "name", "eth0", "netns", pids["b"]]
        subprocess.run([*enter["a"], "ip", "link", "add", "eth0", *far], check=True)
        for number, name in enumerate(processes, 1):
            subprocess.run([*enter[name], "ip", "address", "add", f"10.203.0.{number}/24", "dev", "eth0"], check=True)
            for device in ("lo", "eth0"):
                subprocess.run([*enter[name], "ip", "link", "set", device, "up"], check=True)
        yield enter
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _another(link: Path, ours: Path) -> bool:
    return link.readlink() != ours


@pytest.mark.long
@pytest.mark.skipif(bool(namespaces_lacking()), reason=namespaces_lacking())
def test_hooks_move_a_real_address_with_the_program(nodes: Nodes, database: Database) -> None:
    lease = 6.0
    settled_ledger(database, lease)
    assert isinstance(database.server, Cluster)
    dsn = make_conninfo(database.dsn, host=str(database.server.directory))
    with namespaces() as enter:
        for name in ("a", "b"):
            node = Node(name, nodes.directory / name, dsn, lease, nodes.journal)
            node.enter = enter[name]
            nodes.nodes.append(node)
            node.configure(SERVER)
            node.start()
        nodes.await_up(*nodes.nodes)
        first = wait_for(lambda: next(iter(_holders(enter)), ""), what="somebody has the address")
        node, other = sorted(nodes.nodes, key=lambda node: node.name != first)
        wait_for(lambda: node.program("web")["ready"] and node.program("web")["candidates"], what="both are up")
        _reached(enter[other.name])
        assert highlanderctl(other.socket, "release", "web").code == 0
        wait_for(lambda: _holders(enter) == [other.name], what="the address has moved")
        wait_for(lambda: other.program("web")["ready"], what="and the program with it")
        _reached(enter[node.name])
        node.signal(signal.SIGTERM)
        assert node.ended() == 0
        other.crash()
        assert _holders(enter) == [other.name], "no hook runs when all of the daemon is killed"
        other.start()
        nodes.await_up(other)
        wait_for(lambda: other.program("web")["ready"], what="the address that was left is no veto")
        assert highlanderctl(other.socket, "stop", "web", "--everywhere", "--force").code == 0
        wait_for(lambda: _holders(enter) == [], what="the address is gone with the program")
        nodes.end()


def _holders(enter: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the namespaces that have the address."""
    show = ("ip", "-o", "address", "show", "dev", "eth0")
    return [name for name, words in enter.items() if ADDRESS in subprocess.check_output([*words, *show], text=True)]


def _reached(enter: tuple[str, ...]) -> None:
    connect = f"import socket; socket.create_connection(('{ADDRESS}', 8000), 20)"
    subprocess.run([*enter, sys.executable, "-c", connect], check=True)
