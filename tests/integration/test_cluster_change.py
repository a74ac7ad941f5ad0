"""A program that is changed on all nodes, and an order that meets a reservation: where the program runs then."""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it."""


def test_a_reload_on_the_leader_stays_there_and_runs_the_new_command(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    made = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    [other] = [node for node in made if node is not leader]

    leader.configure("[program.beat]\numask = '077'\n")
    assert highlanderctl(leader.socket, "start", "beat").err == (
        f"warning: {leader.file} has changed since it was loaded; 'highlanderctl reload' applies it\n"
    )
    done = highlanderctl(leader.socket, "reload", "--wait")
    assert (done.code, done.out) == (0, "beat: changed (umask): drains and starts again here\n")
    assert leader.leading()["beat"]["epoch"] == 2

    wait_for(lambda: len(nodes.journal.lives("beat")) == 2, what="it runs anew")
    assert nodes.await_led("beat")["beat"] is leader
    assert ends(database, "beat") == ["changed", None]

    other.configure("[program.beat]\numask = '077'\n")
    highlanderctl(other.socket, "reload")
    wait_for(lambda: other.program("beat")["leader"] == leader.name, what="the standby knows who leads")
    assert len(nodes.journal.lives("beat")) == 2, "one handover in all"


def test_a_start_elsewhere_breaks_a_reservation(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    made = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    [other] = [node for node in made if node is not leader]

    leader.order("release", "beat", to="typo", wait=False, force=True, **{"for": 60.0})
    wait_for(lambda: other.program("beat")["reason"] == "reserved for typo", what="the reservation holds")
    other.order("start", "beat")

    assert nodes.await_led("beat")["beat"] is other


@pytest.mark.long
def test_another_lock_comes_by_the_steps_of_the_page_and_no_copy_with_it(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    made = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    former = nodes.life("beat").lock_id

    for node in made:
        node.configure('[program.beat]\nlock_key = "other"\n')
        refused = highlanderctl(node.socket, "reload")
        assert (refused.code, "highlanderctl stop --force beat" in refused.err) == (78, True)
    for node in made:
        assert highlanderctl(node.socket, "stop", "--force", "beat").code == 0
    for node in made:
        reloaded = highlanderctl(node.socket, "reload")
        assert reloaded.code == 0, reloaded
    for node in made:  # it leaves the daemon, and comes back with the other lock
        wait_for(partial(_stopped_again, node, former), what=f"{node.name} has it with the other lock")
    for node in made:
        assert highlanderctl(node.socket, "start", "beat").code == 0

    nodes.await_led("beat")
    *before, after = [life.lock_id == former for life in nodes.journal.lives("beat")]
    assert (all(before), after) == (True, False), "b may have had its turn after the stop of a"


@pytest.mark.long
def test_a_program_with_another_name_and_its_old_lock_never_lives_beside_its_old_self(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    made = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    first = nodes.await_led("beat")["beat"]
    lock_id = nodes.life("beat").lock_id

    for node in sorted(made, key=lambda node: node is not first):
        node.configure('[program.metronome]\nlock_key = "beat"\n')
        assert highlanderctl(node.socket, "reload").code == 0

    nodes.await_led("metronome")
    assert nodes.life("metronome").lock_id == lock_id
    assert ends(database, "beat")[-1:] in (["removed"], [])
    assert not nodes.journal.doubles()


def _stopped_again(node: Node, former: int) -> bool:
    """Whether the program is there with another lock, and stopped."""
    programs = node.status()["programs"]
    return [(one["state"], one["lock_id"] == former) for one in programs] == [("stopped", False)]
