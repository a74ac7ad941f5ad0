"""Nobody may open a file any more: what must die still dies, and is still proven."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deaths import open_files
from tests.support.long import first_of
from tests.support.processes import Node, gone, node_at
from tests.support.scarcity import let_open_again, let_open_nothing_more
from tests.support.wait import wait_for


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


def tree(node: Node, cgroup: bool) -> tuple[int, list[int]]:
    epoch = node.shell("setsid sleep 1000 & echo $!; exec sleep 1000", cgroup=cgroup)
    grandchild = int(node.line(epoch))
    return epoch, [node.expect("Started", epoch=epoch)["pid"], grandchild]


@pytest.mark.parametrize("cgroup", first_of([True, False]))
def test_a_keeper_that_may_open_nothing_still_kills_its_whole_tree(node: Node, cgroup: bool) -> None:
    epoch, pids = tree(node, cgroup)
    let_open_nothing_more(node.keeper())
    node.tell("signal", epoch=epoch, signum=signal.SIGCONT, to="tree")
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert all(map(gone, pids))
    wait_for(lambda: not node.keepers(), what="the keeper has left")
    assert "is dead" not in node.errors.read_text(), "it has proven it itself"


def test_a_stop_signal_that_finds_no_descriptor_is_sent_once_there_is_one(node: Node) -> None:
    epoch, pids = tree(node, cgroup=False)
    let_open_nothing_more(node.keeper())
    node.tell("signal", epoch=epoch, signum=signal.SIGTERM, to="tree")
    assert node.expect("Exited", epoch=epoch)["status"] == signal.SIGTERM, "the main process need not wait for one"
    assert not gone(pids[1])
    let_open_again(node.keeper())
    node.expect("Emptied", epoch=epoch)
    assert all(map(gone, pids))


@pytest.mark.parametrize("cgroup", first_of([True, False]))
def test_a_guardian_that_may_open_nothing_still_buries_a_keepers_tree(node: Node, cgroup: bool) -> None:
    epoch, pids = tree(node, cgroup)
    let_open_nothing_more(node.pid)
    os.kill(node.keeper(), signal.SIGKILL)
    node.expect("Emptied", epoch=epoch)
    assert all(map(gone, pids))
    assert node.process.poll() is None


def test_a_guardian_that_may_start_no_worker_loses_no_descriptor_over_it(node: Node) -> None:
    node.tell("remember", memo="the sessions")
    wait_for(
        lambda: any("memfd:memo" in target for target in open_files(node.pid).values()), what="the guardian remembers"
    )
    before = len(open_files(node.pid))
    let_open_nothing_more(node.pid)
    os.kill(node.worker, signal.SIGKILL)
    wait_for(lambda: node.errors.read_text().count("no worker can be started") > 1, what="it has tried")
    let_open_again(node.pid)
    assert node.meet()["memo"] == "the sessions"
    wait_for(lambda: len(open_files(node.pid)) == before, what="it holds as many as before")


def test_under_a_limit_on_the_size_of_files_a_refusal_names_it_and_nothing_that_runs_ends(
    node: Node, tmp_path: Path
) -> None:
    log = {"files": {"stdout": str(tmp_path / "log")}}
    epoch = node.shell("exec sleep 1000", log=dict(log))
    child = node.expect("Started", epoch=epoch)["pid"]
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))  # its words still have room
    node.tell("order_log", epoch=epoch, order={"files": {}, "max_bytes": 7, "backups": 0})
    said = "the logger of beat cannot be told its new settings: File too large; restart beat to have it go by them"
    wait_for(lambda: said in node.errors.read_text(), what="the guardian says so, and lives")
    refused = node.shell("true", program="bot", lock_id=2, log=dict(log))
    why = "no keeper can be forked: File too large; raise the limit on the size of files (LimitFSIZE), "
    assert why in node.expect("SpawnFailed", epoch=refused)["why"]
    assert not gone(child)
