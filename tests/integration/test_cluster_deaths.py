"""SIGKILL and SIGSTOP of any process of a daemon: what goes on, who leads next, and that nothing is doubled."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from highlanderd.core.lease import LONGEST
from highlanderd.system.linux import boottime
from tests.support.deaths import gone, open_files, proc_file, stand_still
from tests.support.nodes import Node, Nodes, ends, expiry, renewals, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 10.0
"""Seconds, for tests that wait for its end."""
LONG_LEASE = 30.0
"""Seconds; for a worker that is replaced, noticed after 3/10 of it, and started within seconds on a busy machine; and
where nobody waits for its end."""
BUSY = 4.0
"""Seconds for a daemon's turn on a busy machine."""


def test_children_live_through_the_death_of_the_worker(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONGEST)
    nodes(database, "a", "b", programs=["beat", "bot", "relay"], lease=LONGEST)
    leaders = nodes.await_led("beat", "bot", "relay")
    node = leaders["beat"]
    before = {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()}

    worker = node.worker
    os.kill(worker, signal.SIGKILL)

    wait_for(lambda: node.worker not in (0, worker) and node.up(), what="another worker is up")
    renewed = renewals(database)
    wait_for(lambda: all(renewals(database)[name] > renewed[name] for name in renewed), what="all renew")
    assert {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()} == before
    assert nodes.await_led(*leaders) == leaders


def test_how_a_child_has_ended_is_known_beyond_the_end_of_the_worker(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    [node] = nodes(database, "a", programs=["beat", "relay"], lease=LONG_LEASE)
    nodes.await_led("beat", "relay")
    os.kill(node.program("beat")["pid"], signal.SIGKILL)
    ended = wait_for(lambda: node.program("beat")["last_exit"], what="the end is shown")
    assert ended["signal"] == "SIGKILL"
    nodes.await_led("beat")
    wait_for(lambda: _remembers(node, '"exits": {"beat":'), what="the worker has handed it over")
    worker = node.worker

    os.kill(worker, signal.SIGKILL)

    wait_for(lambda: node.worker not in (0, worker) and node.up(), what="another worker is up")
    found = node.program("beat")["last_exit"]
    assert (found["signal"], found["epoch"]) == (ended["signal"], ended["epoch"])
    assert node.program("relay")["last_exit"] is None


def _remembers(node: Node, what: str) -> bool:
    """Whether the guardian keeps this for the next worker."""
    memos = [fd for fd, name in open_files(node.guardian).items() if "memfd:memo" in name]
    return any(what.encode() in proc_file(str(fd)) for fd in memos)


def test_a_dead_guardian_means_an_orderly_end_and_another_leader(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    nodes(database, "a", "b", programs=["beat"], lease=LONG_LEASE)
    old = nodes.await_led("beat")["beat"]
    worker = old.worker

    os.kill(old.guardian, signal.SIGKILL)
    old.ended()

    nodes.await_led("beat", without=old)
    [gap] = nodes.journal.gaps("beat")
    assert nodes.journal.lives("beat")[0].obeyed
    assert gap < 0.4 * LONG_LEASE, "it was released, and nobody had to wait for the lease"
    assert ends(database, "beat") == ["shutdown", None]
    wait_for(lambda: gone(worker), what="the worker has ended, too")


def test_a_dead_child_is_succeeded_on_another_node_with_the_next_epoch(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    nodes(database, "a", "b", programs="[program.beat]\nbackoff = 60\n", lease=LONG_LEASE)
    old = nodes.await_led("beat")["beat"]
    before = nodes.life("beat")

    os.kill(old.program("beat")["pid"], signal.SIGKILL)

    nodes.await_led("beat", without=old)
    assert nodes.life("beat").epoch == before.epoch + 1
    wait_for(lambda: old.program("beat")["state"] == "backoff", what="its node knows that the term was given back")
    assert "SIGKILL" in old.program("beat")["reason"]
    assert ends(database, "beat") == ["exited", None]


def test_a_child_dies_with_its_keeper_and_the_term_is_released(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    tree = '[program.beat]\ncommand = ["sh", "-c", "setsid $CHILD part & exec $CHILD stubborn"]\nbackoff = 60\n'
    nodes(database, "a", "b", programs=tree, lease=LONG_LEASE)
    old = nodes.await_led("beat")["beat"]
    wait_for(lambda: nodes.life("beat").starts == 2, what="the whole tree has started")

    os.kill(old.keeper("beat"), signal.SIGKILL)

    nodes.await_led("beat", without=old)
    assert ends(database, "beat") == ["keeper-lost", None]
    assert all(gone(pid) for pid in nodes.journal.lives("beat")[0].pids)


@pytest.mark.long  # the chaos loses a machine in each run
def test_a_machine_that_is_lost_whole_is_succeeded_when_its_lease_has_run_out(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    old = nodes.await_led("beat")["beat"]

    old.crash()
    crashed = boottime()

    nodes.await_led("beat", without=old)
    [(acquired,)] = database.sql("SELECT extract(epoch FROM acquired_at) FROM highlander.lease")
    assert float(acquired) - (time.time() - boottime()) < crashed + 1.3 * LEASE + BUSY
    assert ends(database, "beat") == ["lapsed", None]
    old.start()
    nodes.await_up(old)
    assert old.program("beat")["state"] == "waiting"


def test_a_frozen_worker_is_replaced_and_no_child_notices(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    nodes(database, "a", "b", programs=["beat", "bot"], lease=LONG_LEASE)
    leaders = nodes.await_led("beat", "bot")
    node = leaders["beat"]
    before = {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()}
    renewed = renewals(database)

    worker = node.worker
    stand_still(worker)

    wait_for(lambda: gone(worker), what="the guardian has noticed")
    wait_for(lambda: node.up() and renewals(database)["beat"] > renewed["beat"] + 2, what="the next worker renews")
    assert {life.program: (life.epoch, life.pids) for life in nodes.journal.lives()} == before
    assert nodes.await_led(*leaders) == leaders


@pytest.mark.long
def test_what_a_frozen_guardian_has_not_answered_is_named_and_not_called_drained(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    frozen, other = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    if nodes.await_led("beat")["beat"] is frozen:
        frozen.order("release", "beat")
        nodes.await_led("beat", without=frozen)
    worker = frozen.worker
    stand_still(frozen.guardian)

    other.order("release", "beat", to="a", wait=False)

    wait_for(lambda: "ends with code 1" in frozen.log.read_text(), what="the worker has ended")
    said = frozen.log.read_text()
    assert re.search(
        r"the guardian has not answered for \d+\.\d s: it is frozen; draining everything, and ending", said
    )
    assert "cannot confirm that its child is dead (the guardian has not answered for " in said
    assert "and it has not said whether it has started it); not releasing" in said
    assert "everything is drained but beat: not released, so other nodes wait for its lease; ends with code 1" in said
    assert "everything is drained;" not in said
    os.kill(frozen.guardian, signal.SIGCONT)
    assert frozen.ended() == 1
    assert gone(worker)
    nodes.await_led("beat", without=frozen)
    assert ends(database, "beat")[-2:] == ["lapsed", None]


def test_a_frozen_node_is_without_children_when_its_lease_ends_and_comes_back_as_a_candidate(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    deaf = '[program.beat]\n[program.deaf]\ncommand = ["sh", "-c", "$CHILD stubborn"]\n'
    nodes(database, "a", "b", programs=deaf, lease=LEASE)
    leaders = nodes.await_led("beat", "deaf")
    node = leaders["beat"]
    led = [name for name, leader in leaders.items() if leader is node]

    node.freeze(node.guardian, node.worker)
    expired = {name: expiry(database, name) for name in led}

    nodes.await_led(*led, without=node)
    for name, end in expired.items():
        frozen, successor = nodes.journal.lives(name)
        assert frozen.last < end
        assert all(gone(pid) for pid in frozen.pids)
        assert (frozen.node, successor.epoch) == (node.name, frozen.epoch + 1)
    node.thaw()
    wait_for(lambda: node.up() and node.program("beat")["state"] == "waiting", what="it is a candidate again")
    wait_for(lambda: node.program("beat")["leader"] not in (None, node.name), what="and knows who leads")
    assert nodes.leaders().keys() == leaders.keys()
