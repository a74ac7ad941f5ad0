"""A child that floods the machine with processes is killed whole, by whoever is left to do it, and proven gone."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.deaths import stand_still
from tests.support.floods import FLOOD, alive, dried, frozen
from tests.support.journal import Journal
from tests.support.processes import LEASE, PATIENCE, Node, gone, node_at, state, undying
from tests.support.wait import wait_for

BOMB, MANY = 120, 1000
FORKING = [
    pytest.param("bomb", BOMB),
    pytest.param("spray", BOMB, marks=pytest.mark.long),
    pytest.param("chains", 20, marks=pytest.mark.long),
]
STANDING = [
    pytest.param("zombies", MANY, marks=pytest.mark.long),
    pytest.param("threads", 200, marks=pytest.mark.long),
]


@dataclass
class Flooded:
    """A node, and the journal of its floods."""

    node: Node
    journal: Journal
    mark: Path

    def flood(self, kind: str, count: int, **order: object) -> int:
        """Start a flood and wait until it is at its height; gives its epoch."""
        words = {"PROGRAM": "beat", "LOCK_ID": "7", "EPOCH": str(self.node.epoch + 1), "NODE": "one"}
        env = {"PATH": "/usr/bin:/bin", "JOURNAL": str(self.journal.path), "MARK": str(self.mark)}
        env |= {f"HIGHLANDER_{name}": value for name, value in words.items()}
        epoch = self.node.spawn(*FLOOD, kind, str(count), env=env, **order)
        wait_for(lambda: self.journal.says("full"), what=f"{kind} is at its height")
        return epoch


@pytest.fixture
def flooded(open_dir: Path) -> Iterator[Flooded]:
    mark = open_dir / "mark"
    with dried(mark), node_at(open_dir) as node:
        yield Flooded(node, Journal(open_dir / "journal"), mark)


@pytest.mark.parametrize("cgroup", [True, False])
@pytest.mark.parametrize(("kind", "count"), [*FORKING, *STANDING])
def test_a_flood_is_killed_whole_on_order(flooded: Flooded, kind: str, count: int, cgroup: bool) -> None:
    epoch = flooded.flood(kind, count, cgroup=cgroup)
    flooded.node.tell("kill", epoch=epoch)
    flooded.node.expect("Emptied", epoch=epoch)
    assert alive(flooded.mark) == []
    wait_for(lambda: not flooded.node.keepers(), what="the keeper has left")


@pytest.mark.parametrize("cgroup", [True, False])
@pytest.mark.parametrize(("kind", "count"), FORKING)
def test_a_keeper_ends_a_flood_at_its_deadline_with_everybody_above_it_frozen(
    flooded: Flooded, kind: str, count: int, cgroup: bool
) -> None:
    node, epoch = flooded.node, flooded.flood(kind, count, cgroup=cgroup)
    worker, keeper = node.worker, node.keeper()
    node.tell("entrust", epoch=epoch, deadline=5.0, memo="known")
    wait_for(lambda: node.noted("known"), what="the keeper knows its deadline")
    for pid in (node.pid, worker):
        stand_still(pid)
    wait_for(lambda: not alive(flooded.mark), what="the flood is over")
    assert state(node.pid) == state(worker) == "T"
    assert not gone(keeper)
    for pid in (worker, node.pid):  # the guardian last: once awake it may take a silent worker for dead, and bury it
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("cgroup", [True, False])
@pytest.mark.parametrize(("kind", "count"), FORKING)
def test_the_guardian_ends_the_flood_that_a_dead_keeper_has_left(
    flooded: Flooded, kind: str, count: int, cgroup: bool
) -> None:
    node, epoch = flooded.node, flooded.flood(kind, count, cgroup=cgroup)
    bystander = node.spawn("sleep", "1000", program="other", lock_id=8)
    other = node.expect("Started", epoch=bystander)["pid"]
    os.kill(_keeper_of(flooded), signal.SIGKILL)
    node.expect("Emptied", epoch=epoch)
    assert alive(flooded.mark) == []
    assert not gone(other), "and nobody else's"
    node.expect("Emptied", epoch=node.spawn("true"))


def _keeper_of(flooded: Flooded) -> int:
    [life] = flooded.journal.lives("beat")
    main = life.main
    return int(Path(f"/proc/{main}/stat").read_text().rpartition(") ")[2].split()[1])


def test_keepers_die_with_their_floods_when_nobody_is_left(flooded: Flooded) -> None:
    node = flooded.node
    flooded.flood("bomb", BOMB, cgroup=False)
    worker, keeper = node.worker, node.keeper()
    stand_still(node.pid)  # so that it starts no other worker in between
    os.kill(worker, signal.SIGKILL)
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: gone(keeper), what="the keeper has left")
    assert alive(flooded.mark) == [], "and only after its tree was empty"


def test_a_keeper_reads_its_deadlines_in_time_while_orphans_rain_on_it(flooded: Flooded) -> None:
    """A keeper that has not read one for 3/10 of a lease is killed as frozen."""
    node = flooded.node
    epoch = node.epoch + 1
    flooded.flood("orphans", MANY)
    for number in range(50):
        node.tell("entrust", epoch=epoch, deadline=60, memo=f"renewal {number}")
    wait_for(lambda: node.noted("renewal 49"), what="all is taken in")
    assert "killing it" not in node.errors.read_text()
    listed = Path(f"/proc/{node.keeper()}/task/{node.keeper()}/children")
    wait_for(lambda: len(listed.read_text().split()) == 1, what="every orphan is taken note of")
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)


# ------------------------------------------------------------------------------------------------ what does not die


@pytest.fixture
def node(open_dir: Path) -> Iterator[Node]:
    with node_at(open_dir) as node:
        yield node


def _pair(node: Node) -> tuple[int, int, int]:
    """Return the epoch of a child, its main process, and that one's child."""
    epoch = node.shell("sleep 1000 & echo $!; exec sleep 1000", cgroup=False)
    below = int(node.line(epoch))
    return epoch, node.expect("Started", epoch=epoch)["pid"], below


def _have_killed(node: Node, epoch: int, by: str) -> None:
    """Have the tree killed by its keeper, or by the guardian because the keeper is dead."""
    if by == "keeper":
        node.tell("kill", epoch=epoch)
    else:
        os.kill(node.keeper(), signal.SIGKILL)


def _undying(node: Node, epoch: int) -> list[int]:
    node.tell("report", epoch=epoch)
    return list(node.expect("report", epoch=epoch)["unkillable"])


@pytest.mark.parametrize("by", ["keeper", "guardian"])
def test_who_does_not_die_does_not_save_those_below_him(node: Node, by: str) -> None:
    epoch, main, below = _pair(node)
    with frozen(main):
        _have_killed(node, epoch, by)
        wait_for(lambda: gone(below), what="the one below is dead")
        wait_for(lambda: _undying(node, epoch) == [main], what="the other one is named")
        assert not gone(main)
    node.expect("Emptied", epoch=epoch)


@pytest.mark.parametrize("by", ["keeper", "guardian"])
def test_what_does_not_die_is_named_until_it_is_gone(node: Node, by: str) -> None:
    epoch, _, below = _pair(node)
    with undying(below):
        _have_killed(node, epoch, by)
        wait_for(lambda: _undying(node, epoch) == [below], what="it is named")
        again = node.spawn("true")
        assert "not started" in node.expect("SpawnFailed", epoch=again)["why"]
    node.expect("Emptied", epoch=epoch)
    node.expect("Emptied", epoch=node.spawn("true"))


def test_a_daemon_does_not_start_beside_what_the_last_one_could_not_kill(open_dir: Path) -> None:
    with node_at(open_dir) as node:
        if not (open_dir / "instance").read_text().split("\n")[1]:
            pytest.skip("no writable cgroup v2 here")
        epoch = node.spawn("sleep", "1000")
        main = node.expect("Started", epoch=epoch)["pid"]
        with frozen(main):
            node.crash()
            second = Node(open_dir, socket_name="second.sock")
            second.start()
            assert second.process.wait(PATIENCE) == 1
            assert "cannot be killed" in second.errors.read_text()
            second.close()
    (open_dir / "test.sock").unlink()
    with node_at(open_dir):
        assert gone(main)


# -------------------------------------------------------------------------------- children that attack their keeper


@pytest.mark.parametrize("signum", ["STOP", "KILL"])
def test_a_child_of_the_same_user_that_attacks_its_keeper_dies_of_it(node: Node, signum: str) -> None:
    os.mkfifo(node.home / "fifo")
    attack = f"setsid sleep 1000 & echo $!; read go < fifo; kill -{signum} $PPID; sleep 1000"
    epoch = node.shell(attack, cwd=str(node.home), cgroup=False)
    grandchild = int(node.line(epoch))
    (node.home / "fifo").write_text("go\n")
    wait_for(lambda: all(state(keeper) in ("T", "Z", "") for keeper in node.keepers()), what="the keeper is out")
    node.tell("entrust", epoch=epoch, deadline=60, memo="")
    node.expect("Emptied", epoch=epoch)
    assert gone(grandchild)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a child as another user")
def test_a_child_of_another_user_cannot_signal_its_keeper(node: Node) -> None:
    epoch = node.shell("kill -STOP $PPID 2>/dev/null || echo refused; exec sleep 1000", uid=61000, gid=61000, groups=[])
    assert node.line(epoch) == "refused\n"
    assert state(node.keeper()) != "T"


def test_a_child_that_stops_itself_and_its_group_is_killed_all_the_same(node: Node) -> None:
    epoch = node.shell("sleep 1000 & echo $!; kill -STOP 0", cgroup=False)
    below = int(node.line(epoch))
    wait_for(lambda: state(below) == "T", what="they are stopped")
    node.tell("signal", epoch=epoch, signum=signal.SIGTERM, to="tree")
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert gone(below)


# -------------------------------------------------------------------------------------- what holds nobody up


def test_a_keeper_that_is_frozen_with_an_empty_tree_does_not_hold_up_the_end(open_dir: Path) -> None:
    with node_at(open_dir, lease=6 * LEASE) as node:  # it outlives what it stands still for
        epoch = node.shell("read line < fifo", cwd=str(node.home), stdout="null")
        os.mkfifo(node.home / "fifo")
        node.expect("Started", epoch=epoch)
        keeper = node.keeper()
        node.tell("pinging", on=False)  # a sign of life would be read, and the keeper let go, before it can be frozen
        stand_still(node.worker)
        (node.home / "fifo").write_text("go\n")
        wait_for(lambda: _waits_to_be_let_go(keeper), what="its tree is empty")
        stand_still(keeper)
        os.kill(node.worker, signal.SIGCONT)
        node.expect("Emptied", epoch=epoch)
        node.tell("done", code=0)
        assert node.process.wait(PATIENCE) == 0
        assert gone(keeper)


def _waits_to_be_let_go(keeper: int) -> bool:
    """Return whether it has reaped all, and sleeps again: it has reported that then."""
    return not Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split() and state(keeper) == "S"


@pytest.mark.parametrize("who", ["keeper", "guardian"])
def test_who_is_refused_to_wait_looks_all_the_same(node: Node, who: str) -> None:
    """The system refuses ``poll`` to whoever asks for more descriptors than it may have."""
    epoch, main, below = _pair(node)
    resource.prlimit(node.keeper() if who == "keeper" else node.pid, resource.RLIMIT_NOFILE, (1, 1))
    if who == "keeper":
        node.tell("kill", epoch=epoch)
    else:
        os.kill(node.keeper(), signal.SIGKILL)
    node.expect("Emptied", epoch=epoch)
    assert gone(main)
    assert gone(below)
    assert node.process.poll() is None
