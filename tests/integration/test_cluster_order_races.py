"""Claims about orders that meet others, a takeover, or a daemon that goes away at the same moment."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from highlanderd.errors import HighlanderError, Interrupted, NeedsForce, NotLeading
from highlanderd.postgres.sql.connecting import SESSIONS
from tests.chaos.clocks import Clocks, clocks_lacking
from tests.integration.test_cluster_orders import both_know, leader_and_other, stopped
from tests.support.commands import highlanderctl
from tests.support.deaths import stand_still
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 6.0
LONG_LEASE = 30.0
"""Seconds; for a worker that was killed, and has to be replaced within half of it."""
DRAINS_FOR = 6.0
"""Seconds within which a test sees that a program drains, and kills the worker."""
WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE '%/beat'"
DEAF = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
"""The session by which a node hears of orders: without it the node hears of them when it has connected anew."""


def test_no_child_starts_after_a_stop_of_the_cluster_was_answered_though_a_takeover_was_under_way(
    nodes: Nodes, database: Database
) -> None:
    lease = 40.0  # a takeover waits for a row for a fifth of it
    settled_ledger(database, lease)
    nodes(database, "a", "b", programs=["beat"], lease=lease)
    leader = nodes.await_led("beat")["beat"]
    both_know(nodes, "beat")
    [other] = (node for node in nodes.nodes if node is not leader)
    with psycopg.connect(database.dsn) as holder:  # as a transaction of the program's that has called assert_leader
        holder.execute("SELECT 1 FROM highlander.lease FOR KEY SHARE")
        leader.control.order("beat", "release", {})()
        wait_for(lambda: database.sql(WAITS, admin=True), what="the takeover waits for that transaction")
        assert database.sql(DEAF, [f"{SESSIONS}{other.name}"], admin=True), "it had a session that listens"
        answer = leader.control.order("beat", "stop", {"everywhere": True, "wait": True})()
        assert answer["program"]["leader"] is None
        began = f"{WAITS} AND query_start < (SELECT since FROM highlander.wish)"
        assert database.sql(began, admin=True), "that takeover began before the order was written"
        holder.rollback()
    wait_for(lambda: stopped(leader, "beat") and stopped(other, "beat"), what="both nodes follow")
    assert "beat: waiting -> leading" not in other.log.read_text()
    assert len(nodes.journal.lives("beat")) == 1


def _drain(node: Node) -> bool:
    """Return whether a node refuses to be drained."""
    try:
        node.control.ask("POST", "/v1/drain", {"wait": True}, patience=60.0)
    except NeedsForce:
        return True
    return False


@pytest.mark.long  # two at once are rare
def test_of_two_drains_at_once_one_is_refused_and_the_program_keeps_a_node(nodes: Nodes, database: Database) -> None:
    leader, other = leader_and_other(nodes, database)
    for _ in range(5):
        with ThreadPoolExecutor(2) as pool:
            refused = list(pool.map(_drain, (leader, other)))
        [(drained,)] = database.sql("SELECT count(*) FROM highlander.node WHERE drained_since IS NOT NULL")
        assert drained + sum(refused) == 2, "each was drained or refused"
        assert drained < 2
        nodes.await_led("beat")
        assert highlanderctl(leader.socket, "resume", "a", "b").code == 0
        nodes.await_led("beat")
        both_know(nodes, "beat")


# -------------------------------------------------------------------------------------------------- what comes between

DEAF_CHILD = """
[program.deaf]
stop_timeout = {}
command = ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]
"""


def led_elsewhere(nodes: Nodes, database: Database, seconds: float, lease: float = LEASE) -> tuple[Node, Node]:
    """Start two nodes with a child that needs so long to stop; return its leader, and the other one."""
    settled_ledger(database, lease)
    nodes(database, "a", "b", programs=DEAF_CHILD.format(seconds), lease=lease)
    wait_for(lambda: nodes.leaders().get("deaf"), what="it is led")
    both_know(nodes, "deaf")
    leader = nodes.leaders()["deaf"]
    return leader, next(node for node in nodes.nodes if node is not leader)


def test_an_order_to_another_node_that_a_later_one_overtakes_ends_at_once_and_says_so(
    nodes: Nodes, database: Database
) -> None:
    leader, other = led_elsewhere(nodes, database, DRAINS_FOR)
    stop = other.control.order("deaf", "stop", {"node": leader.name, "wait": True, "timeout": 60}, 60.0)
    wait_for(lambda: leader.program("deaf")["state"] == "draining", what="it stops")
    start = other.control.order("deaf", "start", {"node": leader.name}, 60.0)
    assert start()["program"]["want"] == "run"
    with pytest.raises(HighlanderError, match="a later order has overtaken this one"):
        stop()


def test_an_order_outlives_the_replacement_of_the_worker_that_is_to_take_it(nodes: Nodes, database: Database) -> None:
    leader, other = leader_and_other(nodes, database, LONG_LEASE)
    os.kill(leader.worker, signal.SIGKILL)
    done = highlanderctl(other.socket, "restart", "beat")
    assert done.code == 0, done
    assert nodes.await_led("beat")["beat"] is leader
    assert ends(database, "beat") == ["restarted", None]


def test_an_order_that_a_worker_has_taken_and_not_survived_is_not_given_twice(nodes: Nodes, database: Database) -> None:
    leader, other = led_elsewhere(nodes, database, DRAINS_FOR, LONG_LEASE)
    epoch = leader.program("deaf")["epoch"]
    restart = other.control.order("deaf", "restart", {"wait": True, "timeout": 600}, 600.0)
    wait_for(lambda: leader.program("deaf")["state"] == "draining", what="it was taken")
    os.kill(leader.worker, signal.SIGKILL)
    assert restart()["program"]["leader"], "the ledger has shown it"
    assert ends(database, "deaf") == ["restarted", None]
    assert nodes.leaders()["deaf"].program("deaf")["epoch"] == epoch + 1


def test_an_order_that_its_worker_has_not_survived_is_answered_by_the_next_one(
    nodes: Nodes, database: Database
) -> None:
    leader, other = led_elsewhere(nodes, database, DRAINS_FOR, LONG_LEASE)
    body = {"node": leader.name, "force": True, "wait": True, "timeout": 600}
    stop = other.control.order("deaf", "stop", body, 600.0)
    wait_for(lambda: leader.program("deaf")["state"] == "draining", what="it was taken")
    os.kill(leader.worker, signal.SIGKILL)
    with pytest.raises(Interrupted, match=f"{leader.name}: its worker was replaced before the order had ended"):
        stop()
    wait_for(lambda: leader.program("deaf")["state"] == "stopped", what="the next worker goes on with it")


@pytest.mark.long
def test_an_order_that_was_lost_before_it_was_given_is_not_waited_for(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LONG_LEASE)
    nodes(database, "a", "b", "c", programs=["beat"], lease=LONG_LEASE)
    leader = nodes.await_led("beat")["beat"]
    both_know(nodes, "beat")
    to, other = (node for node in nodes.nodes if node is not leader)
    stand_still(to.worker)  # so that the leader waits for its word
    release = other.control.order("beat", "release", {"to": to.name, "wait": True, "timeout": 600}, 600.0)
    wait_for(lambda: database.sql("SELECT 1 FROM highlander.command WHERE verb = 'ask'"), what="the leader asks it")
    os.kill(leader.worker, signal.SIGKILL)
    with pytest.raises(Interrupted, match="leads it on under epoch 1, as if nothing had been ordered: give it again"):
        release()
    assert nodes.leaders()["beat"] is leader


@pytest.mark.long
@pytest.mark.parametrize("successor", ["as ordered", "another"])
def test_a_release_to_a_node_ends_when_the_leader_is_lost_and_another_node_leads(
    nodes: Nodes, database: Database, successor: str
) -> None:
    settled_ledger(database, LEASE)
    a, b, c = nodes(database, "a", "b", "c", programs=DEAF_CHILD.format(30), lease=LEASE)
    wait_for(lambda: nodes.leaders().get("deaf"), what="it is led")
    both_know(nodes, "deaf")
    leader = nodes.leaders()["deaf"]
    to, other = (node for node in (a, b, c) if node is not leader)
    release = other.control.order("deaf", "release", {"to": to.name, "wait": True, "timeout": 600}, 600.0)
    wait_for(lambda: leader.program("deaf")["state"] == "draining", what="it was taken")
    if successor == "another":
        to.crash()
    else:
        other.configure([])
        assert highlanderctl(other.socket, "reload").code == 0
    leader.crash()
    if successor == "another":
        failed = f"{leader.name} has not answered, and deaf was not handed over to {to.name}: {other.name} leads it now"
        with pytest.raises(HighlanderError, match=failed):
            release()
    else:
        assert release()["program"]["leader"] == to.name


def test_a_daemon_that_is_ending_does_not_say_that_it_never_had_a_program(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=f"[program.beat]\n{DEAF_CHILD.format(600)}", lease=LEASE)
    wait_for(lambda: len(a.leading()) == 2, what="both are led")
    known = {"beat", "deaf"}
    wait_for(
        lambda: {one["name"] for one in a.control.ask("GET", "/v1/cluster")["programs"]} == known, what="both are known"
    )
    a.signal(signal.SIGTERM)
    wait_for(lambda: [one["name"] for one in a.status()["programs"]] == ["deaf"], what="one of them has left")
    with pytest.raises(Interrupted, match=r"^the daemon on a is ending, and has done with beat; "):
        a.control.order("beat", "stop", {"force": True})()
    with pytest.raises(NotLeading, match='nobody leads "beat" at the moment'):
        a.control.order("beat", "restart", {})()


def test_a_node_that_is_drained_while_it_reboots_leads_nothing_afterwards(nodes: Nodes, database: Database) -> None:
    leader, other = led_elsewhere(nodes, database, 60.0)
    drain = other.control.begin("POST", "/v1/drain", {"nodes": [leader.name], "wait": True, "timeout": 60}, 60.0)
    wait_for(lambda: leader.program("deaf")["state"] == "draining", what="it drains")
    leader.crash()
    leader.start()
    assert drain() == {"nodes": [leader.name]}
    nodes.await_up(leader)
    wait_for(lambda: nodes.leaders().get("deaf") is other, what="the other node leads")
    assert stopped(leader, "deaf").startswith("drained by uid ")
    assert ends(database, "deaf") == ["lapsed", None]


@pytest.mark.long  # the chaos steps a clock in each run
def test_wall_clocks_that_are_wrong_change_nothing(nodes: Nodes, database: Database) -> None:
    if lacking := clocks_lacking():
        pytest.skip(lacking)
    settled_ledger(database, LEASE)
    clocks = Clocks(nodes.directory)
    made = [Node(name, nodes.directory / name, database.dsn, LEASE, nodes.journal) for name in ("a", "b")]
    nodes.nodes += made
    for node, hours in zip(made, (-30, 30), strict=True):
        node.environment = clocks.of(node.name)
        clocks.step(node.name, hours * 3600)
        node.configure(["beat"])
        node.start()
    nodes.await_up(*made)
    nodes.await_led("beat")
    both_know(nodes, "beat")
    for node in made:
        for words in (("restart", "beat"), ("release", "beat"), ("drain", "a"), ("resume", "a")):
            done = highlanderctl(node.socket, *words)
            assert done.code == 0, done
            nodes.await_led("beat")
        both_know(nodes, "beat")


# ------------------------------------------------------------------------------------------------- rows written by hand

INSERT = (
    "INSERT INTO highlander.command (node, verb, program, arguments, author, reason, deadline) "
    "SELECT %s, %s, %s, %s, %s, %s, clock_timestamp() + %s FROM generate_series(1, %s) RETURNING id"
)
OPEN = "SELECT count(*) FROM highlander.command WHERE answered IS NULL AND deadline > now()"


def ordered(database: Database, verb: str, arguments: str, deadline: str = "1 minute", times: int = 1) -> None:
    """Write orders for ``beat`` on node ``a`` by hand."""
    database.sql(INSERT, ["a", verb, "beat", arguments, "ann", "by hand", deadline, times])


def alone(nodes: Nodes, database: Database) -> Node:
    """Start one node that leads ``beat``."""
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    return a


def test_an_order_whose_deadline_has_passed_is_never_taken(nodes: Nodes, database: Database) -> None:
    a = alone(nodes, database)
    ordered(database, "restart", "{}", "-1 second")
    a.signal(signal.SIGTERM)
    assert a.ended() == 0
    ordered(database, "restart", "{}", "1 second")
    wait_for(lambda: database.sql(OPEN) == [(0,)], what="its time has passed")
    a.start()
    nodes.await_up(a)
    nodes.await_led("beat")
    ordered(database, "signal", '{"signal": "CONT"}')
    wait_for(lambda: database.sql(OPEN) == [(0,)], what="a later one is taken")
    assert database.sql("SELECT verb FROM highlander.command WHERE taken_by IS NOT NULL") == [("signal",)]
    assert ends(database, "beat") == ["shutdown", None]


def test_orders_that_are_written_twice_are_taken_once_each_and_never_make_two_children(
    nodes: Nodes, database: Database
) -> None:
    a = alone(nodes, database)
    ordered(database, "restart", '{"wait": true}', times=4)
    wait_for(lambda: database.sql(OPEN) == [(0,)], what="all are answered")
    answers = [answer for (answer,) in database.sql("SELECT answer FROM highlander.command")]
    assert all("program" in answer or answer["error"]["code"] == "not_leading" for answer in answers), answers
    assert any("program" in answer for answer in answers)
    assert nodes.await_led("beat")["beat"] is a


@pytest.mark.long  # three thousand of them take a while
def test_thousands_of_orders_cost_no_term_and_leave_the_node_answering(nodes: Nodes, database: Database) -> None:
    a = alone(nodes, database)
    worker, life = a.worker, nodes.life("beat")
    ordered(database, "signal", '{"signal": "CONT"}', "10 minutes", times=3000)
    while database.sql(OPEN) != [(0,)]:
        assert highlanderctl(a.socket, "is-leading", "beat").code == 0
    assert database.sql("SELECT count(*) FROM highlander.command WHERE answer ? 'error'") == [(0,)]
    assert (a.worker, nodes.life("beat").pids) == (worker, life.pids)
    assert ends(database, "beat") == [None]


HOSTILE = "\x1b[2J\nERROR all is lost\r\u202e" + "x" * 1_000_000


def test_hostile_text_in_a_row_stays_one_harmless_line_of_bounded_length(nodes: Nodes, database: Database) -> None:
    a = alone(nodes, database)
    database.sql(INSERT, ["a", HOSTILE, HOSTILE, "{}", HOSTILE, HOSTILE, "1 minute", 1])
    database.sql(INSERT, ["a", "restart", "beat", json.dumps({"reason": HOSTILE}), "ann", "", "1 minute", 1])
    database.sql(INSERT, ["a", "restart", "beat", "{}", HOSTILE, HOSTILE, "1 minute", 1])
    wait_for(lambda: database.sql(OPEN) == [(0,)], what="all are answered")
    assert database.sql("SELECT count(*) FROM highlander.command WHERE answer ? 'error'") == [(2,)]
    wait_for(lambda: ends(database, "beat") == ["restarted", None], what="that one makes sense")
    said = "VALUES ('z', clock_timestamp(), %s, %s)"
    database.sql(
        f"INSERT INTO highlander.node (name, drained_since, drained_by, drained_reason) {said}", [HOSTILE, HOSTILE]
    )
    said = "SELECT lock_id, program, %s, %s FROM highlander.lease"
    database.sql(f"INSERT INTO highlander.wish (lock_id, program, author, reason) {said}", [HOSTILE, HOSTILE])
    wait_for(lambda: stopped(a, "beat"), what="it is stopped")
    shown = [highlanderctl(a.socket, command).out for command in ("status", "cluster", "history", "events")]
    shown.append(highlanderctl(a.socket, "explain", "beat").out)
    log = a.log.read_text(errors="replace")
    for text in (*shown, log):
        assert all(character.isprintable() for character in text.replace("\n", "")), repr(text[:2000])
        assert not any(line.startswith("ERROR") for line in text.splitlines())
        assert all(len(line) < 4000 for line in text.splitlines())
