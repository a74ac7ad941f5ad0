"""What an earlier guardian or keeper says is understood: they outlive the worker, and an upgrade."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from highlanderd.children.child import Child
from highlanderd.children.guardian_link import Greeting, GuardianLink
from highlanderd.children.messages import ChildEvent, SpawnRequest
from highlanderd.core.events import Emptied, Exited, SpawnFailed, Started
from highlanderd.guardian import protocol
from highlanderd.guardian.channel import Channel, Message, channel_pair
from highlanderd.guardian.keeper_handle import KeeperHandle
from highlanderd.guardian.keepers import Keepers
from highlanderd.guardian.worker import Worker
from highlanderd.system import linux, proctree
from tests.support.recorded import RECORDED, TERM, receive, recorded, send
from tests.support.wait import until

MOMENT = 1e-6
"""Seconds of a lease that is over before anything answers."""


def _in_loop(claim: Callable[[Channel, GuardianLink], Any]) -> None:
    """Run a claim about the present worker's end, at a channel whose other end speaks as an earlier guardian."""

    async def run() -> None:
        guardian, worker = channel_pair()
        link = GuardianLink(worker)
        await claim(guardian, link)
        guardian.close()
        await until(lambda: link.lost)

    asyncio.run(run())


def _pipe_end() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


class Heard:
    """What the link reports to the one that listens."""

    def __init__(self) -> None:
        self.signals: list[str] = []

    def signalled(self, name: str) -> None:
        self.signals.append(name)

    def guardian_lost(self) -> None: ...


async def _greeted(guardian: Channel, link: GuardianLink, *labels: str) -> Greeting:
    for label in labels:
        _, count = recorded(label)
        send(guardian, label, *(linux.memfd("memo", b"the sessions") for _ in range(count)))
    send(guardian, "listed")
    return await link.greeted()


def test_the_greeting_of_an_earlier_guardian_is_understood() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        greeting = await _greeted(guardian, link, "hello")
        hello, _ = recorded("hello")
        assert greeting == Greeting(hello["instance"], draining=False, memo=None, found=())

    _in_loop(claim)


def test_memo_and_drain_come_over_from_an_earlier_guardian() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        assert (await _greeted(guardian, link, "hello with a memo")).memo == b"the sessions"

    async def drains(guardian: Channel, link: GuardianLink) -> None:
        assert (await _greeted(guardian, link, "hello of a drain")).draining

    _in_loop(claim)
    _in_loop(drains)


YOUNGER = {"begin", "fork", "forked", "logger", "probe", "spare", "watch"}
"""Messages that did not exist when the others were recorded."""


@pytest.mark.parametrize(
    ("label", "pid", "memo"),
    [
        ("term of a running child", 30170, b"term one, renewed"),
        ("term of an empty tree", 30242, b""),
        ("term of which nothing is known", None, b"led"),
    ],
)
def test_a_term_whose_keeper_is_dead_is_found_with_its_last_state(label: str, pid: int | None, memo: bytes) -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        greeting = await _greeted(guardian, link, "hello", label)
        (found,) = greeting.found
        assert (found.child.program, found.child.lock_id) == ("beat", 7)
        assert (found.report.pid, found.report.memo) == (pid, memo)
        assert not found.child.reachable
        assert link.holds(7, "beat")

    _in_loop(claim)


def test_a_term_that_an_earlier_guardian_proves_empty_is_acknowledged_and_over() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        greeting = await _greeted(guardian, link, "hello", "term of a running child")
        events: list[ChildEvent] = []
        greeting.found[0].child.listen(events.append)
        send(guardian, "emptied")
        await until(lambda: Emptied() in events)
        assert receive(guardian, "ack") == ({"is": "ack", "lock_id": 7, "epoch": 1}, [])
        assert not link.holds(7, "beat")

    _in_loop(claim)


def test_signals_and_answers_of_an_earlier_guardian_arrive() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        heard = Heard()
        link.listen(heard)
        await _greeted(guardian, link, "hello")
        send(guardian, "signal TERM")
        assert [link.ping(MOMENT) for _ in range(4)] == [True, True, True, False], "three pings are unanswered"
        assert link.absence == "the guardian has not answered for 0.0 s"
        send(guardian, "pong", n=4)
        assert link.ping(MOMENT)
        assert link.absence == ""
        assert heard.signals == ["TERM"]

    _in_loop(claim)


def test_a_guardian_that_says_anything_is_not_frozen_though_hundreds_of_spawns_come_before_a_pong() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        link.listen(Heard())
        await _greeted(guardian, link, "hello")
        assert all(link.ping(MOMENT) for _ in range(3))
        send(guardian, "signal TERM")
        assert link.ping(MOMENT)
        assert link.absence == ""

    _in_loop(claim)


def test_a_worker_that_ends_turns_shows_that_it_lives_though_its_rounds_are_held_up() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        await _greeted(guardian, link, "hello")
        with link.attention("beat"):  # nothing is due before the first round
            pass
        assert link.ping(MOMENT)
        for _ in range(2):
            with link.attention("beat"):
                pass
        numbers = [message["n"] for message, _ in iter(guardian.receive, None) if message["is"] == "ping"]
        assert numbers == [1, 2, 3]

    _in_loop(claim)


def test_a_guardian_is_not_taken_for_frozen_because_pings_follow_each_other_at_once() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        await _greeted(guardian, link, "hello")
        assert all(link.ping(60.0) for _ in range(10))
        assert not link.silent

    _in_loop(claim)


def test_what_an_earlier_guardian_refuses_has_failed() -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        message, _ = recorded("refused")
        events: list[ChildEvent] = []
        await _greeted(guardian, link, "hello")
        _spawn(link, events.append, epoch=message["epoch"])
        send(guardian, "refused")
        await until(lambda: events)
        assert events == [SpawnFailed(message["why"])]

    _in_loop(claim)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["forked", "started"], [Started]),
        (["forked, its stdout is null"], []),
        (["started, as a new worker hears it"], [Started]),
        (["forked", "started", "main process ended"], [Started, Exited]),
        (["forked", "started", "ended"], [Started, Exited, Emptied]),
        (["forked", "started", "being killed by order"], [Started]),
        (["forked", "being killed by order", "killed by order"], [Started, Exited, Emptied]),
        (["forked", "killed at its deadline"], [Started, Exited, Emptied]),
        (["forked", "never executed"], [SpawnFailed]),
        (["forked", "killed before it was executed"], [SpawnFailed]),
    ],
)
def test_the_states_of_an_earlier_keeper_become_events(labels: list[str], told: list[type]) -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        events: list[ChildEvent] = []
        await _greeted(guardian, link, "hello")
        child = _spawn(link, events.append)
        keeper, workers = channel_pair()
        send(guardian, "keeper", workers.detach())
        for label in labels:
            message, count = recorded(label)
            await until(lambda: child.reachable)
            message = send(keeper, label, *(_pipe_end() for _ in range(count)))
            await until(partial(_shows, child, message))
        pipes = child.pipes()
        over = bool(told) and told[-1] in (Emptied, SpawnFailed)
        assert sorted(pipes) == ([] if over else sorted(recorded(labels[0])[0]["fds"]))
        for fd in pipes.values():
            os.close(fd)
        assert [type(event) for event in events] == told
        if over:
            await asyncio.to_thread(receive, keeper, "leave")
        keeper.close()
        await until(lambda: not child.reachable)

    _in_loop(claim)


@pytest.mark.parametrize("label", ["started", "acknowledged"])
def test_an_earlier_keeper_may_acknowledge_a_deadline_by_its_whole_state_or_in_brief(label: str) -> None:
    async def claim(guardian: Channel, link: GuardianLink) -> None:
        await _greeted(guardian, link, "hello")
        child, lease = _spawn(link, lambda _: None), 10.0
        keeper, workers = channel_pair()
        send(guardian, "keeper", workers.detach())
        await until(lambda: child.reachable)
        message, count = recorded("forked")
        send(keeper, "forked", *(_pipe_end() for _ in range(count)))
        child.set_deadline(50.0, b"led")
        assert receive(keeper, "deadline", at=50.0)[0]["brief"]
        await until(lambda: child.report is not None)
        send(keeper, label, **({"memo": b"led"} if label == "started" else {}), deadline=50.0)
        assert not child.frozen(linux.boottime() + lease, lease)
        send(keeper, "started", memo=b"last", deadline=60.0)
        await until(lambda: child.report is not None and (child.report.deadline, child.report.memo) == (60.0, b"last"))
        assert child.report is not None
        assert child.report.pid == message["pid"], "all else is as it was"
        for fd in child.pipes().values():
            os.close(fd)
        keeper.close()
        await until(lambda: not child.reachable)

    _in_loop(claim)


def _shows(child: Child, state: Message) -> bool:
    report = child.report
    facts = ("pid", "started", "failed", "status", "exited_at", "killed", "killed_at", "empty", "memo")
    return report is not None and all(getattr(report, name) == state[name] for name in facts)


def _spawn(link: GuardianLink, post: Callable[[ChildEvent], None], epoch: int = 1) -> Child:
    child, end = Child(link, "beat", 7, epoch), linux.boottime() + 60
    child.listen(post)
    child.start(SpawnRequest("beat", 7, epoch, end, end, b"", ("true",), {}))
    return child


@pytest.mark.parametrize(
    ("label", "ending"),
    [
        ("to guardian: forked", False),
        ("to guardian: started", False),
        ("to guardian: being killed at its deadline", True),
        ("to guardian: being killed by order", True),
        ("to guardian: ended", True),
    ],
)
def test_the_guardian_reads_the_state_of_an_earlier_keeper(label: str, ending: bool) -> None:
    worker = Worker([], "test")
    poller = linux.Poller()
    keepers = Keepers(worker, poller, linux.Signals([signal.SIGCHLD]), proctree.Children(), "test", (64, 64))
    keepers.follow(10.0)
    ours, keeper = channel_pair()
    handle = KeeperHandle(1, os.getpid(), ours, {**TERM, "deadline": linux.boottime() + 1000, "memo": b""}, None)
    keepers._living[handle.pid] = keepers._by_channel[ours.fileno()] = handle
    poller.add(ours)
    sent = send(keeper, label)
    keepers.receive(poller.wait())
    assert handle.state == sent
    assert handle.ending is ending
    assert not handle.killed
    keeper.close()
    ours.close()


def test_every_message_of_the_protocol_was_recorded() -> None:
    lines = [line for line in RECORDED.read_text().splitlines() if " | " in line and not line.startswith("#")]
    names = {ast.literal_eval(line.split(" | ", 2)[2]).get("is") for line in lines} - {None}  # the memfd is no message
    assert names | YOUNGER == {kind.name for kind in protocol.MESSAGES}
