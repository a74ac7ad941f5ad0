"""A child that is prepared while its term is asked for: it waits before its program, and goes on for that term only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Node, children, gone, node_at, state
from tests.support.wait import wait_for

LOCK_ID = 7


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


@pytest.fixture
def order(tmp_path: Path) -> dict[str, object]:
    """A child that leaves a mark once it is executed."""
    return {"argv": ["sh", "-c", f"echo executed >> {tmp_path}/mark; exec sleep 1000"]}


def prepared(node: Node, epoch: int, **order: object) -> int:
    """Have a child prepared; return its pid once it is there."""
    node.tell("prepare", epoch=epoch, **order)
    return wait_for(lambda: next((pid for keeper in node.keepers() for pid in children(keeper)), 0), what="it waits")


def sleeps_on(pid: int) -> bool:
    """Whether a process sleeps, and neither gives up the processor nor loses it for a moment."""
    before = _switches(pid)
    time.sleep(0.05)
    return state(pid) == "S" and _switches(pid) == before


def _switches(pid: int) -> list[str]:
    return [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "ctxt_switches" in line]


def test_a_prepared_child_waits_until_its_term_has_begun(node: Node, order: dict[str, object], tmp_path: Path) -> None:
    waiting = prepared(node, 1, **order)
    node.tell("spawn", epoch=1, deadline=50, not_after=40, memo="led", **order)
    assert node.expect("Started", epoch=1)["pid"] == waiting
    wait_for((tmp_path / "mark").exists, what="it was executed")
    node.tell("report", epoch=1)
    assert node.expect("report", epoch=1)["memo"] == "led"
    node.tell("kill", epoch=1)
    node.expect("Emptied", epoch=1)


def test_keeper_and_child_sleep_until_the_term_has_begun(node: Node, order: dict[str, object]) -> None:
    waiting = prepared(node, 1, **order)
    both = (node.keeper(), waiting)
    wait_for(lambda: all(map(sleeps_on, both)), what="both sleep on")
    node.tell("holds", lock_id=LOCK_ID, program="beat")
    assert node.expect("holds")["answer"] is False, "no term counts it"


def test_nothing_of_a_term_that_does_not_begin_is_executed(
    node: Node, order: dict[str, object], tmp_path: Path
) -> None:
    waiting = prepared(node, 1, **order)
    node.tell("discard", lock_id=LOCK_ID)
    wait_for(lambda: gone(waiting) and not node.keepers(), what="child and keeper are gone")
    assert not (tmp_path / "mark").exists()
    node.tell("spawn", epoch=1, **order)  # the same epoch may be granted later
    node.expect("Started", epoch=1)


def test_another_order_ends_what_was_prepared(node: Node, order: dict[str, object], tmp_path: Path) -> None:
    waiting = prepared(node, 1, **order)
    node.tell("spawn", epoch=2, **order)
    assert node.expect("Started", epoch=2)["pid"] != waiting
    wait_for(lambda: gone(waiting) and len(node.keepers()) == 1, what="what was prepared is gone")
    wait_for(lambda: (tmp_path / "mark").read_text() == "executed\n", what="the other one was executed, and only once")


@pytest.mark.parametrize("end", ["the worker dies", "its time is over", "the keeper dies", "the keeper is frozen"])
def test_what_was_prepared_ends_with(end: str, node: Node, order: dict[str, object], tmp_path: Path) -> None:
    waiting = prepared(node, 1, **order, not_after=3.0 if end == "its time is over" else 60.0)
    if end == "the worker dies":
        node.tell("crash")
        node.meet()
    if end == "the keeper dies":
        os.kill(node.keeper(), signal.SIGKILL)
    if end == "the keeper is frozen":
        os.kill(node.keeper(), signal.SIGSTOP)
        node.tell("discard", lock_id=LOCK_ID)
    wait_for(lambda: gone(waiting) and not node.keepers(), what="child and keeper are gone")
    assert not (tmp_path / "mark").exists()
    node.tell("spawn", epoch=1, **order)
    node.expect("Started", epoch=1)


def test_a_guardian_that_ends_leaves_nothing_that_was_prepared(node: Node, order: dict[str, object]) -> None:
    waiting = prepared(node, 1, **order)
    node.tell("done", code=0)
    assert node.process.wait(60) == 0
    assert gone(waiting)
