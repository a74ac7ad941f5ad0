"""`highlanderctl renew`: a worker of the installed code takes over, no child notices, and clients ride over it."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from highlanderd import __version__
from highlanderd.errors import DaemonUnreachable
from highlanderd.system import ownership
from highlanderd.system.linux import boottime
from tests.support.deaths import gone, open_files, proc_file
from tests.support.installed import ENTRY, PACKAGE, Installed
from tests.support.nodes import PATIENCE, Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.processes import children
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; a worker that is replaced on a busy machine may need seconds to start."""


def ctl(node: Node, *arguments: str, installed: Installed | None = None) -> subprocess.CompletedProcess[str]:
    """Run highlanderctl against a node, with the code that is installed there or with this one."""
    command = [sys.executable, "-m", "highlanderd.ctl", "--socket", str(node.socket), *arguments]
    environment = {**os.environ, **(installed.environment if installed else {"PYTHONPATH": str(PACKAGE.parent)})}
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE
    )


def renewing(node: Node) -> subprocess.Popen[str]:
    """Order a renewal, and do not wait for it."""
    command = [sys.executable, "-m", "highlanderd.ctl", "--socket", str(node.socket), "renew"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def rehearsal(node: Node) -> int:
    """Wait until the worker has executed the installed code; gives that process, which a thread has begun."""

    def found() -> int:
        threads = Path(f"/proc/{node.worker}/task").glob("*/children")
        pids = [int(word) for thread in threads for word in proc_file(str(thread)).split()]
        return next((pid for pid in pids if b"--handover" in proc_file(f"/proc/{pid}/cmdline").split(b"\0")), 0)

    return wait_for(found, PATIENCE, "the worker has executed the installed code")


def lives(node: Node, program: str) -> tuple[object, object]:
    """Return what tells one child of a program from the next."""
    status = node.program(program)
    return status["pid"], status["epoch"]


@pytest.fixture
def led(nodes: Nodes, database: Database) -> Node:
    """A node that leads the program beat."""
    settled_ledger(database, LEASE)
    [node] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    return node


def test_a_renewal_replaces_the_worker_and_no_program_and_says_so(led: Node) -> None:
    before, worker = lives(led, "beat"), led.worker
    done = ctl(led, "renew")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"worker {__version__} (pid {worker}) was replaced by {__version__} (pid {led.worker})" in done.stdout
    assert "programs reattached: 1: beat" in done.stdout
    assert led.worker != worker
    assert lives(led, "beat") == before
    assert not led.program("beat")["detached"]


def test_code_that_does_not_load_this_machines_configuration_leaves_the_worker(led: Node) -> None:
    worker = led.worker
    led.file.write_text(led.file.read_text() + "\n[colours]\n")
    refused = ctl(led, "renew")
    assert refused.returncode == 78
    assert "the present worker goes on" in refused.stderr
    assert "colours" in refused.stderr
    assert led.worker == worker


def test_what_this_machine_lacks_for_a_program_keeps_no_new_code_away(led: Node) -> None:
    worker = led.worker
    led.file.write_text(led.file.read_text() + '\n[program.other]\ncommand = "/none"\nuser = "nobody-we-know"\n')
    done = ctl(led, "renew")
    assert done.returncode == 0
    assert "there is no file /none" in done.stderr
    assert led.worker != worker


def test_children_that_a_new_session_stops_are_named_and_force_is_asked_for(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE, on_connection_loss="stop")
    nodes.await_led("beat")
    worker = a.worker
    refused = ctl(a, "renew")
    assert (refused.returncode, a.worker) == (1, worker)
    assert 'on_connection_loss = "stop" that stops beat; add --force' in refused.stderr
    assert ctl(a, "renew", "--force").returncode == 0
    assert a.worker != worker


@pytest.fixture
def installed(nodes: Nodes) -> Installed:
    """A copy of the code, which a test may replace as a package does."""
    return Installed(nodes.directory / "site")


def started(
    nodes: Nodes, database: Database, installed: Installed, lease: float, program: str = "[program.beat]"
) -> Node:
    """Start a node of version 0.0.9, and wait until it leads the program beat."""
    installed.of_version("0.0.9")
    settled_ledger(database, lease)
    node = Node("a", nodes.directory / "a", database.dsn, lease, nodes.journal)
    nodes.nodes.append(node)
    node.environment = installed.environment
    node.configure(program)
    node.start()
    nodes.await_up(node)
    nodes.await_led("beat")
    return node


@pytest.fixture
def older(nodes: Nodes, database: Database, installed: Installed) -> Node:
    """A node of version 0.0.9, which leads the program beat."""
    return started(nodes, database, installed, LEASE)


def test_after_a_renewal_both_versions_show_and_since_when_a_restart_is_due(older: Node, installed: Installed) -> None:
    assert older.status()["restart_due"] is None
    installed.of_version("0.0.10")
    done = ctl(older, "renew", installed=installed)
    assert done.returncode == 0, done.stderr
    assert "worker 0.0.9 " in done.stdout
    assert "guardian and keepers are still 0.0.9, since 20" in done.stdout
    status = older.status()
    assert (status["worker"]["version"], status["guardian"]["version"]) == ("0.0.10", "0.0.9")
    assert "its guardian and keepers 0.0.9; a restart is due since 20" in ctl(older, "version").stdout
    installed.of_version("0.0.11")
    assert ctl(older, "renew", installed=installed).returncode == 0
    assert older.status()["restart_due"] == status["restart_due"]
    installed.of_version("0.0.9")
    assert ctl(older, "renew", installed=installed).returncode == 0
    assert older.status()["restart_due"] is None


@pytest.mark.parametrize("module", ["postgres/wire.py", "listeners/control.py"])
def test_installed_code_that_cannot_be_imported_is_never_started(
    older: Node, installed: Installed, module: str
) -> None:
    before, worker = lives(older, "beat"), older.worker
    installed.append(module, "import none_such")
    refused = ctl(older, "renew")
    assert refused.returncode == 1
    assert "No module named 'none_such'" in refused.stderr
    assert (lives(older, "beat"), older.worker) == (before, worker)


def test_a_new_worker_that_never_answers_is_said_and_the_children_live(older: Node, installed: Installed) -> None:
    before = lives(older, "beat")
    installed.break_workers()
    late = ctl(older, "renew", "--timeout", "2")
    assert late.returncode == 7
    assert "no new worker answers" in late.stderr
    installed.mend()
    wait_for(older.up, PATIENCE, "the mended code is started")
    assert lives(older, "beat") == before


def test_a_command_rides_over_a_worker_that_is_being_replaced(led: Node) -> None:
    os.kill(led.worker, signal.SIGKILL)
    assert ctl(led, "status", "beat").returncode == 0
    os.kill(led.worker, signal.SIGKILL)
    ordered = ctl(led, "restart", "beat", "--no-wait")
    assert ordered.returncode in (0, 3), ordered.stderr


def test_a_closed_socket_is_told_from_no_daemon(led: Node) -> None:
    led.socket.unlink()
    with pytest.raises(DaemonUnreachable, match=r"the daemon runs, but its control socket .* is closed"):
        led.control.ask("GET", "/v1/status", patience=-9.0)
    led.signal(signal.SIGTERM)
    led.ended()
    with pytest.raises(DaemonUnreachable, match="no daemon is running here"):
        led.status()


def test_a_second_daemon_is_refused_while_the_worker_of_the_first_is_replaced(led: Node, tmp_path: Path) -> None:
    second = tmp_path / "second.toml"
    second.write_text(led.file.read_text().replace(str(led.home / "state"), str(tmp_path / "state")))
    worker = led.worker
    led.freeze(led.guardian)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: gone(worker), PATIENCE, "the worker is dead")
    command = [sys.executable, "-m", "highlanderd", "-c", str(second)]
    environment = {**os.environ, "TEST_HOME": str(led.home)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    led.thaw()
    assert run.returncode == 1
    assert re.search(rf"a running daemon already (owns|answers on) {led.socket}", run.stderr)


def test_the_lock_is_seen_as_long_as_a_process_holds_it_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    socket = str(tmp_path / "control.sock")
    assert not ownership.taken(socket)
    held = ownership.take(socket)
    assert ownership.taken(socket)
    with pytest.raises(BlockingIOError):
        ownership.take(socket)
    os.close(held)
    assert not ownership.taken(socket)
    os.close(ownership.take(socket))


def test_nobody_who_may_only_read_the_lock_keeps_a_daemon_from_starting(tmp_path: Path) -> None:
    socket = str(tmp_path / "control.sock")
    os.close(ownership.take(socket))
    with Path(f"{socket}.lock").open("rb") as stranger:
        fcntl.lockf(stranger, fcntl.LOCK_SH | fcntl.LOCK_NB)
        held = ownership.take(socket)
        assert ownership.taken(socket)
        os.close(held)


def test_the_lock_is_made_through_no_link(tmp_path: Path) -> None:
    socket = str(tmp_path / "control.sock")
    (tmp_path / "canary").write_text("")
    (tmp_path / "canary").chmod(0o600)
    (tmp_path / "control.sock.lock").symlink_to("canary")
    os.close(ownership.take(socket))
    assert stat.S_IMODE((tmp_path / "canary").stat().st_mode) == 0o600
    assert not (tmp_path / "control.sock.lock").is_symlink()


def was_executed_ahead(node: Node) -> bool:
    """Return whether the worker is a process that the one before it has executed."""
    words = proc_file(f"/proc/{node.worker}/environ").split(b"\0")
    return any(word.startswith(b"HIGHLANDER_SPARE_FD=") and b"," in word for word in words)


def test_the_next_worker_is_the_process_that_has_loaded_the_installed_code(older: Node, installed: Installed) -> None:
    [spare] = children(older.worker)
    installed.of_version("0.0.10")
    assert ctl(older, "renew", installed=installed).returncode == 0
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
    assert ctl(older, "renew").returncode == 0
    assert was_executed_ahead(older)
    assert "once more" not in older.log.read_text()


def test_a_spare_that_is_stopped_does_not_outlive_a_renewal(led: Node) -> None:
    [spare] = children(led.worker)
    os.kill(spare, signal.SIGSTOP)
    assert ctl(led, "renew").returncode == 0
    wait_for(lambda: gone(spare), PATIENCE, "the former worker's spare has ended")


def test_code_that_loads_slowly_takes_over_once_it_has_loaded(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    node = started(nodes, database, installed, lease=4.0)
    before, worker = lives(node, "beat"), node.worker
    installed.append("worker/duplicates.py", "import time\ntime.sleep(4)")
    assert ctl(node, "renew").returncode == 0
    assert node.worker != worker
    assert lives(node, "beat") == before


def test_a_guardian_that_takes_no_spare_from_a_worker_executes_the_next_one(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    installed.append("guardian/protocol.py", "MESSAGES = tuple(kind for kind in MESSAGES if kind.name != 'successor')")
    node = started(nodes, database, installed, LEASE)
    before, worker = lives(node, "beat"), node.worker
    installed.of_version("0.0.10")
    assert ctl(node, "renew", installed=installed).returncode == 0
    assert node.worker != worker
    assert not was_executed_ahead(node)
    assert lives(node, "beat") == before


def test_code_that_only_loads_takes_over_as_before(older: Node, installed: Installed) -> None:
    before, worker = lives(older, "beat"), older.worker
    installed.append("guardian/spare.py", "DESCRIPTOR = 'NONE_SUCH'")
    installed.of_version("0.0.10")
    assert ctl(older, "renew", installed=installed).returncode == 0
    assert older.worker != worker
    assert not was_executed_ahead(older)
    assert lives(older, "beat") == before


@pytest.mark.long  # beside code that only loads
def test_code_that_an_older_guardian_may_have_to_load_again_too_slowly_for_the_leases_does_not_take_over(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    lease = 10.0
    node = started(nodes, database, installed, lease)
    installed.of_version("0.0.10")
    assert ctl(node, "renew", installed=installed).returncode == 0
    before, worker = lives(node, "beat"), node.worker
    installed.append("worker/duplicates.py", f"import time\ntime.sleep({lease / 2})")
    refused = ctl(node, "renew", installed=installed)
    assert (refused.returncode, node.worker) == (1, worker)
    assert "this machine is too busy now" in refused.stderr
    assert lives(node, "beat") == before


HANGS = "import time\ntime.sleep(1000)"


def test_code_that_hangs_while_it_loads_ends_with_the_worker(older: Node, installed: Installed) -> None:
    installed.append("worker/duplicates.py", HANGS)
    with renewing(older) as ordered:
        loads = rehearsal(older)
        os.kill(older.worker, signal.SIGKILL)
        wait_for(lambda: gone(loads), PATIENCE, "the code that hangs is gone")
        installed.mend("worker/duplicates.py")
        assert "whether the order was carried out" in ordered.communicate(timeout=PATIENCE)[1]


def test_code_that_hangs_while_it_loads_does_not_outlive_the_daemon(older: Node, installed: Installed) -> None:
    installed.append("worker/duplicates.py", HANGS)
    with renewing(older) as ordered:
        loads = rehearsal(older)
        older.signal(signal.SIGTERM)
        assert older.ended() == 0
        wait_for(lambda: gone(loads), PATIENCE, "the code that hangs is gone")
        ordered.communicate(timeout=PATIENCE)


def test_a_second_renewal_is_refused_while_the_first_one_loads(older: Node, installed: Installed) -> None:
    installed.append("worker/duplicates.py", "import time\ntime.sleep(2)")
    with renewing(older) as first:
        rehearsal(older)
        assert "the worker is being replaced already" in ctl(older, "renew").stderr
        first.communicate(timeout=PATIENCE)
    assert first.returncode == 0


def test_code_that_is_killed_while_it_loads_is_said_and_the_present_worker_goes_on(
    older: Node, installed: Installed
) -> None:
    worker = older.worker
    installed.append("worker/duplicates.py", HANGS)
    with renewing(older) as ordered:
        os.kill(rehearsal(older), signal.SIGKILL)
        said = ordered.communicate(timeout=PATIENCE)[1]
    assert (ordered.returncode, older.worker) == (1, worker)
    assert said.endswith("the present worker goes on; it was ended by signal 9\n")


def test_a_message_that_is_not_known_here_may_come_before_the_code_has_loaded(
    older: Node, installed: Installed
) -> None:
    installed.append(
        "worker/spare.py",
        "def load_while_wanted(place: str, _: int) -> None:\n"
        '    Channel.of(os.dup(int(place.partition(",")[0]))).post({"is": "news"})',
    )
    assert ctl(older, "renew").returncode == 0
    assert was_executed_ahead(older)


def test_code_that_says_more_than_anybody_keeps_does_not_take_over(older: Node, installed: Installed) -> None:
    worker = older.worker
    said = "for _ in range(4000):\n    print('nothing works here ' * 500, file=sys.stderr)"
    installed.append("worker/duplicates.py", f"import sys\n{said}")
    refused = ctl(older, "renew")
    assert (refused.returncode, older.worker) == (1, worker)
    assert "it ended with code 1:\n" in refused.stderr
    assert "nothing works here" in refused.stderr


def test_what_the_installed_code_has_opened_stays_open_in_the_next_worker(older: Node, installed: Installed) -> None:
    """Else its owner would close whatever has that number by then."""
    installed.append("worker/duplicates.py", "HELD = open(__file__)")
    assert ctl(older, "renew").returncode == 0
    assert was_executed_ahead(older)
    assert any(name.endswith("duplicates.py") for name in open_files(older.worker).values())


def test_code_that_has_changed_since_it_was_loaded_is_executed_anew(older: Node, installed: Installed) -> None:
    before = lives(older, "beat")
    installed.append("worker/duplicates.py", "import time\ntime.sleep(1)")
    with renewing(older) as ordered:
        rehearsal(older)
        installed.of_version("0.0.10")
        installed.mend("worker/duplicates.py")
        ordered.communicate(timeout=PATIENCE)
    assert (ordered.returncode, lives(older, "beat")) == (0, before)
    assert not was_executed_ahead(older)
    assert older.status()["worker"]["version"] == "0.0.10"


def test_a_renewal_that_is_refused_for_want_of_descriptors_keeps_none(led: Node) -> None:
    worker = led.worker
    before, limits = len(open_files(worker)), resource.prlimit(worker, resource.RLIMIT_NOFILE)
    for room in range(2, 7):  # a client's connection needs one
        held = {int(fd.name) for fd in open_files(worker)}
        free = [number for number in range(len(held) + room) if number not in held]
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (free[room - 1], limits[1]))
        assert "Too many open files" in ctl(led, "renew").stderr
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    wait_for(lambda: len(open_files(worker)) <= before, PATIENCE, "what the renewals have opened is closed")


def test_an_error_of_a_worker_that_was_renewed_is_no_error_of_an_output(older: Node, installed: Installed) -> None:
    mark = older.home / "failed"
    installed.append(
        ENTRY,
        "def _hold_embedded(_: object) -> None:\n"
        f"    if not os.path.exists({str(mark)!r}):\n"
        f"        os.close(os.open({str(mark)!r}, os.O_CREAT))\n"
        '        raise OSError(28, "No space left on device")',
    )
    assert ctl(older, "renew").returncode == 0
    assert mark.exists()
    said = older.log.read_text()
    assert "OSError: [Errno 28] No space left on device" in said
    assert "cannot write the output" not in said


SLOW = '[program.beat]\nbefore_stop = ["sleep", "3"]\n'
"""A program that is not stopped before the installed code has loaded."""


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
    assert ctl(node, "renew", "--no-wait").returncode == 0
    worker = node.worker
    node.signal(signal.SIGKILL)
    wait_for(lambda: gone(worker), PATIENCE, "the worker has ended")
    assert "everything is drained; ends with code 1" in node.log.read_text()
    assert ends(database, "beat") == ["shutdown"]


def test_a_worker_gives_way_once_the_guardian_can_start_the_next_one(older: Node) -> None:
    before, worker = lives(older, "beat"), older.worker
    with renewing(older) as ordered:
        rehearsal(older)
        older.freeze(older.guardian)
        wait_for(lambda: "gives way" in older.log.read_text(), PATIENCE, "the worker is to give way")
        until = boottime() + 1.0
        wait_for(lambda: boottime() > until, PATIENCE, "it would have given way long ago")
        assert not gone(worker)
        older.thaw()
        ordered.communicate(timeout=PATIENCE)
    assert (ordered.returncode, lives(older, "beat")) == (0, before)
    assert older.worker != worker


@pytest.mark.long  # beside a new worker that never answers
def test_code_that_only_loads_and_too_slowly_for_the_leases_does_not_take_over(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    lease = 10.0
    node = started(nodes, database, installed, lease)
    before, worker = lives(node, "beat"), node.worker
    installed.append("guardian/spare.py", "DESCRIPTOR = 'NONE_SUCH'")
    installed.append("worker/duplicates.py", f"import time\ntime.sleep({lease / 2})")
    refused = ctl(node, "renew")
    assert (refused.returncode, node.worker) == (1, worker)
    assert "this machine is too busy now" in refused.stderr
    assert lives(node, "beat") == before
