"""A keeper dies or freezes: its tree dies too, and only the guardian's own proof says that it has."""

from __future__ import annotations

import compileall
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deaths import open_files, stand_still
from tests.support.processes import GUARDIAN, LEASE, Node, gone, node_at, undying
from tests.support.wait import wait_for

BOUND = 1000 if sys.version_info >= (3, 12) else 1536
"""KiB of private memory that a running child may cost in its keeper (740 were seen with Python 3.12, 1,310 to 1,420
with 3.11, which writes a reference count into each object that it looks at, and so copies more of what it shares). A
keeper checks the shape of each message, and forks its child into a cgroup, which costs some of it."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


TREE = "setsid sleep 1000 & echo $!; (setsid sh -c 'trap \"\" TERM; sleep 1000 & echo $!; wait' &); sleep 0.3; wait"


def _tree(node: Node, **order: float) -> tuple[int, list[int]]:
    epoch = node.shell(TREE, **order)
    text = node.line(epoch)
    while len(text.split()) < 2:
        text += node.line(epoch)
    return epoch, [node.expect("Started", epoch=epoch)["pid"], *map(int, text.split())]


@pytest.mark.parametrize("cgroup", [True, False])
def test_a_killed_keeper_takes_its_whole_tree_along_and_the_guardian_proves_it(node: Node, cgroup: bool) -> None:
    epoch, pids = _tree(node, cgroup=cgroup)
    bystander = node.spawn("sleep", "1000", program="other", lock_id=8, cgroup=cgroup)
    other = node.expect("Started", epoch=bystander)["pid"]
    keeper = next(pid for pid in node.keepers() if os.getpgid(pid) != 0 and _parent(pids[0]) == pid)
    os.kill(keeper, signal.SIGKILL)
    node.expect("Emptied", epoch=epoch)
    assert all(gone(pid) for pid in pids)
    assert not gone(other), "and nobody else's"
    again = node.spawn("true")
    node.expect("Emptied", epoch=again)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def test_the_proof_waits_for_a_worker(node: Node) -> None:
    _, pids = _tree(node)
    stand_still(node.worker)
    os.kill(node.keeper(), signal.SIGKILL)
    greeting = node.meet()
    assert greeting["found"] == []
    assert all(gone(pid) for pid in pids)
    node.tell("holds", lock_id=7, program="beat")
    assert node.expect("holds")["answer"] is False


def test_a_deadline_that_moves_on_wakes_no_guardian(tmp_path: Path) -> None:
    with node_at(tmp_path, lease=60 * LEASE) as node:  # so that its worker hardly pings
        epoch, renewals = node.spawn("sleep", "1000"), 30
        node.expect("Started", epoch=epoch)
        before = _waits(node.pid)
        for renewal in range(renewals):
            node.tell("entrust", epoch=epoch, deadline=60 + renewal, memo=f"renewal {renewal}")
            while not node.noted(f"renewal {renewal}"):
                pass
        assert _waits(node.pid) - before < renewals / 2, "it wakes for pings alone"


def _waits(pid: int) -> int:
    """Return how often a process has waited for something."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary")]
    return int(line.split()[1])


def test_a_frozen_keeper_is_killed_when_it_does_not_read_a_deadline(node: Node) -> None:
    epoch, pids = _tree(node)
    keeper = node.keeper()
    stand_still(keeper)
    node.tell("entrust", epoch=epoch, deadline=60, memo="")
    node.expect("Emptied", epoch=epoch)
    assert all(gone(pid) for pid in (keeper, *pids))


def test_a_frozen_keeper_is_killed_after_its_deadline_even_with_the_worker_frozen(tmp_path: Path) -> None:
    with node_at(tmp_path, lease=3 * LEASE) as node:  # the worker is not replaced before the deadline
        epoch, pids = _tree(node)
        node.tell("entrust", epoch=epoch, deadline=6.0, memo="led")
        wait_for(lambda: node.noted("led"), what="the keeper knows its deadline")
        keeper = node.keeper()
        stand_still(node.worker)
        stand_still(keeper)
        wait_for(lambda: all(gone(pid) for pid in (keeper, *pids)), what="the guardian has killed it all")
        node.meet()
        assert "has let its deadline pass" in node.errors.read_text()


def test_a_keeper_that_does_not_greet_a_new_worker_is_killed_and_its_term_kept_until_proven(node: Node) -> None:
    """What it has told the guardian is enough to renew the term, which an undying tree needs for long."""
    epoch, pids = _tree(node, cgroup=False)
    node.tell("entrust", epoch=epoch, deadline=60, memo="led")
    keeper = node.keeper()
    wait_for(lambda: node.noted("led"), what="the keeper has it")
    with undying(pids[1]):
        stand_still(keeper)
        os.kill(node.worker, signal.SIGKILL)
        found = node.meet()["found"]
        assert [(each["epoch"], each["memo"]) for each in found] == [(epoch, "led")]
        wait_for(lambda: gone(keeper), what="the frozen keeper is dead")
        assert _holds(node) is True
    node.expect("Emptied", epoch=epoch)
    assert all(map(gone, pids))
    assert _holds(node) is False


def _order_the_kill(node: Node, epoch: int) -> None:
    node.tell("kill", epoch=epoch)

    def killed() -> bool:
        node.tell("report", epoch=epoch)
        return bool(node.expect("report", epoch=epoch)["killed"] == "order")

    wait_for(killed, what="the keeper says that it kills")


def test_a_keeper_that_freezes_while_it_kills_is_killed_and_its_tree_buried(node: Node) -> None:
    epoch, pids = _tree(node, cgroup=False)
    keeper = node.keeper()
    with undying(pids[1]):
        _order_the_kill(node, epoch)
        stand_still(keeper)
        wait_for(lambda: gone(keeper), what="the guardian has killed the keeper")
        assert not [fact for fact in node.facts if fact["fact"] == "Emptied"], "one of them is not gone yet"
    node.expect("Emptied", epoch=epoch)
    assert all(map(gone, pids))
    assert "fallen silent while it killed" in node.errors.read_text()


def test_a_keeper_whose_tree_will_not_die_is_left_at_it(tmp_path: Path) -> None:
    with node_at(tmp_path, lease=2 * LEASE) as node:
        epoch, pids = _tree(node, cgroup=False)
        keeper = node.keeper()
        with undying(pids[1]):
            _order_the_kill(node, epoch)
            later = node.spawn("sleep", "1000", program="other", lock_id=8, deadline=5.0)
            node.expect(
                "Emptied", epoch=later
            )  # this is five times what a keeper is left that is silent while it kills
            assert not gone(keeper)
        node.expect("Emptied", epoch=epoch)
        assert "killing it" not in node.errors.read_text()


def test_the_next_worker_is_told_of_a_tree_that_outlives_its_keeper(node: Node) -> None:
    """Else it would find the row its own and no keeper, begin another term, and release that one beside the tree."""
    epoch, pids = _tree(node, cgroup=False)
    with undying(pids[1]):
        keeper = node.keeper()
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: gone(keeper), what="the keeper is dead")
        node.tell("crash")
        assert [found["epoch"] for found in node.meet()["found"]] == [epoch], "it keeps the term, and renews it"
        node.tell("holds", lock_id=7, program="beat")
        assert node.expect("holds")["answer"] is True
    node.expect("Emptied", epoch=epoch)
    assert _holds(node) is False
    assert all(map(gone, pids))
    node.shell("true", epoch=epoch + 1)
    node.expect("Started", epoch=epoch + 1)


def _holds(node: Node) -> bool:
    node.tell("holds", lock_id=7, program="beat")
    return bool(node.expect("holds")["answer"])


def test_keepers_shrug_off_signals_that_are_not_theirs(node: Node) -> None:
    epoch = node.spawn("sleep", "1000")
    pid = node.expect("Started", epoch=epoch)["pid"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, signal.SIGPIPE):
        os.kill(node.keeper(), number)
    node.tell("entrust", epoch=epoch, deadline=60, memo="still there")
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert gone(pid)


def test_a_keeper_holds_only_its_own_descriptors(node: Node) -> None:
    for number in range(4):
        node.spawn("sleep", "1000", program=f"p{number}", lock_id=100 + number)
        node.expect("Started", epoch=number + 1)
    for keeper in node.keepers():
        held = open_files(keeper).values()
        assert not any(target.endswith("/lock") for target in held)
        assert len([target for target in held if target.startswith("socket:")]) == 2
        assert len([target for target in held if target.startswith("pipe:")]) == 2


def test_a_running_child_costs_about_a_megabyte_of_keeper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compileall.compile_dir(GUARDIAN.parent, quiet=2)  # as installed; to compile in the guardian scatters its memory
    with node_at(tmp_path) as node:
        for number in range(5):
            _work(node, number)
        kept, guardian = sorted(map(_private, node.keepers())), _private(node.pid)
    with capsys.disabled():
        print(f"\nKiB private: keepers of running children {kept}, guardian {guardian}")
    assert kept[2] < BOUND  # the median: what a page is shared with changes from one to the other


def _work(node: Node, number: int) -> None:
    epoch = node.spawn("sleep", "1000", program=f"p{number}", lock_id=number)
    node.expect("Started", epoch=epoch)
    for renewal in range(20):
        node.tell("entrust", epoch=epoch, deadline=60, memo=f"renewal {renewal}")
    wait_for(lambda: node.noted("renewal 19"), what="everything is taken in")


def _private(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
