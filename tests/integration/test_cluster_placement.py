"""Claims about where a program is led: by the node that is preferred, never by one that is barred, and back again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from highlanderd.core.placement import FOR_PREFERRED
from tests.support.commands import highlanderctl
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 10.0
"""Seconds; nothing waits for it but the first test, which has a shorter one."""
SHORT_LEASE = 3.0
BEAT = '[program.beat]\nprefer = ["a", "b"]\nfailback = "2s"\n'


@pytest.mark.long
def test_a_program_goes_back_to_the_preferred_node_and_to_the_next_one_when_that_is_lost(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, SHORT_LEASE)
    [_] = nodes(database, "c", programs=BEAT, lease=SHORT_LEASE)
    nodes.await_led("beat")
    a, b = nodes(database, "a", "b", programs=BEAT, lease=SHORT_LEASE)
    wait_for(lambda: nodes.leaders().get("beat") is a, what="it was given back to a")
    said = "a is preferred, and has been able to lead it for"
    wait_for(lambda: said in highlanderctl(b.socket, "history", "beat", "--json").out, what="the history says why")
    wait_for(lambda: b.program("beat")["candidates"] == 2, what="b and c are known to wait")
    a.crash()
    nodes.await_led("beat", without=a)
    assert nodes.leaders()["beat"] is b, "and not c, which has looked at the same row"


def test_a_node_never_runs_what_its_file_says_that_it_never_runs(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    programs = '[program.beat]\n[program.bot]\nnever = ["a", "c"]\n'
    [a] = nodes(database, "a", programs='[program.beat]\n[program.bot]\nnever = ["c"]\n', lease=LEASE)
    nodes.await_led("bot")
    useless = highlanderctl(a.socket, "release", "bot", "--to", "c", "--force")
    said = 'highlanderctl: release bot: c never runs bot: the key "never" names c; remove it there, '
    assert (useless.code, useless.err) == (1, f"{said}and say highlanderctl reload\n")
    a.configure(programs, lease=LEASE)
    assert "bot: changed (never): drains and leaves this node" in highlanderctl(a.socket, "reload", "--force").out
    wait_for(lambda: a.program("bot")["state"] == "stopped", what="it has left")
    assert a.program("bot")["reason"] == 'the key "never" names this node'
    assert nodes.journal.lives("bot")[-1].obeyed
    refused = highlanderctl(a.socket, "start", "bot")
    assert (refused.code, "remove a from it" in refused.err) == (1, True)
    assert 'stopped, the key "never" names this node' in highlanderctl(a.socket, "explain", "bot").out


def test_a_program_starts_after_others_are_ready_on_any_node_or_have_finished(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    first = '[program.migrate]\ncommand = ["sh", "-c", "test -e $TEST_HOME/go"]\nrestart = "never"\nready = "1d"\n'
    after = '[program.web]\nafter = ["migrate", "db"]\n'
    [a] = nodes(database, "a", programs=f"{first}[program.db]\nautostart = false\n{after}", lease=LEASE)
    failed = "starts after migrate, which is neither ready anywhere nor finished with success"
    wait_for(lambda: a.program("migrate")["finished"] and a.program("web")["reason"] == failed, what="it has failed")
    (a.home / "go").touch()
    assert highlanderctl(a.socket, "start", "migrate").code == 0
    missing = "starts after db, which is neither ready anywhere nor finished with success"
    wait_for(lambda: a.program("web")["reason"] == missing, what="one of two is there")
    assert missing in highlanderctl(a.socket, "explain", "web").out
    assert not nodes.journal.lives("web")
    nodes(database, "b", programs="[program.db]\n", lease=LEASE)
    assert nodes.await_led("db", "web")["web"] is a


def test_what_was_stopped_everywhere_comes_back_to_the_preferred_node_and_not_to_the_one_that_was_asked(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    programs = '[program.beat]\nprefer = ["a"]\n'
    nodes(database, "a", programs=programs, lease=LEASE)
    nodes.await_led("beat")
    [b] = nodes(database, "b", programs=programs, lease=LEASE)
    for _ in range(2):
        assert highlanderctl(b.socket, "stop", "beat", "--everywhere").code == 0
        [(ordered,)] = database.sql("SELECT clock_timestamp()")
        assert highlanderctl(b.socket, "start", "beat", "--everywhere").code == 0
        nodes.await_led("beat")
        [(node, waited)] = database.sql("SELECT node, acquired_at - %s FROM highlander.lease", [ordered])
        assert node == "a" or waited >= timedelta(seconds=FOR_PREFERRED), "b was not to lead before a could have"
