"""`highlanderctl renew`: a worker of the installed code takes over, and no child notices."""

from __future__ import annotations

import os
import signal

import pytest

from highlanderd import __version__
from highlanderd.system.linux import boottime
from tests.support.commands import highlanderctl
from tests.support.deaths import gone
from tests.support.installed import ENTRY, Installed
from tests.support.nodes import PATIENCE, Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.processes import children
from tests.support.renewals import LEASE, life, rehearsal, renewing, started, was_executed_ahead
from tests.support.wait import wait_for

SLOW = '[program.beat]\nbefore_stop = ["sleep", "3"]\n'
"""A program that is not stopped before the installed code has loaded."""


def test_a_renewal_replaces_the_worker_and_no_program_and_says_so(led: Node) -> None:
    before, worker = life(led), led.worker
    done = highlanderctl(led.socket, "renew")
    assert (done.code, done.err) == (0, "")
    assert f"worker {__version__} (pid {worker}) was replaced by {__version__} (pid {led.worker})" in done.out
    assert "programs reattached: 1: beat" in done.out
    assert led.worker != worker
    assert life(led) == before
    assert not led.program("beat")["detached"]


def test_code_that_does_not_load_this_machines_configuration_leaves_the_worker(led: Node) -> None:
    worker = led.worker
    led.file.write_text(led.file.read_text() + "\n[colours]\n")
    refused = highlanderctl(led.socket, "renew")
    assert refused.code == 78
    assert "the present worker goes on" in refused.err
    assert "colours" in refused.err
    assert led.worker == worker


def test_what_this_machine_lacks_for_a_program_keeps_no_new_code_away(led: Node) -> None:
    worker = led.worker
    led.file.write_text(led.file.read_text() + '\n[program.other]\ncommand = "/none"\nuser = "nobody-we-know"\n')
    done = highlanderctl(led.socket, "renew")
    assert done.code == 0
    assert "there is no file /none" in done.err
    assert led.worker != worker


def test_children_that_a_new_session_stops_are_named_and_force_is_asked_for(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE, on_connection_loss="stop")
    nodes.await_led("beat")
    worker = a.worker
    refused = highlanderctl(a.socket, "renew")
    assert (refused.code, a.worker) == (1, worker)
    assert 'on_connection_loss = "stop" that stops beat; add --force' in refused.err
    assert highlanderctl(a.socket, "renew", "--force").code == 0
    assert a.worker != worker


def test_after_a_renewal_both_versions_show_and_since_when_a_restart_is_due(older: Node, installed: Installed) -> None:
    assert older.status()["restart_due"] is None
    installed.of_version("0.0.10")
    done = highlanderctl(older.socket, "renew")
    assert done.code == 0, done.err
    assert "worker 0.0.9 " in done.out
    assert "guardian and keepers are still 0.0.9, since 20" in done.out
    status = older.status()
    assert (status["worker"]["version"], status["guardian"]["version"]) == ("0.0.10", "0.0.9")
    assert "its guardian and keepers 0.0.9; a restart is due since 20" in highlanderctl(older.socket, "version").out
    installed.of_version("0.0.11")
    assert highlanderctl(older.socket, "renew").code == 0
    assert older.status()["restart_due"] == status["restart_due"]
    installed.of_version("0.0.9")
    assert highlanderctl(older.socket, "renew").code == 0
    assert older.status()["restart_due"] is None


@pytest.mark.parametrize("module", ["postgres/wire.py", "listeners/control.py"])
def test_installed_code_that_cannot_be_imported_is_never_started(
    older: Node, installed: Installed, module: str
) -> None:
    before, worker = life(older), older.worker
    installed.append(module, "import none_such")
    refused = highlanderctl(older.socket, "renew")
    assert refused.code == 1
    assert "No module named 'none_such'" in refused.err
    assert (life(older), older.worker) == (before, worker)


def test_a_new_worker_that_never_answers_is_said_and_the_children_live(older: Node, installed: Installed) -> None:
    before = life(older)
    installed.break_workers()
    late = highlanderctl(older.socket, "renew", "--timeout", "2")
    assert late.code == 7
    assert "no new worker answers" in late.err
    installed.mend()
    wait_for(older.up, PATIENCE, "the mended code is started")
    assert life(older) == before


def test_the_next_worker_is_the_process_that_has_loaded_the_installed_code(older: Node, installed: Installed) -> None:
    [spare] = children(older.worker)
    installed.of_version("0.0.10")
    assert highlanderctl(older.socket, "renew").code == 0
    assert was_executed_ahead(older)
    assert older.status()["worker"]["version"] == "0.0.10"
    assert "beat: reattached within its lease" in older.log.read_text()
    wait_for(lambda: gone(spare), PATIENCE, "the former worker's spare has ended")
    [spare] = children(older.worker)
    os.kill(older.worker, signal.SIGKILL)
    wait_for(lambda: older.up() and older.worker == spare, PATIENCE, "its spare is the next worker")
    assert older.status()["worker"]["version"] == "0.0.10"


def test_the_next_worker_does_not_load_again_what_the_rehearsal_has_loaded(older: Node, installed: Installed) -> None:
    installed.append("worker/handover.py", "def reload_from(*_: object) -> Loaded:\n    raise ValueError('once more')")
    assert highlanderctl(older.socket, "renew").code == 0
    assert was_executed_ahead(older)
    assert "once more" not in older.log.read_text()


def test_a_spare_that_is_stopped_does_not_outlive_a_renewal(led: Node) -> None:
    [spare] = children(led.worker)
    os.kill(spare, signal.SIGSTOP)
    assert highlanderctl(led.socket, "renew").code == 0
    wait_for(lambda: gone(spare), PATIENCE, "the former worker's spare has ended")


def test_a_reload_that_is_under_way_is_not_lost_with_the_worker_that_gives_way(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    slow = "import time\n    time.sleep(2)\n    return only_load(*given)"
    installed.append("worker/reloading.py", f"only_load = load\n\n\ndef load(*given):\n    {slow}")
    node = started(nodes, database, installed, LEASE)
    node.file.write_text(node.file.read_text() + "\n[program.other]\n")
    node.signal(signal.SIGHUP)
    assert highlanderctl(node.socket, "renew").code == 0
    assert node.program("other")["name"] == "other"


def assert_executes_the_next_worker(node: Node, installed: Installed) -> None:
    """Renew; the next worker has to load everything itself, and the child lives on."""
    before, worker = life(node), node.worker
    installed.of_version("0.0.10")
    assert highlanderctl(node.socket, "renew").code == 0
    assert node.worker != worker
    assert not was_executed_ahead(node)
    assert life(node) == before


def test_a_guardian_that_takes_no_spare_from_a_worker_executes_the_next_one(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    installed.append("guardian/protocol.py", "MESSAGES = tuple(kind for kind in MESSAGES if kind.name != 'successor')")
    assert_executes_the_next_worker(started(nodes, database, installed, LEASE), installed)


def test_code_that_ends_once_it_has_loaded_is_executed_anew(older: Node, installed: Installed) -> None:
    installed.append("guardian/spare.py", "DESCRIPTOR = 'NONE_SUCH'")
    assert_executes_the_next_worker(older, installed)


def test_an_error_of_a_worker_that_was_renewed_is_no_error_of_an_output(older: Node, installed: Installed) -> None:
    mark = older.home / "failed"
    installed.append(
        ENTRY,
        "def _hold_embedded(_: object) -> None:\n"
        f"    if not os.path.exists({str(mark)!r}):\n"
        f"        os.close(os.open({str(mark)!r}, os.O_CREAT))\n"
        '        raise OSError(28, "No space left on device")',
    )
    assert highlanderctl(older.socket, "renew").code == 0
    assert mark.exists()
    said = older.log.read_text()
    assert "OSError: [Errno 28] No space left on device" in said
    assert "cannot write the output" not in said


def test_a_drain_that_begins_while_the_installed_code_loads_stays_with_its_worker(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    node = started(nodes, database, installed, LEASE, SLOW)
    with renewing(node) as ordered:
        rehearsal(node)
        node.signal(signal.SIGTERM)
        assert "the daemon is ending" in ordered.communicate(timeout=PATIENCE)[1]
    assert node.ended() == 0
    assert "gives way" not in node.log.read_text()


def test_a_worker_that_was_to_give_way_drains_all_when_the_guardian_dies(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    installed.append("worker/replacement.py", "ANSWER_WITHIN = 1.0")
    node = started(nodes, database, installed, LEASE, SLOW)
    assert highlanderctl(node.socket, "renew", "--no-wait").code == 0
    worker = node.worker
    node.signal(signal.SIGKILL)
    wait_for(lambda: gone(worker), PATIENCE, "the worker has ended")
    assert "everything is drained; ends with code 1" in node.log.read_text()
    assert ends(database, "beat") == ["shutdown"]


def test_a_worker_gives_way_once_the_guardian_can_start_the_next_one(older: Node) -> None:
    before, worker = life(older), older.worker
    with renewing(older) as ordered:
        rehearsal(older)
        older.freeze(older.guardian)
        wait_for(lambda: "gives way" in older.log.read_text(), PATIENCE, "the worker is to give way")
        until = boottime() + 1.0
        wait_for(lambda: boottime() > until, PATIENCE, "it would have given way long ago")
        assert not gone(worker)
        older.thaw()
        ordered.communicate(timeout=PATIENCE)
    assert (ordered.returncode, life(older)) == (0, before)
    assert older.worker != worker
