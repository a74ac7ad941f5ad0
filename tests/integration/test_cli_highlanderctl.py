"""``highlanderctl`` against real daemons: every exit code that people script against, 0 to 7 and 78."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.support.commands import as_nobody, highlanderctl, led
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 10.0
"""Seconds; nothing here waits for it."""
PROGRAMS = """
[program.beat]
command = ["sleep", "1000"]
[program.deaf]
command = ["sh", "-c", "trap '' TERM; while :; do sleep 1000 & wait; done"]
stop_timeout = "30s"
[program.idle]
command = ["sleep", "1000"]
autostart = false
"""


@contextmanager
def pair(nodes: Nodes, database: Database) -> Iterator[tuple[Node, Node]]:
    """Return the node that leads beat and the other one, which leads nothing yet."""
    settled_ledger(database, LEASE)
    [leader] = nodes(database, "a", programs=PROGRAMS, lease=LEASE)
    led(leader, "beat", "deaf")
    [other] = nodes(database, "b", programs=PROGRAMS, lease=LEASE)
    wait_for(lambda: all(other.program(name)["leader"] == "a" for name in ("beat", "deaf")), what="b knows who leads")
    yield leader, other


def test_every_exit_code_has_its_cause_and_its_sentence(nodes: Nodes, database: Database) -> None:
    with pair(nodes, database) as (leader, other):
        _questions(leader, other)
        _refusals(leader, other)
        _timeouts(leader)
        _reload(leader)
        _orders(leader, other)


def _questions(leader: Node, other: Node) -> None:
    for node in (leader, other):
        assert highlanderctl(node.socket, "status").code == 0
    led = highlanderctl(leader.socket, "status", "beat")
    assert (led.code, led.out.splitlines()[1].split()[:2]) == (0, ["beat", "leading"])
    standby = highlanderctl(other.socket, "status", "beat")
    assert (standby.code, standby.out.splitlines()[1].split()[:2]) == (3, ["beat", "waiting"])
    assert standby.out.splitlines()[1].split()[3] == "a", "the leader is known on every node"
    assert highlanderctl(leader.socket, "status", "idle").code == 3
    assert highlanderctl(leader.socket, "pid", "beat").out == f"{leader.program('beat')['pid']}\n"
    nothing = highlanderctl(other.socket, "pid", "beat")
    assert (nothing.code, nothing.out) == (3, "")
    assert highlanderctl(leader.socket, "is-leading", "beat").code == 0
    assert highlanderctl(other.socket, "is-leading", "beat").out == "beat: waiting on this node, led by a\n"
    quiet = highlanderctl(other.socket, "is-leading", "-q", "beat")
    assert (quiet.code, quiet.out, quiet.err) == (3, "", "")
    waited = highlanderctl(other.socket, "wait", "beat", "--for", "leading")
    assert (waited.code, waited.out) == (0, "beat: waiting on this node, led by a\n")
    shown = highlanderctl(leader.socket, "show", "beat")
    assert shown.code == 0
    assert "processes\n  " in shown.out


def _refusals(leader: Node, other: Node) -> None:
    done = highlanderctl(leader.socket, "release")
    assert (done.code, done.out) == (2, "")
    done = highlanderctl(other.socket, "release", "idle")
    assert done.code == 3
    assert done.err == 'highlanderctl: release idle: "idle" is stopped on b; nobody leads it at the moment\n'
    for words in (("status", "baet"), ("show", "baet"), ("release", "baet"), ("stop", "baet"), ("pid", "b?t")):
        done = highlanderctl(leader.socket, *words)
        assert (done.code, done.out) == (4, ""), words
        here = f"no program '{words[1]}' is configured on this node; it has beat, deaf, idle"
        said = here if "release" not in words else f"no node has a program '{words[1]}'; there are beat, deaf, idle"
        assert done.err in (f"highlanderctl: {said}\n", f"highlanderctl: {words[0]} {words[1]}: {said}\n")
    done = highlanderctl(leader.home / "none.sock", "status")
    assert done.code == 5
    assert done.err == (
        f"highlanderctl: no daemon is running here: {leader.home}/none.sock does not exist. Start it with 'systemctl "
        "start highlanderd' or 'highlanderd -c FILE', or name its socket with --socket or HIGHLANDER_SOCKET\n"
    )
    done = highlanderctl(leader.socket, "release", "beat", "--to", "a")
    assert (done.code, done.out, done.err) == (0, "beat: a leads it already, epoch 1\n", "")
    for wrong, text in (("90s", "1m30s"), ("0s", "0s"), ("5ms", "5ms")):
        done = highlanderctl(leader.socket, "ledger", "set-lease", wrong)
        assert (done.code, done.out, done.err) == (2, "", f"highlanderctl: a lease is 2s to 1m long, not {text}\n")
    done = highlanderctl(leader.socket, "maintenance", "on", "--for", "1s")
    assert (done.code, done.out) == (1, "")
    assert done.err == ("highlanderctl: an outage of 1s costs no child anyway: the ledger's lease of 10s bears it\n")


def _warned(node: Node) -> str:
    """Return what a node's status warns of."""
    return highlanderctl(node.socket, "status").err


def test_leases_change_for_the_whole_cluster_and_no_child_is_restarted(nodes: Nodes, database: Database) -> None:
    with pair(nodes, database) as (leader, other):
        pid = leader.program("beat")["pid"]
        done = highlanderctl(other.socket, "maintenance", "on", "--for", "30s", "--reason", "PostgreSQL 18.5")
        assert (done.code, done.err) == (0, "")
        assert "PostgreSQL may go away for up to 30s: that stops no child\n" in done.out
        for node in (leader, other):
            shown = wait_for(partial(_warned, node), what=f"{node.name} knows of the maintenance")
            assert shown.startswith("maintenance until ")
            assert "on node b: PostgreSQL 18.5\n" in shown
        facts = json.loads(highlanderctl(leader.socket, "ledger", "show", "--json").out)
        assert (facts["lease"], facts["lease_in_force"], facts["ceiling"]) == (LEASE, 48.0, 48.0)
        assert facts["maintenance_by"].endswith(" on node b")
        done = highlanderctl(leader.socket, "maintenance", "off")
        assert (done.code, done.out.splitlines()[0], done.err) == (0, "maintenance is off", "")
        for node in (leader, other):
            wait_for(lambda node=node: "maintenance" not in _warned(node), what="it is over")  # type: ignore[misc]
        done = highlanderctl(other.socket, "ledger", "set-lease", "8s", "--json")
        assert done.code == 0
        report = json.loads(done.out)
        assert (report["lease"], report["in_force"], report["pending"]) == (8.0, 8.0, [])
        both = (leader, other)
        wait_for(lambda: [node.status()["postgres"]["lease"] for node in both] == [8.0, 8.0], what="both use 8 s")
        assert leader.program("beat")["pid"] == pid


def test_who_may_not_command_is_told_with_exit_code_six(nodes: Nodes, database: Database) -> None:
    before = as_nobody()
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=PROGRAMS, lease=LEASE)
    done = highlanderctl(node.socket, "status", before=before)
    assert (done.code, done.out) == (6, "")
    assert done.err.startswith(f"highlanderctl: permission denied on {node.socket}: ")


def _timeouts(leader: Node) -> None:
    done = highlanderctl(leader.socket, "stop", "deaf", "--timeout", "0.2", "--force")
    assert done.code == 7
    assert done.err.startswith("highlanderctl: stop deaf: deaf is still draining after 0.2 s")
    assert done.err.endswith("The order stands; see 'highlanderctl status deaf', or wait longer with --timeout\n")


def _reload(leader: Node) -> None:
    good = leader.file.read_text()
    leader.file.write_text(good.replace('command = ["sleep", "1000"]\n[program.deaf]', 'comand = "x"\n[program.deaf]'))
    line = 1 + leader.file.read_text()[: leader.file.read_text().index("comand")].count("\n")
    for words in (("reload",), ("reload", "--dry-run"), ("reread",)):
        done = highlanderctl(leader.socket, *words)
        assert (done.code, done.out) == (78, "")
        assert f"{leader.file}:{line}: program.beat.comand: there is no such key" in done.err
    assert "beat" in leader.leading(), "a bad file changes nothing"
    leader.file.write_text(good + '[program.new]\ncommand = ["sleep", "1000"]\n')
    done = highlanderctl(leader.socket, "reload", "--dry-run")
    assert (done.code, done.out) == (0, "A reload would do this:\nnew: added: contends for the lead\n")
    done = highlanderctl(leader.socket, "reload")
    assert (done.code, done.out) == (0, "new: added: contends for the lead\n")
    led(leader, "new")


def _orders(leader: Node, other: Node) -> None:
    done = highlanderctl(leader.socket, "release", "beat")
    assert done.code == 0, done.err
    assert done.out in ("beat: waiting\n", "beat: waiting, led by b\n")
    led(other, "beat")
    done = highlanderctl(other.socket, "restart", "beat")
    assert (done.code, done.out) == (0, f"beat: leading, epoch 3, pid {other.program('beat')['pid']}\n")
    done = highlanderctl(other.socket, "stop", "beat")
    said = ("led by a now", "no node leads it now")  # a is waited for, but for a second only
    assert (done.code, done.out) in [(0, f"beat: stopped on this node; {one}\n") for one in said]
    led(leader, "beat")
    assert highlanderctl(other.socket, "version").code == 0
    done = highlanderctl(other.socket, "shutdown")
    assert (done.code, done.out) == (0, "b: releasing all programs, then ending\n")
    assert other.ended() == 0
    assert not Path(other.socket).exists()
    assert highlanderctl(other.socket, "status").code == 5
