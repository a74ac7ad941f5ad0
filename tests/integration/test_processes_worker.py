"""The worker dies or freezes: children live on, nothing is lost, and the next worker finds it all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deaths import open_files, stand_still
from tests.support.processes import PATIENCE, Node, gone, node_at, state
from tests.support.scarcity import let_open_again, let_open_nothing_more
from tests.support.wait import wait_for


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


TALKER = "trap 'echo piped >&2; exit 9' PIPE; i=0; while :; do i=$((i+1)); echo $i; sleep 0.005; done"


def test_a_killed_worker_costs_no_child_and_the_next_one_finds_it(node: Node) -> None:
    node.tell("remember", memo="the sessions")
    epoch = node.shell(TALKER, memo="term one")
    pid = node.expect("Started", epoch=epoch)["pid"]
    node.tell("entrust", epoch=epoch, deadline=77, memo="term one, renewed")
    node.line(epoch)
    wait_for(lambda: node.noted("term one, renewed"), what="the keeper has it")
    dead = node.worker
    os.kill(dead, signal.SIGKILL)
    greeting = node.meet()
    assert greeting["worker"] != dead
    assert greeting["memo"] == "the sessions"
    assert greeting["found"] == [{"epoch": epoch, "pid": pid, "memo": "term one, renewed"}]
    assert not gone(pid)
    first = int(node.line(epoch).split()[0])
    while int(node.line(epoch).split()[-1]) < first + 50:
        pass  # it goes on talking through the same pipe
    node.tell("signal", epoch=epoch, signum=signal.SIGTERM, to="tree")
    assert node.expect("Exited", epoch=epoch)["status"] == signal.SIGTERM
    node.expect("Emptied", epoch=epoch)
    assert not [fact for fact in node.facts if fact["fact"] == "output" and fact["name"] == "stderr"], "no SIGPIPE"


def test_an_exit_while_no_worker_was_there_is_told_to_the_next(node: Node) -> None:
    epoch = node.shell("read line < fifo; exit 4", cwd=str(node.home), stdout="null")
    os.mkfifo(node.home / "fifo")
    node.expect_any("Started", "Exited", epoch=epoch)
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    epoch = node.shell("read line < fifo; exit 4", cwd=str(node.home))
    pid = node.expect("Started", epoch=epoch)["pid"]
    stand_still(node.worker)  # frozen, so that the child certainly exits untold
    with (node.home / "fifo").open("w") as fifo:
        fifo.write("go\n")
    wait_for(lambda: gone(pid), what="the child has exited")
    node.meet()
    assert node.expect("Exited", epoch=epoch)["status"] == 4 << 8
    node.expect("Emptied", epoch=epoch)
    wait_for(lambda: not node.keepers(), what="the keeper has left")


def test_a_frozen_worker_is_replaced(node: Node) -> None:
    epoch = node.spawn("sleep", "1000")
    pid = node.expect("Started", epoch=epoch)["pid"]
    frozen = node.worker
    stand_still(frozen)
    greeting = node.meet()
    assert gone(frozen), "never two"
    assert greeting["worker"] != frozen
    assert [found["pid"] for found in greeting["found"]] == [pid]
    assert "no sign of life" in node.errors.read_text()


def test_a_worker_that_stops_pinging_is_replaced(node: Node) -> None:
    before = node.worker
    node.tell("pinging", on=False)
    assert node.meet()["worker"] != before


def test_workers_that_crash_one_after_the_other_lose_no_child(node: Node) -> None:
    epoch = node.spawn("sleep", "1000")
    pid = node.expect("Started", epoch=epoch)["pid"]
    for _ in range(3):
        os.kill(node.worker, signal.SIGKILL)
        assert [found["pid"] for found in node.meet()["found"]] == [pid]
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)


def _report(node: Node, epoch: int) -> dict[str, object]:
    node.tell("report", epoch=epoch)
    return node.expect("report", epoch=epoch)


def test_signals_are_passed_on(node: Node) -> None:
    for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2"):
        os.kill(node.pid, signal.Signals[f"SIG{name}"])
        node.expect("signal", name=name)


def test_a_signal_that_no_worker_could_hear_is_told_to_the_next_one(node: Node) -> None:
    let_open_nothing_more(node.pid)  # so that no worker can be started
    node.tell("crash")
    wait_for(lambda: "no worker can be started" in node.errors.read_text(), what="there is no worker")
    os.kill(node.pid, signal.SIGHUP)
    os.kill(node.pid, signal.SIGTERM)
    wait_for(lambda: not _pending(node.pid), what="the guardian has taken them")
    let_open_again(node.pid)
    assert node.meet()["draining"] is True
    assert sorted(node.expect("signal")["name"] for _ in range(2)) == ["HUP", "TERM"]


def _pending(pid: int) -> int:
    """Return the mask of the signals that were sent to a process and not taken yet."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("ShdPnd:")[1].split()[0], 16)


def test_an_orderly_end_survives_its_worker(node: Node) -> None:
    os.kill(node.pid, signal.SIGTERM)
    node.expect("signal", name="TERM")
    os.kill(node.worker, signal.SIGKILL)
    assert node.meet()["draining"] is True
    node.tell("done", code=0)
    assert node.process.wait(PATIENCE) == 0


def test_an_end_that_the_worker_began_itself_survives_it_too(node: Node) -> None:
    for _ in range(2):
        node.tell("draining")
    node.tell("crash")
    assert node.meet()["draining"] is True
    node.break_worker()
    node.tell("crash")
    assert node.process.wait(PATIENCE) == 1, "as after a signal, the end is reached without a worker"


def test_an_end_is_reached_even_when_no_worker_comes_up(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.worker_argv = ["/bin/false"]
    node.start()
    try:
        wait_for(lambda: "exit code 1" in node.errors.read_text(), what="the worker has failed")
        os.kill(node.pid, signal.SIGTERM)
        assert node.process.wait(PATIENCE) == 1
    finally:
        node.close()


def test_children_of_an_end_without_workers_are_killed_at_their_deadlines(node: Node) -> None:
    epoch = node.spawn("sleep", "1000", deadline=5.0)
    pid = node.expect("Started", epoch=epoch)["pid"]
    node.break_worker()
    os.kill(node.worker, signal.SIGKILL)
    os.kill(node.pid, signal.SIGTERM)
    assert node.process.wait(PATIENCE) == 1
    assert gone(pid)


def test_the_worker_has_its_own_group_and_nothing_but_its_channel(node: Node) -> None:
    worker = node.worker
    assert os.getpgid(worker) == worker
    status = Path(f"/proc/{worker}/status").read_text()
    assert "SigBlk:\t0000000000000000" in status
    assert state(worker) != ""
    assert not any(target.endswith("/lock") for target in open_files(worker).values()), (
        "the lock is the guardian's alone"
    )
    assert os.readlink(f"/proc/{worker}/fd/0") == "/dev/null"  # noqa: PTH115
