"""Claims about hooks: when each runs, what it knows, and that it holds up the program and the release for its time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Node, gone, node_at
from tests.support.wait import wait_for

MAIN = "trap 'echo stopped >>$BOOK; exit 3' TERM; echo started >>$BOOK; while :; do sleep 0.02; done"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


def book(node: Node) -> list[str]:
    """Return what program and hooks have written down, in their order."""
    path = node.home / "book"
    return path.read_text().splitlines() if path.exists() else []


def spawn(node: Node, main: str = MAIN, timeout: float = 30.0, **hooks: str) -> int:
    env = {"PATH": "/usr/bin:/bin", "BOOK": str(node.home / "book")}
    commands = {name: ("sh", "-c", script) for name, script in hooks.items()}
    return node.shell(main, env=env, hooks=commands, hook_timeout=timeout, cause="lapsed")


def says(*names: str) -> str:
    return " ".join(["echo", *(f'"${{{name}-}}"' for name in names), ">>$BOOK"])


def written(node: Node, *lines: str) -> None:
    wait_for(lambda: book(node) == [*lines], what=f"written: {lines}; {book(node)}")


# ----------------------------------------------------------------------------------------------------- before the start


def test_before_start_comes_first_and_knows_why_the_last_term_ended(node: Node) -> None:
    epoch = spawn(node, before_start=f"sleep 0.1; {says('HIGHLANDER_EVENT', 'HIGHLANDER_CAUSE')}")
    assert node.expect_any("HookStarted", "Started", epoch=epoch)["fact"] == "HookStarted"
    node.expect("Started", epoch=epoch)
    written(node, "before_start lapsed", "started")
    assert node.expect("HookFinished", epoch=epoch)["why"] == ""


@pytest.mark.parametrize(
    ("script", "timeout", "why"),
    [
        ("exit 3", 30.0, "exited with status 3"),
        ("kill -9 $$", 30.0, "was killed by SIGKILL"),
        ("setsid sleep 1000 & sleep 1000", 4.0, "it did not end within 4 s"),
    ],
)
def test_a_program_is_not_started_when_its_first_hook_fails_and_nothing_is_left(
    node: Node, script: str, timeout: float, why: str
) -> None:
    epoch = spawn(node, timeout=timeout, before_start=f"echo $$ >>$BOOK; {script}", after_stop="echo after >>$BOOK")
    assert node.expect("HookFinished", epoch=epoch)["why"] == why
    assert node.expect("SpawnFailed", epoch=epoch)["why"] == f"before_start: {why}"
    [pid] = book(node)
    assert gone(int(pid))


def test_a_hook_that_cannot_be_executed_has_failed_with_the_cure(node: Node) -> None:
    epoch = node.shell(MAIN, hooks={"before_start": ("/nowhere/hook",)})
    assert "cannot execute '/nowhere/hook': No such file" in node.expect("SpawnFailed", epoch=epoch)["why"]


def test_the_start_may_take_longer_than_its_order_was_good_for_once_the_hook_runs(node: Node) -> None:
    env = {"PATH": "/usr/bin:/bin"}
    epoch = node.shell("exec sleep 1000", env=env, hooks={"before_start": ("sleep", "3.5")}, not_after=3.0)
    assert node.expect_any("SpawnFailed", "Started", epoch=epoch)["fact"] == "Started"


def test_a_hook_does_not_outlive_the_deadline(node: Node) -> None:
    epoch = spawn(node, before_start="echo $$ >>$BOOK; trap '' TERM; while :; do sleep 1; done")
    node.expect("HookStarted", epoch=epoch)
    wait_for(lambda: book(node), what="it runs")
    node.tell("entrust", epoch=epoch, deadline=0.2, memo="")
    node.expect("SpawnFailed", epoch=epoch)
    assert gone(int(book(node)[0]))


def test_a_term_that_ends_while_the_first_hook_runs_starts_nothing_and_undoes_what_that_has_done(node: Node) -> None:
    hook = "echo before >>$BOOK; while ! test -e $BOOK.go; do sleep 0.02; done"
    epoch = spawn(node, before_start=hook, after_stop=says("HIGHLANDER_EVENT", "HIGHLANDER_CAUSE"))
    wait_for(lambda: book(node), what="it runs")
    node.tell("end", epoch=epoch, cause="stopped", announced=True)
    node.tell("signal", epoch=epoch, signum=15, to="tree")
    node.tell("entrust", epoch=epoch, deadline=60, memo="told")
    wait_for(lambda: node.noted("told"), what="the keeper has heard all of it")
    (node.home / "book.go").touch()
    assert node.expect("SpawnFailed", epoch=epoch)["why"] == "it was stopped before it was started"
    assert book(node) == ["before", "after_stop stopped"]


# --------------------------------------------------------------------------------------------- while the program runs


def test_hooks_beside_the_program_run_once_and_their_failure_is_told(node: Node) -> None:
    epoch = spawn(node, after_ready=f"{says('HIGHLANDER_EVENT')}; exit 1")
    written(node, "started")
    for _ in range(2):
        node.tell("run_hook", epoch=epoch, name="after_ready")
    ended = node.expect("HookFinished", epoch=epoch)
    assert (ended["hook"], ended["why"]) == ("after_ready", "exited with status 1")
    written(node, "started", "after_ready")
    node.tell("kill", epoch=epoch)
    node.expect("Emptied", epoch=epoch)


def test_the_stop_signal_waits_for_before_stop_which_ends_after_ready(node: Node) -> None:
    hooks = {"after_ready": "echo up >>$BOOK; sleep 1000", "before_stop": f"sleep 0.1; {says('HIGHLANDER_CAUSE')}"}
    epoch = spawn(node, MAIN, 30.0, **hooks)
    written(node, "started")
    node.tell("run_hook", epoch=epoch, name="after_ready")
    written(node, "started", "up")
    node.tell("end", epoch=epoch, cause="released", announced=True)
    node.tell("signal", epoch=epoch, signum=15, to="main")
    node.expect("Emptied", epoch=epoch)
    assert book(node) == ["started", "up", "released", "stopped"]
    assert node.expect("HookFinished", hook="after_ready")["why"] == "was killed, because the program is to stop"


# ------------------------------------------------------------------------------------------------------- after the end


def test_after_stop_runs_when_nothing_is_left_and_only_then_is_the_tree_empty(node: Node) -> None:
    hook = f"sleep 0.1; {says('HIGHLANDER_EVENT', 'HIGHLANDER_CAUSE', 'HIGHLANDER_EXIT_STATUS')}"
    epoch = spawn(node, after_stop=hook)
    written(node, "started")
    node.tell("end", epoch=epoch, cause="released", announced=False)
    node.tell("signal", epoch=epoch, signum=15, to="tree")
    node.expect("Emptied", epoch=epoch)
    assert book(node) == ["started", "stopped", "after_stop released 3"]


def test_after_stop_waits_until_it_is_known_why_the_term_ends(node: Node) -> None:
    epoch = spawn(node, "exit 0", after_stop=says("HIGHLANDER_CAUSE", "HIGHLANDER_EXIT_STATUS"))
    assert node.expect("Exited", epoch=epoch)["alone"]
    assert book(node) == []
    node.tell("end", epoch=epoch, cause="exited", announced=False)
    node.tell("signal", epoch=epoch, signum=15, to="tree")
    node.expect("Emptied", epoch=epoch)
    assert book(node) == ["exited 0"]


def test_after_stop_runs_after_its_time_though_nobody_says_why_the_term_ends(node: Node) -> None:
    epoch = spawn(node, "exit 0", timeout=4.0, after_stop=says("HIGHLANDER_EVENT"))
    node.expect("Emptied", epoch=epoch)
    assert book(node) == ["after_stop"]


@pytest.mark.parametrize(("after", "lines"), [(True, ["started", "SIGKILL"]), (False, ["started"])])
def test_after_stop_follows_a_kill_only_where_the_lock_is_still_held(node: Node, after: bool, lines: list[str]) -> None:
    main = "trap '' TERM; echo started >>$BOOK; while :; do sleep 0.02; done"
    epoch = spawn(node, main, after_stop=says("HIGHLANDER_EXIT_SIGNAL"))
    written(node, "started")
    node.tell("end", epoch=epoch, cause="stopped", announced=False)
    node.tell("kill", epoch=epoch, after=after)
    node.expect("Emptied", epoch=epoch)
    assert book(node) == lines


@pytest.mark.parametrize("how", ["time", "deadline", "kill"])
def test_after_stop_that_hangs_is_killed_with_all_that_it_has_started(node: Node, how: str) -> None:
    hook = "trap '' TERM; setsid sleep 1000 & echo $! >>$BOOK; while :; do sleep 1; done"
    epoch = spawn(node, "exit 0", timeout=4.0 if how == "time" else 30.0, after_stop=hook)
    node.expect("Exited", epoch=epoch)
    node.tell("end", epoch=epoch, cause="exited", announced=False)
    wait_for(lambda: book(node), what="it runs")
    orders: dict[str, dict[str, Any]] = {
        "time": {"command": "report"},
        "deadline": {"command": "entrust", "deadline": 0.1, "memo": ""},
        "kill": {"command": "kill"},
    }
    node.tell(**orders[how], epoch=epoch)
    node.expect("Emptied", epoch=epoch)
    assert gone(int(book(node)[0]))


def test_a_dead_keeper_takes_its_hook_along(node: Node) -> None:
    epoch = spawn(node, "exit 0", after_stop="echo $$ >>$BOOK; sleep 1000")
    node.expect("Exited", epoch=epoch)
    node.tell("end", epoch=epoch, cause="exited", announced=False)
    wait_for(lambda: book(node), what="it runs")
    os.kill(node.keeper(), 9)
    node.expect("Emptied", epoch=epoch)
    assert gone(int(book(node)[0]))


def test_hooks_write_where_the_program_writes(node: Node) -> None:
    path = node.home / "log"
    log = {"files": {"stdout": str(path)}}
    env = {"PATH": "/usr/bin:/bin"}
    hooks = {"before_start": ("echo", "before"), "after_stop": ("echo", "after")}
    epoch = node.shell("echo main", env=env, hooks=hooks, log=log, stderr="null")
    node.expect("Exited", epoch=epoch)
    node.tell("end", epoch=epoch, cause="exited", announced=False)
    node.expect("Emptied", epoch=epoch)
    wait_for(lambda: path.read_text() == "before\nmain\nafter\n", what="all of it is there")


def test_a_worker_that_comes_later_hears_what_has_become_of_hooks(node: Node) -> None:
    epoch = spawn(node, "exit 0", before_start="true", after_stop=says("HIGHLANDER_CAUSE"))
    node.expect("Exited", epoch=epoch)
    node.tell("crash")
    assert [found["epoch"] for found in node.meet()["found"]] == [epoch]
    node.expect("Exited", epoch=epoch)
    node.tell("end", epoch=epoch, cause="exited", announced=False)
    node.expect("Emptied", epoch=epoch)
    assert book(node) == ["exited"]
