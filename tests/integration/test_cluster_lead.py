"""Three daemons, five programs, one journal: each program is led exactly once, and moves when told."""

from __future__ import annotations

import subprocess
import sys

from tests.support.nodes import PACKAGE, Nodes
from tests.support.postgres import Database
from tests.support.wait import wait_for

FIVE = ("beat", "bot", "clock", "mail", "relay")
LEASE = 10.0
"""Seconds: each waits one until its new ledger has settled."""


def test_each_program_is_led_exactly_once_and_a_release_moves_it(nodes: Nodes, database: Database) -> None:
    nodes(database, "a", "b", "c", programs=FIVE, lease=LEASE)
    leaders = nodes.await_led(*FIVE)
    assert {life.epoch for life in nodes.journal.lives()} == {1}
    assert len(nodes.journal.lives()) == len(FIVE)
    before = nodes.life("beat")

    ctl = [sys.executable, "-m", "highlanderd.ctl", "--socket", str(leaders["beat"].socket), "release", "beat"]
    done = subprocess.run(ctl, cwd=PACKAGE, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    nodes.await_led("beat", without=leaders["beat"])
    after = nodes.life("beat")
    assert (after.epoch, after.lock_id) == (before.epoch + 1, before.lock_id)
    assert after.node != before.node
    assert [life.program for life in nodes.journal.lives()].count("beat") == 2
    terms = "SELECT epoch, node, reason FROM highlander.term WHERE program = 'beat' ORDER BY epoch"
    written = [(1, before.node, "released"), (2, after.node, None)]
    wait_for(lambda: database.sql(terms) == written, what="the history has both terms")
    wait_for(lambda: leaders["beat"].program("beat")["leader"] == after.node, what="the old leader sees the new one")
