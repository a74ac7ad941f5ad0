"""What a renewal makes of installed code that loads slowly, hangs, is killed, changes or says too much."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from tests.support.commands import highlanderctl
from tests.support.deaths import gone, open_files
from tests.support.installed import Installed
from tests.support.nodes import PATIENCE, Node, Nodes
from tests.support.postgres import Database
from tests.support.renewals import life, rehearsal, renewing, started, was_executed_ahead
from tests.support.wait import wait_for

HANGS = "import time\ntime.sleep(1000)"


def test_code_that_loads_slowly_takes_over_once_it_has_loaded(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    node = started(nodes, database, installed, lease=4.0)
    before, worker = life(node), node.worker
    installed.append("worker/duplicates.py", "import time\ntime.sleep(4)")
    assert highlanderctl(node.socket, "renew").code == 0
    assert node.worker != worker
    assert life(node) == before


@pytest.mark.long  # beside code that loads slowly
def test_the_time_that_the_installed_code_takes_to_load_is_not_the_next_workers(
    older: Node, installed: Installed
) -> None:
    installed.append("worker/duplicates.py", "import time\ntime.sleep(6)")
    done = highlanderctl(older.socket, "renew", "--timeout", "6")
    assert (done.code, done.err) == (0, "")


@pytest.mark.long  # beside code that ends once it has loaded
def test_code_that_an_older_guardian_may_have_to_load_again_too_slowly_for_the_leases_does_not_take_over(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    lease = 10.0
    node = started(nodes, database, installed, lease)
    installed.of_version("0.0.10")
    assert highlanderctl(node.socket, "renew").code == 0
    before, worker = life(node), node.worker
    installed.append("worker/duplicates.py", f"import time\ntime.sleep({lease / 2})")
    refused = highlanderctl(node.socket, "renew")
    assert (refused.code, node.worker) == (1, worker)
    assert "this machine is too busy now" in refused.err
    assert life(node) == before


@pytest.mark.long  # beside a new worker that never answers
def test_code_that_ends_once_it_has_loaded_too_slowly_for_the_leases_does_not_take_over(
    nodes: Nodes, database: Database, installed: Installed
) -> None:
    lease = 10.0
    node = started(nodes, database, installed, lease)
    before, worker = life(node), node.worker
    installed.append("guardian/spare.py", "DESCRIPTOR = 'NONE_SUCH'")
    installed.append("worker/duplicates.py", f"import time\ntime.sleep({lease / 2})")
    refused = highlanderctl(node.socket, "renew")
    assert (refused.code, node.worker) == (1, worker)
    assert "this machine is too busy now" in refused.err
    assert life(node) == before


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
        assert "the worker is being replaced already" in highlanderctl(older.socket, "renew").err
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
    assert highlanderctl(older.socket, "renew").code == 0
    assert was_executed_ahead(older)


def test_code_that_says_more_than_anybody_keeps_does_not_take_over(older: Node, installed: Installed) -> None:
    worker = older.worker
    said = "for _ in range(4000):\n    print('nothing works here ' * 500, file=sys.stderr)"
    installed.append("worker/duplicates.py", f"import sys\n{said}")
    refused = highlanderctl(older.socket, "renew")
    assert (refused.code, older.worker) == (1, worker)
    assert "it ended with code 1:\n" in refused.err
    assert "nothing works here" in refused.err


def test_what_the_installed_code_has_opened_stays_open_in_the_next_worker(older: Node, installed: Installed) -> None:
    """Else its owner would close whatever has that number by then."""
    installed.append("worker/duplicates.py", "HELD = open(__file__)")
    assert highlanderctl(older.socket, "renew").code == 0
    assert was_executed_ahead(older)
    assert any(name.endswith("duplicates.py") for name in open_files(older.worker).values())


def test_code_that_has_changed_since_it_was_loaded_is_executed_anew(older: Node, installed: Installed) -> None:
    before = life(older)
    installed.append("worker/duplicates.py", "import time\ntime.sleep(1)")
    with renewing(older) as ordered:
        rehearsal(older)
        installed.of_version("0.0.10")
        installed.mend("worker/duplicates.py")
        ordered.communicate(timeout=PATIENCE)
    assert (ordered.returncode, life(older)) == (0, before)
    assert not was_executed_ahead(older)
    assert older.status()["worker"]["version"] == "0.0.10"


def test_a_renewal_that_is_refused_for_want_of_descriptors_keeps_none(led: Node) -> None:
    worker = led.worker
    before, limits = len(open_files(worker)), resource.prlimit(worker, resource.RLIMIT_NOFILE)
    for room in range(2, 7):  # a client's connection needs one
        held = {int(fd.name) for fd in open_files(worker)}
        free = [number for number in range(len(held) + room) if number not in held]
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (free[room - 1], limits[1]))
        assert "Too many open files" in highlanderctl(led.socket, "renew").err
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    wait_for(lambda: len(open_files(worker)) <= before, PATIENCE, "what the renewals have opened is closed")
