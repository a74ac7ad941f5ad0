"""Claims about orders that reach the nodes they concern: many programs at once, certain nodes, reasons, exit codes."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from tests.integration.test_cluster_orders import both_know, leader_and_other, stopped
from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it, and no worker of a busy machine is silent for 3/10 of it."""


def spread(nodes: Nodes, database: Database) -> tuple[Node, Node, Node]:
    """Start three nodes: the first leads ``web1``, the second ``web2``, and the third nothing. Return them."""
    settled_ledger(database, LEASE)
    a, b, c = nodes(database, "a", "b", "c", programs=["web1", "web2"], lease=LEASE)
    nodes.await_led("web1", "web2")
    both_know(nodes, "web1", "web2")
    for program, node in (("web1", a), ("web2", b)):
        if nodes.leaders()[program] is not node:
            done = highlanderctl(c.socket, "release", program, "--to", node.name)
            assert done.code == 0, done
    wait_for(lambda: nodes.leaders() == {"web1": a, "web2": b}, what="each leads its own")
    both_know(nodes, "web1", "web2")
    return a, b, c


def events(database: Database) -> list[tuple[object, ...]]:
    """Return what the ledger's events say: event, node, program and reason."""
    return database.sql("SELECT event, node, program, reason FROM highlander.event ORDER BY id")


def test_globs_and_all_choose_programs_of_the_cluster_and_each_order_goes_to_its_leader(
    nodes: Nodes, database: Database
) -> None:
    a, b, c = spread(nodes, database)
    before = {name: node.program(name)["epoch"] for name, node in nodes.leaders().items()}
    done = highlanderctl(c.socket, "restart", "web*", "--reason", "a leak")
    assert (done.code, done.err) == (0, ""), done
    assert nodes.await_led("web1", "web2") == {"web1": a, "web2": b}
    assert {name: node.program(name)["epoch"] - before[name] for name, node in nodes.leaders().items()} == {
        "web1": 1,
        "web2": 1,
    }
    said = "SELECT DISTINCT remark FROM highlander.term WHERE reason = 'restarted'"
    assert database.sql(said) == [("a leak",)]
    for words in (("restart", "all", "--on", "c"), ("restart", "web1", "--on", "b")):
        assert highlanderctl(c.socket, *words).code == 3, "that node leads none of them"
    for wrong in ("wbe1", "x*"):
        assert highlanderctl(c.socket, "restart", "web1", wrong).code == 4
    assert nodes.leaders()["web1"].program("web1")["epoch"] == before["web1"] + 1, "nothing was done"
    done = highlanderctl(c.socket, "release", "all", "--on", "a")
    assert done.code == 0, done
    assert nodes.await_led("web1", without=a)["web2"] is b, "what another node leads was left alone"


def test_a_stop_and_a_start_of_another_node_are_carried_out_there(nodes: Nodes, database: Database) -> None:
    a, b, c = spread(nodes, database)
    done = highlanderctl(c.socket, "stop", "web1", "--on", "a", "--reason", "a bad disk")
    assert (done.code, done.err) == (0, ""), done
    successor = r"(led by [bc]|no node leads it) now"  # which is waited for, but for a second only
    assert re.fullmatch(rf"web1: stopped on a; {successor}\n", done.out), done
    assert stopped(a, "web1").endswith(": a bad disk")
    assert nodes.await_led("web1")["web1"] is not a
    done = highlanderctl(c.socket, "start", "web*", "--on", "a", "--reason", "a new disk")
    assert (done.code, done.err) == (0, ""), done
    wait_for(lambda: a.program("web1")["state"] == "waiting", what="a contends again")
    assert not stopped(b, "web1")
    wait_for(lambda: len(events(database)) == 3, what="the events are written")
    assert sorted(map(str, events(database))) == [
        "('started', 'a', 'web1', 'a new disk')",
        "('started', 'a', 'web2', 'a new disk')",
        "('stopped', 'a', 'web1', 'a bad disk')",
    ]
    refused = highlanderctl(c.socket, "stop", "web1", "--on", "nowhere")
    assert (refused.code, refused.out) == (4, "")
    assert "the ledger knows no node 'nowhere'; it has a, b, c" in refused.err
    assert highlanderctl(c.socket, "stop", "web1", "--on", "a", "--everywhere").code == 2


def test_an_order_goes_through_a_node_that_does_not_have_the_program(nodes: Nodes, database: Database) -> None:
    a, b, c = spread(nodes, database)
    c.configure(["web2"])
    assert highlanderctl(c.socket, "reload").code == 0
    wait_for(lambda: len(c.status()["programs"]) == 1, what="c has forgotten web1")
    done = highlanderctl(c.socket, "restart", "all")
    assert done.code == 0, done
    wait_for(lambda: len(nodes.journal.lives("web1")) >= 2, what="its next child has spoken")
    assert highlanderctl(c.socket, "release", "web1", "--to", "b").code == 0
    assert nodes.await_led("web1")["web1"] is b
    assert highlanderctl(c.socket, "stop", "web1", "--on", "b", "--force").code == 0
    assert nodes.await_led("web1")["web1"] is a


def test_an_order_that_concerns_the_leader_says_why_nobody_leads(nodes: Nodes, database: Database) -> None:
    leader, other = leader_and_other(nodes, database)
    done = highlanderctl(other.socket, "stop", "beat", "--everywhere", "--reason", "broken")
    assert done.code == 0
    wait_for(lambda: stopped(leader, "beat") and stopped(other, "beat"), what="both follow")
    for words in (("restart", "beat"), ("release", "beat"), ("signal", "HUP", "beat")):
        refused = highlanderctl(other.socket, *words)
        assert (refused.code, refused.out) == (3, "")
        assert ": broken); nobody leads it at the moment" in refused.err
    refused = highlanderctl(other.socket, "restart", "all")
    assert (refused.code, refused.err) == (
        3,
        "highlanderctl: nothing to restart: none of these programs is led at the moment\n",
    )


def test_a_node_that_obeys_no_other_refuses_each_order_and_says_so(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    a.signal(15)
    assert a.ended() == 0
    a.file.write_text(a.file.read_text() + "\n[control]\nremote = false\n")
    a.start()
    nodes.await_up(a)
    nodes.await_led("beat")
    [b] = nodes(database, "b", programs=["beat"], lease=LEASE)
    both_know(nodes, "beat")
    life = nodes.life("beat")
    orders = (
        ("release", "beat"),
        ("restart", "beat"),
        ("signal", "HUP", "beat"),
        ("stop", "beat", "--on", "a"),
        ("start", "beat", "--on", "a"),
    )
    for words in orders:
        refused = highlanderctl(b.socket, *words)
        assert (refused.code, refused.out) == (6, "")
        assert "a: it obeys no orders from other nodes: its [control] remote is false" in refused.err
    assert nodes.life("beat").pids == life.pids
    assert a.leading().keys() == {"beat"}
    assert highlanderctl(b.socket, "drain", "a").code == 0, "what the ledger says holds anyway"
    assert nodes.await_led("beat")["beat"] is b


# --------------------------------------------------------------------------------------------------- reasons, authors


def test_the_reason_of_each_order_stands_in_the_history_with_who_gave_it(nodes: Nodes, database: Database) -> None:
    leader, other = leader_and_other(nodes, database)
    assert highlanderctl(other.socket, "signal", "cont", "beat", "--tree", "--reason", "a dump").code == 0
    wait_for(lambda: events(database), what="it is written")
    assert events(database) == [("signalled", leader.name, "beat", "CONT to all processes: a dump")]
    [(author,)] = database.sql("SELECT author FROM highlander.event")
    assert author.endswith(f" on node {other.name}, role {database.role}")
    leader.configure("[program.beat]\numask = '077'\n")
    nodes.await_led("beat")
    assert highlanderctl(leader.socket, "reload", "--reason", "umask 077").code == 0
    wait_for(lambda: "changed" in ends(database, "beat"), what="the term has ended")
    nodes.await_led("beat", without=other)
    assert highlanderctl(leader.socket, "shutdown", "--reason", "a new kernel").code == 0
    assert leader.ended() == 0
    said = "SELECT reason, remark, author FROM highlander.term WHERE reason IN ('changed', 'shutdown') ORDER BY epoch"
    rows = database.sql(said)
    assert [(cause, remark) for cause, remark, _ in rows] == [("changed", "umask 077"), ("shutdown", "a new kernel")]
    assert all(author.endswith(f" on node {leader.name}") for _, _, author in rows)
    assert ("reloaded", leader.name, None, "umask 077") in events(database)


# ------------------------------------------------------------------------------------------------------------ signals

TRAPS = """
import os, signal, sys, time
def note(number, _):
    with open(sys.argv[1], "a") as file:
        file.write(f"{sys.argv[2]} {number}\\n")
for number in (1, 10, 36):
    signal.signal(number, note)
if sys.argv[2] == "main":
    import subprocess
    subprocess.Popen([sys.executable, *sys.orig_argv[1:-1], "below"])
with open(sys.argv[1], "a") as file:
    file.write(f"{sys.argv[2]} up\\n")
while True:
    time.sleep(0.02)
"""


def noted(mark: Path, *lines: str) -> bool:
    """Whether the processes have noted exactly these lines so far, in any order."""
    return mark.exists() and sorted(mark.read_text().splitlines()) == sorted(lines)


def test_a_signal_is_named_in_each_usual_way_and_reaches_the_main_process_or_the_tree(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    mark, script = nodes.directory / "mark", nodes.directory / "traps.py"
    script.write_text(TRAPS)
    programs = f'[program.beat]\ncommand = ["python3", "{script}", "{mark}", "main"]\n'
    nodes(database, "a", "b", programs=programs, lease=LEASE)
    up = ["main up", "below up"]
    wait_for(partial(noted, mark, *up), what="both processes have set their traps")
    asked = nodes.nodes[0]
    for number, spelling in ((1, "HUP"), (1, "SIGHUP"), (1, "1"), (10, "usr1"), (36, "RTMIN+2"), (36, "SIGRTMAX-28")):
        up.append(f"main {number}")
        done = highlanderctl(asked.socket, "signal", spelling, "beat")
        assert (done.code, done.out, done.err) == (0, f"beat: {spelling.upper()} sent\n", "")
        wait_for(partial(noted, mark, *up), what=f"{spelling} has arrived")
    assert highlanderctl(asked.socket, "signal", "HUP", "beat", "--tree").code == 0
    wait_for(partial(noted, mark, *up, "main 1", "below 1"), what="the whole tree has got it")


def test_what_is_no_signal_is_refused(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    for wrong in ("NONE", "0", "65", "RTMIN+99"):
        refused = highlanderctl(a.socket, "signal", wrong, "beat")
        assert (refused.code, refused.out) == (2, "")
        assert "the name or number of a signal" in refused.err


# ------------------------------------------------------------------------------------------------------------ waiting


def test_an_order_to_another_node_waits_as_long_as_it_is_told_to(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    deaf = "trap '' TERM; while :; do sleep 0.05; done"
    programs = f'[program.deaf]\nstop_timeout = 4\ncommand = ["sh", "-c", "{deaf}"]\n'
    nodes(database, "a", "b", programs=programs, lease=LEASE)
    wait_for(lambda: nodes.leaders().get("deaf"), what="it is led")
    both_know(nodes, "deaf")
    leader = nodes.leaders()["deaf"]
    [asked] = (node for node in nodes.nodes if node is not leader)
    late = highlanderctl(asked.socket, "restart", "deaf", "--timeout", "0.3s")
    assert (late.code, late.out) == (7, "")
    assert f"{leader.name}: deaf is still draining after 0.3 s" in late.err
    wait_for(lambda: leader.program("deaf")["epoch"] == 2, what="the order stood")
    wait_for(lambda: leader.leading(), what="it runs again")
    done = highlanderctl(asked.socket, "restart", "deaf", "--no-wait")
    assert (done.code, done.out) == (0, "deaf: restart ordered\n")
    assert leader.program("deaf")["state"] == "draining"


def test_an_order_to_a_node_whose_daemon_is_away_stands_no_longer(nodes: Nodes, database: Database) -> None:
    leader, other = leader_and_other(nodes, database)
    other.signal(15)
    assert other.ended() == 0
    late = highlanderctl(leader.socket, "stop", "beat", "--on", other.name)
    assert (late.code, late.out) == (7, "")
    assert f"{other.name} has not taken the order to stop beat within 4 s, and it stands no longer" in late.err
    assert database.sql("SELECT count(*) FROM highlander.command") == [(0,)]
    other.start()
    nodes.await_up(other)
    wait_for(lambda: other.program("beat")["state"] == "waiting", what="it contends: the order came to nothing")
