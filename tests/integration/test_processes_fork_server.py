"""Keepers and loggers are forked by a process of their own, and are the guardian's children all the same."""

from __future__ import annotations

import os
import platform
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.guardian import fork_server
from highlanderd.guardian.channel import Channel
from highlanderd.guardian.deadline_notes import DeadlineNotes
from highlanderd.guardian.fork_server import ForkServer
from highlanderd.system import linux, proctree
from tests.support.processes import PATIENCE, Node, apart, fork_servers, gone, name_of, node_at, state, waiting_fork
from tests.support.wait import wait_for

SANDBOX = Path(__file__).parents[1] / "children" / "sandboxed_child.py"
FAILED = 70
"""The exit code of what raises an exception."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_at(tmp_path) as node:
        yield node


def _server(node: Node) -> int:
    return wait_for(lambda: next(iter(fork_servers(node.pid)), 0), what="there is a fork server")


def _runs(node: Node, number: int = 0) -> int:
    """Start a child; gives its pid."""
    epoch = node.spawn("sleep", "1000", program=f"p{number}", lock_id=number)
    return int(node.expect("Started", epoch=epoch)["pid"])


def _begun() -> ForkServer:
    server = ForkServer(linux.Signals([signal.SIGCHLD]), DeadlineNotes(), (64, 64), linux.Poller())
    server.follow(PATIENCE / fork_server.WAIT)
    server.begin()
    return server


def _ask() -> int:
    asked = _begun()._ask()
    assert asked is not None
    pid, channel = asked
    assert proctree.parent(pid) == os.getpid()
    assert name_of(pid) in ("fork server", "forked"), "it was not forked by this process itself"
    channel.close()
    assert os.waitpid(pid, 0) == (pid, 0)
    return 0


def test_what_the_server_forks_is_the_guardians_child_and_ends_when_no_order_comes() -> None:
    with apart(_ask) as asker:
        assert asker.wait(PATIENCE) == 0


def _ask_without_clone3() -> int:
    runpy.run_path(str(SANDBOX))["refuse"](linux.CLONE3)
    return _ask()


@pytest.mark.skipif(linux.CLONE is None, reason=f"needs the number of clone on {platform.machine()}")
def test_it_forks_in_a_sandbox_that_refuses_clone3() -> None:
    """As the packages' unit does: systemd cannot see in its arguments whether it makes a namespace."""
    with apart(_ask_without_clone3) as asker:
        assert asker.wait(PATIENCE) == 0


def _answered_too_late() -> int:
    server, late = _begun(), 0

    def no_answer(theirs: Channel) -> None:
        nonlocal late
        late = answer(theirs) or 0

    answer, server._answer = server._answer, no_answer  # type: ignore[method-assign]
    pid, channel = server.fork({"is": "an order that fails"}, {}, [])
    assert os.waitstatus_to_exitcode(os.waitpid(late, 0)[1]) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == FAILED
    channel.close()
    return 0


def test_a_process_that_is_forked_too_late_gets_no_order() -> None:
    """Else nobody would know the keeper that it becomes."""
    with apart(_answered_too_late) as asker:
        assert asker.wait(PATIENCE) == 0


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_forks_no_more_is_replaced_and_stops_no_program(node: Node, signum: int) -> None:
    before, server = _runs(node, 1), _server(node)
    os.kill(server, signum)
    after = _runs(node, 2)
    wait_for(lambda: gone(server), what="it is gone")
    _runs(node, 3)
    assert _server(node) != server
    assert not gone(before)
    assert not gone(after)


def test_the_server_outlives_the_proof_that_a_tree_is_empty(node: Node) -> None:
    epoch = node.spawn("sleep", "1000")
    node.expect("Started", epoch=epoch)
    server = _server(node)
    waiting_fork(node.pid)  # else it may still have the server's name
    os.kill(node.keeper(), signal.SIGKILL)
    node.expect("Emptied", epoch=epoch)
    assert fork_servers(node.pid) == [server]


def test_the_server_dies_with_the_guardian_also_when_it_is_stopped(node: Node) -> None:
    server = _server(node)
    os.kill(server, signal.SIGSTOP)
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: gone(server), what="it is gone")


def test_a_process_that_was_forked_ahead_becomes_the_next_keeper_and_another_one_follows(node: Node) -> None:
    ahead = waiting_fork(node.pid)
    _runs(node)
    assert node.keeper() == ahead
    assert waiting_fork(node.pid) != ahead


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_was_forked_ahead_and_cannot_run_stops_no_program(node: Node, signum: int) -> None:
    ahead = waiting_fork(node.pid)
    os.kill(ahead, signum)
    wait_for(lambda: gone(ahead) or state(ahead) in "TZ", what="it cannot run")
    _runs(node)
    assert node.keeper() != ahead
    wait_for(lambda: gone(ahead), what="it is gone")


def test_the_process_that_was_forked_ahead_outlives_the_proof_that_a_tree_is_empty(node: Node) -> None:
    epoch = node.spawn("sleep", "1000")
    node.expect("Started", epoch=epoch)
    ahead = waiting_fork(node.pid)
    os.kill(node.keeper(), signal.SIGKILL)
    node.expect("Emptied", epoch=epoch)
    assert waiting_fork(node.pid) == ahead


def test_the_process_that_was_forked_ahead_ends_with_the_guardian(node: Node) -> None:
    ahead = waiting_fork(node.pid)
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: gone(ahead), what="it is gone")


def test_a_signal_for_the_whole_daemon_does_not_wait_for_what_was_forked_ahead(node: Node) -> None:
    ahead = waiting_fork(node.pid)
    os.kill(ahead, signal.SIGTERM)
    wait_for(lambda: _pending(ahead) == 0, what="it has no signal before it")
    assert waiting_fork(node.pid) == ahead


def _pending(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:")))
