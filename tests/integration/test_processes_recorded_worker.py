"""What an earlier worker says is understood: a guardian with keepers of this version obeys it."""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.guardian.channel import MARSHAL_VERSION, Channel, Message, channel_pair
from highlanderd.guardian.keeper import Keeper
from highlanderd.system import linux
from tests.support.processes import PATIENCE, Node, apart, gone
from tests.support.recorded import TERM, receive, recorded, send
from tests.support.wait import wait_for

LENDING_WORKER = Path(__file__).parents[1] / "children" / "lending_worker.py"


class EarlierWorker:
    """A real, present guardian, and its worker's channel in the hands of the test."""

    def __init__(self, home: Path) -> None:
        self.node = Node(home)
        self.node.worker_argv = [sys.executable, str(LENDING_WORKER), str(home / "test.sock")]
        self._keepers: list[Channel] = []
        self.fds: list[int] = []
        """The descriptors of the greeting, and the pipes of the children."""

    def meet(self) -> Message:
        """Wait for the next worker, and take its channel; gives the greeting."""
        self.socket, _ = self.node._listener.accept()
        _, (fd,), _, _ = socket.recv_fds(self.socket, 1, 1)
        self.channel = Channel.of(fd)
        hello, fds = receive(self.channel, "hello")
        self.fds += fds
        return hello

    def replace(self) -> Message:
        """End this worker; gives the greeting for the next one."""
        self.close()
        return self.meet()

    def close(self) -> None:
        """End this worker, and let go of all that it was given."""
        for channel in (self.channel, *self._keepers):
            channel.close()
        for fd in self.fds:
            os.close(fd)
        self._keepers, self.fds = [], []
        self.socket.close()

    def spawn(self) -> tuple[Message, Channel, Message, dict[str, int]]:
        """Order a child; gives what came: ``keeper``, the channel to it, its state once started, its pipes."""
        spec = marshal.dumps(recorded("the memfd of spawn")[0], MARSHAL_VERSION)
        send(self.channel, "spawn", linux.memfd("spec", spec))
        message, (fd,) = receive(self.channel, "keeper")
        keeper = Channel.of(fd)
        self._keepers.append(keeper)
        pipes: dict[str, int] = {}
        state: Message = {"started": None}
        while state["started"] is None:
            state, fds = receive(keeper, "state")
            pipes.update(zip(state["fds"], fds, strict=True))
        self.fds += pipes.values()
        return message, keeper, state, pipes


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator[EarlierWorker]:
    worker = EarlierWorker(tmp_path)
    worker.node.start()
    try:
        worker.meet()
        send(worker.channel, "ping")
        yield worker
        worker.close()
    finally:
        worker.node.close()


def lines(fd: int, *wanted: str) -> None:
    """Wait until a child has written exactly these lines, in any order."""
    text = ""
    while len(text.splitlines()) < len(wanted) or not text.endswith("\n"):
        assert select.select([fd], [], [], PATIENCE)[0], text
        text += os.read(fd, 65536).decode()
    assert sorted(text.splitlines()) == sorted(wanted)


def test_a_ping_of_an_earlier_worker_is_answered(earlier: EarlierWorker) -> None:
    answer, _ = receive(earlier.channel, "pong")
    assert answer == {"is": "pong", "n": 1}


def test_a_keeper_obeys_an_earlier_worker_until_it_is_let_go(earlier: EarlierWorker) -> None:
    introduced, keeper, state, pipes = earlier.spawn()
    assert introduced == {"is": "keeper", "id": 1, **TERM}
    assert sorted(pipes) == ["stderr", "stdout"]
    lines(pipes["stdout"], "up")
    moved = send(keeper, "deadline")
    acknowledged, _ = receive(keeper, "state", memo=b"moved")
    assert acknowledged["deadline"] == moved["at"]
    send(keeper, "signal main")
    lines(pipes["stdout"], "main")
    send(keeper, "signal tree")
    lines(pipes["stdout"], "main", "below")
    send(keeper, "kill")
    emptied, _ = receive(keeper, "state", empty=True)
    assert (emptied["killed"], emptied["pid"], emptied["status"]) == ("order", state["pid"], signal.SIGKILL)
    assert gone(state["pid"])
    assert earlier.node.keepers(), "it stays until the worker knows"
    send(keeper, "leave")
    receive(earlier.channel, "emptied", **TERM)
    wait_for(lambda: not earlier.node.keepers(), what="the keeper has left")
    send(earlier.channel, "ack")
    earlier.replace()
    assert receive(earlier.channel, "listed") == ({"is": "listed"}, []), "the acknowledged term is forgotten"


def test_a_keeper_answers_briefly_only_when_it_is_asked_to_and_when_nothing_else_has_changed(
    earlier: EarlierWorker,
) -> None:
    _, keeper, _, _ = earlier.spawn()
    moved = send(keeper, "deadline, with a brief answer")
    assert _next(keeper) == {"is": "acknowledged", "deadline": moved["at"]}
    moved = send(keeper, "deadline")
    answer = _next(keeper)
    assert (answer["is"], answer["deadline"], answer["memo"]) == ("state", moved["at"], b"moved")
    send(keeper, "kill")
    receive(keeper, "state", empty=True)
    moved = send(keeper, "deadline, with a brief answer", at=linux.boottime() + 70)
    assert _next(keeper) == {"is": "acknowledged", "deadline": moved["at"]}, "the end was told before"


def test_a_keeper_answers_a_deadline_that_wants_no_answer_only_when_something_else_has_changed(
    earlier: EarlierWorker,
) -> None:
    _, keeper, _, _ = earlier.spawn()
    send(keeper, "deadline, without an answer")
    moved = send(keeper, "deadline, with a brief answer", at=linux.boottime() + 70)
    assert _next(keeper) == {"is": "acknowledged", "deadline": moved["at"]}, "the first one has no answer"


def _next(channel: Channel) -> Message:
    assert select.select([channel], [], [], PATIENCE)[0]
    received = channel.receive()
    assert received is not None
    return received[0]


def test_a_keeper_that_an_earlier_worker_has_killed_is_proven_empty(earlier: EarlierWorker) -> None:
    introduced, _, state, _ = earlier.spawn()
    send(earlier.channel, "kill a keeper", id=introduced["id"])
    receive(earlier.channel, "emptied", **TERM)
    assert gone(state["pid"])


def test_what_an_earlier_worker_wants_remembered_reaches_the_next_one(earlier: EarlierWorker) -> None:
    send(earlier.channel, "remember", linux.memfd("memo", b"the sessions"))
    send(earlier.channel, "draining")
    hello = earlier.replace()
    assert hello["draining"]
    assert hello["memo"]
    assert linux.read_whole(earlier.fds[0]) == b"the sessions"


def _keep(guardian: int, worker: int) -> int:
    linux.block_signals()
    linux.become_subreaper()
    linux.close_all_but(0, 1, 2, guardian, worker)
    spec = {**recorded("the memfd of spawn")[0], **TERM, "not_after": linux.boottime() + 60}
    channels = Channel.of(guardian), Channel.of(worker)
    return Keeper(spec, linux.Signals([signal.SIGCHLD]), *channels, None, {}).run((64, 64))


def test_a_keeper_takes_the_worker_that_an_earlier_guardian_hands_to_it() -> None:
    """The present keeper alone; the guardian's end of its channel is the test's."""
    guardian, keepers = channel_pair()
    first, firsts = channel_pair()
    with apart(_keep, fds=(keepers.fileno(), firsts.fileno())) as keeper:
        keepers.close()
        firsts.close()
        for fd in receive(first, "state")[1]:
            os.close(fd)
        second, seconds = channel_pair()
        send(guardian, "worker", seconds.detach())
        state, fds = receive(second, "state")
        assert len(fds) == len(state["fds"]) == 2, "the new worker reads the output from now on"
        with pytest.raises(EOFError):
            receive(first, "never")
        send(second, "kill")
        receive(second, "state", empty=True)
        send(second, "leave")
        for fd in fds:
            os.close(fd)
        assert keeper.wait(PATIENCE) == 0
    for channel in (guardian, first, second):
        channel.close()


def test_the_words_of_an_earlier_worker_reach_the_service_manager(tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "manager"))
    manager.settimeout(PATIENCE)
    worker = EarlierWorker(tmp_path)
    worker.node.start(env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "manager")})
    try:
        worker.meet()
        send(worker.channel, "notify")
        assert manager.recv(4096).decode() == recorded("notify")[0]["words"]
        worker.close()
    finally:
        worker.node.close()
        manager.close()


def test_an_earlier_worker_ends_the_daemon_with_its_exit_code(earlier: EarlierWorker) -> None:
    message = send(earlier.channel, "done")
    earlier.socket.close()
    assert earlier.node.process.wait(PATIENCE) == message["code"]
