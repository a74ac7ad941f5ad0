"""Claims about lines of programs on real nodes: here, from the node that leads, and beyond the end of a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.commands import highlanderctl
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it. A worker that was killed has to be replaced within half of it."""
SPEAKS = """[program.beat]
command = ["sh", "-c", "printf 'one\\\\ntw\\\\000o\\\\n'; while read -r line; do :; done < /dev/null; sleep infinity"]
"""
COUNTS = """[program.beat]
command = ["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"]
"""


def test_the_lines_of_a_program_led_elsewhere_come_through_postgresql_and_do_not_stay_there(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=SPEAKS, lease=LEASE)
    wait_for(nodes.leaders, what="beat is led")
    leader = nodes.leaders()["beat"]
    other = b if leader is a else a
    wait_for(lambda: len(highlanderctl(leader.socket, "logs", "beat").out.splitlines()) == 2, what="it has spoken")
    here = [json.loads(line) for line in highlanderctl(leader.socket, "logs", "beat", "--json").out.splitlines()]
    assert [line["line"] for line in here] == ["one", "tw\0o"]
    asked = highlanderctl(other.socket, "logs", "beat", "--json")
    assert (asked.code, asked.err) == (0, "")
    there = [json.loads(line) for line in asked.out.splitlines()]
    assert there == [here[0], {**here[1], "line": "tw\ufffdo"}]  # PostgreSQL stores no NUL
    assert database.sql("SELECT count(*) FROM highlander.command") == [(0,)]
    assert highlanderctl(other.socket, "logs").out == ""  # without a name: what this node has lines of
    followed = highlanderctl(other.socket, "logs", "-f", "beat")
    assert (followed.code, f"led by {leader.name}" in followed.err) == (3, True)


def test_a_node_that_obeys_no_others_keeps_its_lines_to_itself(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=SPEAKS + "[control]\nremote = false\n", lease=LEASE)
    wait_for(nodes.leaders, what="beat is led")
    [b] = nodes(database, "b", programs=SPEAKS, lease=LEASE)
    refused = highlanderctl(b.socket, "logs", "beat")
    assert (refused.code, "a: it gives no lines to other nodes: its [control] remote is false" in refused.err) == (
        6,
        True,
    )
    assert highlanderctl(a.socket, "logs", "beat").code == 0


def test_a_follower_goes_on_with_the_next_worker_and_ends_with_the_daemon(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=COUNTS, lease=LEASE)
    wait_for(nodes.leaders, what="beat is led")
    with subprocess.Popen(
        [sys.executable, "-m", "highlanderd.ctl", "--socket", str(node.socket), "logs", "-f", "beat", "-n", "1"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        numbers = [int(following.stdout.readline().split()[-1]) for _ in range(5)]
        [worker] = node.mine(b"--worker")
        os.kill(worker, signal.SIGKILL)
        numbers += [int(following.stdout.readline().split()[-1]) for _ in range(40)]
        assert numbers == list(range(numbers[0], numbers[0] + 45))
        node.crash()
        _, err = following.communicate(timeout=60)
    assert following.returncode == 5
    assert err.startswith("highlanderctl: ")
