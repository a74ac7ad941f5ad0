"""The end of a term: the whole tree first, then the release, whoever asks for it and whatever the children do."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from functools import partial

import psycopg
import pytest

from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from tests.support.deaths import gone, marked
from tests.support.long import first_of
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it."""
FAMILY = """
[program.family]
stop_timeout = 0.3
command = ["sh", "-c", '''
    trap "" TERM HUP INT
    (setsid $CHILD part stubborn &)
    setsid sh -c "(\\$CHILD part stubborn &) ; (\\$CHILD part stubborn >/dev/null 2>&1 </dev/null &)"
    nohup $CHILD part &
    exec $CHILD stubborn
''']
"""
"""Five processes that ignore TERM, fork twice, leave the session and hold the pipes of their output."""


def released_at(database: Database, program: str) -> float:
    """Return when the row was released, on CLOCK_BOOTTIME: the server runs on this machine."""
    [(moment,)] = database.sql(
        "SELECT extract(epoch FROM released_at) FROM highlander.lease WHERE program = %s", [program]
    )
    return float(moment) - (time.time() - boottime())


@pytest.mark.parametrize("verb", first_of(["stop", "restart", "release"]))
def test_nothing_of_an_unruly_family_survives_a_stop_and_the_release_comes_after(
    nodes: Nodes, database: Database, verb: str
) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=FAMILY, lease=LEASE)
    wait_for(lambda: nodes.journal.lives("family") and nodes.life("family").starts == 5, what="five processes")

    node.order(verb, "family")

    family = nodes.journal.lives("family")[0]
    assert [pid for pid in family.pids if not gone(pid)] == []
    wait_for(lambda: ends(database, "family")[0] is not None, what="the term has ended")
    if verb != "restart":
        assert family.last < released_at(database, "family")
        assert len(nodes.journal.lives("family")) == 1
    else:
        wait_for(lambda: len(nodes.journal.lives("family")) == 2, what="another family")


@pytest.mark.parametrize("signum", first_of([signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]))
def test_a_signalled_daemon_stops_every_tree_then_releases_then_ends(
    nodes: Nodes, database: Database, signum: signal.Signals
) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=f"[program.beat]\n{FAMILY}", lease=LEASE)
    nodes.await_led("beat", "family")

    node.signal(signum)

    assert node.ended() == 0
    assert [pid for pid in marked(nodes.directory) if not gone(pid)] == []
    assert nodes.life("beat").obeyed
    for name in ("beat", "family"):
        assert ends(database, name) == ["shutdown"]
        assert nodes.life(name).last < released_at(database, name)
    assert not node.socket.exists()


@pytest.mark.parametrize("signum", first_of([signal.SIGTERM, signal.SIGINT]))
def test_a_daemon_that_waits_ends_when_told_without_waiting_any_longer(
    nodes: Nodes, database: Database, signum: signal.Signals
) -> None:
    lease = 60.0  # who waited for a lease to run out would be waited for in vain
    settled_ledger(database, lease)
    nodes(database, "a", programs=["beat"], lease=lease)
    nodes.await_led("beat")
    [waiting] = nodes(database, "b", programs=["beat"], lease=lease)

    waiting.signal(signum)

    assert waiting.ended() == 0
    assert nodes.await_led("beat")["beat"] is not waiting
    assert len(nodes.journal.lives("beat")) == 1


def test_a_daemon_ends_when_told_while_there_is_no_server(nodes: Nodes) -> None:
    node = Node("a", nodes.directory / "a", "host=127.0.0.1 port=1 user=nobody", LEASE, nodes.journal)
    nodes.nodes.append(node)
    node.configure(["beat"])
    node.start()
    wait_for(partial(_answers, node), what="it answers")
    assert node.program("beat")["state"] == "waiting"
    node.signal(signal.SIGTERM)
    assert node.ended() == 0


def test_a_stop_during_the_takeover_never_starts_the_child(nodes: Nodes, database: Database) -> None:
    lease = 60.0  # the takeover waits for a row lock, for a fifth of this at most
    settled_ledger(database, lease)
    [node] = nodes(database, "a", programs=["beat"], lease=lease)
    nodes.await_led("beat")
    node.order("stop", "beat")

    with psycopg.connect(database.dsn) as held:
        held.execute("SELECT FROM highlander.lease FOR UPDATE")
        node.control.order("beat", "start", {})()
        wait_for(lambda: database.sql(BLOCKED, admin=True), what="the takeover waits for the row")
        node.order("stop", "beat")

    wait_for(lambda: ends(database, "beat") == ["stopped", "unwanted"], what="the new term was given back")
    wait_for(lambda: node.program("beat")["state"] == "stopped", what="the node knows that it was")
    assert len(nodes.journal.lives("beat")) == 1


def _answers(node: Node) -> bool:
    with suppress(HighlanderError):
        return bool(node.status()["programs"])
    return False


BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
