"""Configuration and wishes that change while children run; programs that come to an end of their own."""

from __future__ import annotations

import json
import os
import signal
from functools import partial

import pytest

from highlanderd.errors import ConfigurationError, HighlanderError
from tests.support.journal import CHILD
from tests.support.nodes import PATIENCE, Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it, and a worker that is replaced on a busy machine may need seconds to start."""


def reload(node: Node, programs: str) -> None:
    """Change the file and tell the daemon; wait until it has said what became of it."""
    said = node.log.read_text().count("reloaded")
    node.configure(programs)
    node.signal(signal.SIGHUP)
    wait_for(lambda: node.log.read_text().count("reloaded") > said, what=f"{node.name} has reloaded")


def test_a_reload_touches_only_what_has_changed(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs="[program.same]\n[program.gone]\n[program.other]\n", lease=LEASE)
    nodes.await_led("same", "gone", "other")
    before = nodes.life("same")

    reload(node, "[program.same]\nstop_timeout = 1\n[program.new]\n[program.other]\numask = '077'\n")

    nodes.await_led("same", "new", "other")
    wait_for(lambda: ends(database, "gone") == ["removed"], what="what was removed has ended")
    wait_for(lambda: len(nodes.journal.lives("other")) == 2, what="what was changed runs anew")
    [same] = nodes.journal.lives("same")
    assert same.pids == before.pids
    wait_for(lambda: _programs(node) == {"same", "new", "other"}, what="what was removed is forgotten")


def _programs(node: Node) -> set[str]:
    return {program["name"] for program in node.status()["programs"]}


def test_a_bad_file_changes_nothing(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    pids = nodes.life("beat").pids

    reload(node, "[program.bot]\n[program.beat]\nstopsecs = 5\n")

    assert "was not reloaded" in node.log.read_text()
    worker = node.worker
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: node.worker != worker and node.up(), what="the next worker is up")
    assert list(nodes.await_led("beat")) == ["beat"], "it goes on with what was in force"
    [life] = nodes.journal.lives("beat")
    assert life.pids == pids


def test_a_reload_keeps_no_daemon_from_ending(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    programs = "[program.beat]\n[program.slow]\nstop_timeout = 60\ncommand = ['sh', '-c', 'exec $CHILD stubborn']\n"
    [node] = nodes(database, "a", programs=programs, lease=LEASE)
    nodes.await_led("beat", "slow")
    node.signal(signal.SIGTERM)
    wait_for(lambda: _programs(node) == {"slow"}, what="what ends at once has left")

    reload(node, programs)

    os.kill(nodes.life("slow").main, signal.SIGKILL)
    assert node.ended() == 0
    assert "this reload was not applied, because the daemon drains everything" in node.log.read_text()
    assert len(nodes.journal.lives("beat")) == 1


def test_what_waits_for_a_restart_does_not_come_with_the_next_worker(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    lock_id = node.program("beat")["lock_id"]
    (node.home / "more.toml").write_text('[program.new]\nstdout = "null"\n')

    node.lease = LEASE + 1
    node.configure(["beat"], schema="elsewhere")
    node.file.write_text(node.file.read_text().replace("[daemon]", '[daemon]\ninclude = "more.toml"'))
    node.signal(signal.SIGHUP)
    wait_for(lambda: "new" in nodes.leaders(), what="the reload brought the new program")
    said = node.log.read_text()
    assert "[postgres] lease: the ledger's own rules; 'highlanderctl ledger set-lease' changes that" in said
    assert "[postgres] schema: takes effect when the daemon is restarted" in said
    assert "include" not in said, "it took effect"
    worker = node.worker
    os.kill(worker, signal.SIGKILL)

    wait_for(lambda: node.worker != worker and node.up(), what="the next worker is up")
    nodes.await_led("beat", "new")
    assert node.program("beat")["lock_id"] == lock_id
    assert database.sql("SELECT to_regnamespace('elsewhere')") == [(None,)]
    assert len(nodes.journal.lives("beat")) == 1


def test_a_shutdown_by_the_control_socket_goes_on_in_the_next_worker(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    deaf = f"[program.deaf]\nstop_timeout = 6\ncommand = {json.dumps([*CHILD, 'stubborn'])}\n"
    [node] = nodes(database, "a", programs=deaf, lease=LEASE)
    nodes.await_led("deaf")

    node.control.ask("POST", "/v1/shutdown")
    wait_for(lambda: node.program("deaf")["state"] == "draining", what="it drains")
    os.kill(node.worker, signal.SIGKILL)

    assert node.ended() == 0
    assert ends(database, "deaf") == ["shutdown"]
    assert len(nodes.journal.lives("deaf")) == 1


def test_what_an_operator_stopped_stays_stopped_when_the_worker_is_replaced(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat", "bot"], lease=LEASE)
    nodes.await_led("beat", "bot")
    node.order("stop", "beat")

    worker = node.worker
    os.kill(worker, signal.SIGKILL)

    wait_for(lambda: node.worker != worker and node.up(), what="the next worker is up")
    assert (node.program("beat")["state"], node.program("beat")["want"]) == ("stopped", "stop")
    assert len(nodes.journal.lives("beat")) == 1
    node.order("start", "beat")
    assert nodes.await_led("beat", "bot")["beat"] is node
    assert len(nodes.journal.lives("bot")) == 1


def test_the_next_worker_shows_who_has_stopped_a_program_and_why(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    node.order("stop", "beat", reason="new disk")
    before, worker = node.program("beat")["reason"], node.worker
    assert before.startswith("stopped by uid")
    assert before.endswith("new disk")

    node.control.ask("POST", "/v1/renew", {"force": True}, PATIENCE)

    wait_for(lambda: node.worker != worker and node.up(), PATIENCE, "the next worker is up")
    assert node.program("beat")["reason"] == before


def test_a_program_that_has_finished_runs_again_only_when_it_is_told_to(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    once = """
[program.job]
restart = "on-failure"
command = ["sh", "-c", "echo $HIGHLANDER_EPOCH >>$JOURNAL.job; test $HIGHLANDER_EPOCH -gt 2"]
[program.once]
restart = "never"
command = ["sh", "-c", "echo $HIGHLANDER_EPOCH >>$JOURNAL.once; exit 7"]
"""
    made = nodes(database, "a", "b", programs=once, lease=LEASE)
    wait_for(lambda: ends(database, "job")[-1:] == ["finished"], what="the job has succeeded")
    wait_for(lambda: ends(database, "once") == ["finished"], what="what runs once has run")
    for node in made:
        for program in ("job", "once"):
            wait_for(partial(_knows_it_finished, node, program), what=f"{node.name} knows it of {program}")
    assert ends(database, "job") == ["exited", "exited", "finished"]

    with pytest.raises(HighlanderError, match="once failed: it ended with status 7"):
        made[1].order("start", "once")

    wait_for(lambda: ends(database, "once") == ["finished", "finished"], what="it has run again")
    assert _runs(nodes, "job") == ["1", "2", "3"]
    assert _runs(nodes, "once") == ["1", "2"]


def test_two_programs_that_swap_their_locks_never_live_beside_their_old_selves(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    keys = '[program.one]\nlock_key = "{}"\n[program.two]\nlock_key = "{}"\n[program.three]\nlock_key = "{}"\n'
    made = nodes(database, "a", "b", programs=keys.format("red", "blue", "green"), lease=LEASE)
    nodes.await_led("one", "two", "three")
    locks = {name: nodes.life(name).lock_id for name in ("one", "two", "three")}

    for node in made:
        node.configure(keys.format("blue", "red", "yellow"))
        with pytest.raises(ConfigurationError, match="one, two, three: another lock_key makes another lock"):
            node.control.ask("POST", "/v1/reload", {}, PATIENCE)
    assert nodes.life("one").lock_id == locks["one"], "refused"
    for node in made:
        node.control.ask("POST", "/v1/reload", {"force": True}, PATIENCE)

    wait_for(lambda: all(len(nodes.journal.lives(name)) >= 2 for name in locks), what="all live under new locks")
    nodes.await_led("one", "two", "three")
    assert nodes.life("one").lock_id == locks["two"]
    assert nodes.life("two").lock_id == locks["one"]
    assert nodes.life("three").lock_id not in locks.values()


def _knows_it_finished(node: Node, program: str) -> bool:
    return "finished" in node.program(program)["reason"]


def _runs(nodes: Nodes, program: str) -> list[str]:
    return nodes.journal.path.with_name(f"{nodes.journal.path.name}.{program}").read_text().split()


def test_a_reload_drains_nothing_that_this_machine_cannot_start_again(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    node.configure('[program.beat]\ncommand = "/none/such"\n[program.other]\n')
    for dry_run in (True, False):
        with pytest.raises(
            ConfigurationError, match=r"drain what cannot be started here again(?s:.*)no file /none/such"
        ):
            node.control.ask("POST", "/v1/reload", {"dry_run": dry_run}, PATIENCE)
    assert set(node.leading()) == {"beat"}
    answer = node.control.ask("POST", "/v1/reload", {"force": True}, PATIENCE)
    assert any("there is no file /none/such" in warning for warning in answer["warnings"])
    wait_for(lambda: any(one["failures"] for one in node.status()["programs"]), what="the operator has insisted")
