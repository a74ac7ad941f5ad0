"""The guardian dies or freezes, alone or with the worker: no child outlives its deadline, and none is doubled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.guardian.worker import KEPT
from tests.support.deaths import stand_still
from tests.support.processes import Node, gone, node_at, state
from tests.support.wait import wait_for


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


def test_a_worker_without_guardian_is_told_and_can_still_drain(node: Node) -> None:
    epoch = node.shell("trap 'echo stopping; exit 0' TERM; echo up; while :; do sleep 0.02; done")
    assert node.line(epoch) == "up\n"
    os.kill(node.pid, signal.SIGKILL)
    node.expect("lost")
    node.tell("signal", epoch=epoch, signum=signal.SIGTERM, to="main")
    assert node.line(epoch) == "stopping\n"
    assert node.expect("Exited", epoch=epoch)["status"] == 0
    node.expect("Emptied", epoch=epoch)
    late = node.spawn("true")
    assert "guardian is dead" in node.expect("SpawnFailed", epoch=late)["why"]


def test_a_frozen_guardian_is_noticed_by_its_silence(node: Node) -> None:
    stand_still(node.pid)
    node.expect("frozen guardian")
    os.kill(node.pid, signal.SIGCONT)


def _unprovable(node: Node, epoch: int) -> bool:
    node.tell("unprovable", epoch=epoch)
    return bool(node.expect("unprovable", epoch=epoch)["answer"])


def test_what_only_a_frozen_guardian_could_prove_is_unprovable_until_it_answers(node: Node) -> None:
    kept = node.spawn("sleep", "1000", program="kept", lock_id=1)
    node.expect("Started", epoch=kept)
    keeper = node.keeper()
    orphaned = node.spawn("sleep", "1000", program="orphaned", lock_id=2)
    node.expect("Started", epoch=orphaned)
    (dead,) = set(node.keepers()) - {keeper}
    stand_still(node.pid)
    os.kill(dead, signal.SIGKILL)
    unanswered = node.spawn("true", program="unanswered", lock_id=3, not_after=0.0)
    assert not _unprovable(node, unanswered), "it may still answer"
    node.expect("frozen guardian")
    assert [_unprovable(node, epoch) for epoch in (kept, orphaned, unanswered)] == [False, True, True]
    os.kill(node.pid, signal.SIGCONT)
    node.expect("Emptied", epoch=orphaned)
    node.expect("SpawnFailed", epoch=unanswered)
    late = node.spawn("sleep", "1000", program="late", lock_id=4)
    wait_for(lambda: not _unprovable(node, late), what="it answers again")


def test_a_guardian_that_slept_does_not_blame_its_worker(node: Node) -> None:
    worker = node.worker
    stand_still(node.pid)
    node.expect("frozen guardian")
    os.kill(node.pid, signal.SIGCONT)
    epoch = node.spawn("true")
    node.expect("Emptied", epoch=epoch)
    assert node.worker == worker


def test_keepers_kill_at_once_when_worker_and_guardian_are_both_dead(node: Node) -> None:
    epoch = node.shell("setsid sleep 1000 & echo $!; exec sleep 1000")
    grandchild = int(node.line(epoch))
    child = node.expect("Started", epoch=epoch)["pid"]
    worker, keeper = node.worker, node.keeper()
    stand_still(node.pid)  # so that it starts no other worker in between
    os.kill(worker, signal.SIGKILL)
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: all(map(gone, (child, grandchild, keeper))), what="the tree is gone, and its keeper")


def test_the_keeper_kills_at_the_deadline_when_everybody_above_it_is_frozen(node: Node) -> None:
    epoch = node.shell("trap '' TERM; setsid sleep 1000 & echo $!; sleep 1000", deadline=5.0)
    grandchild = int(node.line(epoch))
    child, worker = node.expect("Started", epoch=epoch)["pid"], node.worker
    stand_still(node.pid)
    stand_still(worker)
    wait_for(lambda: gone(child) and gone(grandchild), what="the deadline has killed the tree")
    assert state(node.pid) == state(worker) == "T"
    for pid in (worker, node.pid):  # the guardian last: once awake it may take a silent worker for dead, and bury it
        os.kill(pid, signal.SIGCONT)
    node.expect("Emptied", epoch=epoch)


def test_a_later_deadline_keeps_the_child_alive(node: Node) -> None:
    epoch = node.spawn("sleep", "1000", deadline=10.0)
    pid = node.expect("Started", epoch=epoch)["pid"]
    node.tell("entrust", epoch=epoch, deadline=9.0, memo="first")
    wait_for(lambda: node.noted("first"), what="its keeper has noted it")
    node.tell(
        "entrust", epoch=epoch, deadline=600, memo="noted"
    )  # as nothing else has changed, the guardian looks it up
    other = node.spawn("sleep", "1000", program="other", lock_id=8, deadline=10.0)
    node.expect("Emptied", epoch=other)  # it died of its deadline, which is later than the earlier ones were
    assert not gone(pid)


def test_what_a_former_guardian_left_in_its_cgroups_is_killed_before_anything_starts(tmp_path: Path) -> None:
    with node_at(tmp_path) as node:
        instance, parent = ((tmp_path / "instance").read_text() + "\n").split("\n")[:2]
        if not parent:
            pytest.skip("no writable cgroup v2 here")
        epoch = node.shell("setsid sleep 1000 & echo $!; exec sleep 1000")
        survivor = int(node.line(epoch))
        keeper, worker = node.keeper(), node.worker
        stand_still(node.pid, keeper, worker)
        for pid in (keeper, node.pid, worker):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(map(gone, (node.pid, keeper, worker))), what="all of ours are dead")
        assert not gone(survivor), "only the cgroup still knows it"
    (tmp_path / "test.sock").unlink()
    with node_at(tmp_path) as second:
        assert gone(survivor)
        assert second.meeting["instance"] != instance
        assert not list(Path(parent).glob(f"highlander.{instance}.*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
def test_a_worker_has_few_of_roots_capabilities_and_gains_none_and_a_child_has_all(node: Node) -> None:
    """The worker holds all third-party code and every socket; the guardian holds none, and starts the children."""

    def facts(pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    epoch = node.shell("exec sleep 1000")
    child = facts(int(node.expect("Started", epoch=epoch)["pid"]))
    worker = facts(node.worker)
    allowed = sum(1 << number for number in KEPT)
    assert [int(worker[name], 16) & ~allowed for name in ("CapPrm", "CapEff", "CapBnd")] == [0, 0, 0]
    assert worker["NoNewPrivs"] == "1"
    assert (child["CapEff"], child["NoNewPrivs"]) == (facts(os.getpid())["CapEff"], facts(os.getpid())["NoNewPrivs"])
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
