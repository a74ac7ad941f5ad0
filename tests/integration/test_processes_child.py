"""The worker's end alone, at real channels whose other ends are the test's."""

from __future__ import annotations

import asyncio
import marshal
import os
from math import inf
from typing import Any

from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.messages import ChildEvent, SpawnRequest
from highlanderd.core.events import SpawnFailed
from highlanderd.errors import HighlanderError
from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.system.linux import boottime, read_whole
from tests.support.wait import until

LEASE = 10.0


def order(program: str, lock_id: int, epoch: int = 1) -> SpawnRequest:
    end = boottime() + 60
    return SpawnRequest(program, lock_id, epoch, not_after=end, deadline=end, memo=b"", argv=("true",), env={})


def spawn(guardian: GuardianLink, request: SpawnRequest) -> Child:
    """Have a child started that nobody listens to."""
    child = Child(guardian, request.program, request.lock_id, request.epoch)
    child.listen(lambda _event: None)
    child.start(request)
    return child


def heard(channel: Channel) -> list[dict[str, Any]]:
    """Read everything that the worker's end has said, but for the memory that it lends at once."""
    messages = []
    while received := channel.receive():
        messages.append(received[0])
    return [message for message in messages if message["is"] != "attend"]


def state(child: Child, **facts: Any) -> dict[str, Any]:
    """Make a keeper's report."""
    unknown = dict.fromkeys(("pid", "started", "failed", "status", "exited_at", "killed"))
    term = {"program": child.program, "lock_id": child.lock_id, "epoch": child.epoch}
    return {"is": "state", **term, **unknown, "empty": False, "memo": b"", "fds": [], **facts}


def introduce(guardian: Channel, child: Child) -> Channel:
    """Tell the worker's end of a child's keeper; gives the keeper's end."""
    keepers, workers = channel_pair()
    term = {"program": child.program, "lock_id": child.lock_id, "epoch": child.epoch}
    assert guardian.send({"is": "keeper", "id": 1, **term}, [workers.fileno()])
    workers.close()
    return keepers


def introduced() -> tuple[Channel, GuardianLink, Child, Channel]:
    """Make a child whose keeper can be reached; gives the guardian's end, the worker's, the child, the keeper's end."""
    ours, theirs = channel_pair()
    guardian = GuardianLink(theirs)
    child = spawn(guardian, order("beat", 7))
    keeper = introduce(ours, child)
    guardian.ping(LEASE)  # reads what is there
    return ours, guardian, child, keeper


def test_a_keeper_is_killed_once_it_has_not_read_an_order_for_three_tenths_of_a_lease() -> None:
    asyncio.run(_leave_unread())


async def _leave_unread() -> None:
    ours, guardian, child, keeper = introduced()
    child.set_deadline(boottime() + 50, b"")
    child.signal(15, "main")
    assert [message["is"] for message in heard(keeper)] == ["deadline", "signal"]
    guardian.check(boottime() + LEASE, LEASE)
    first = boottime()
    child.set_deadline(first + 50, b"")
    sent = boottime()
    child.set_deadline(first + 60, b"")
    heard(ours)
    guardian.check(first + 0.3 * LEASE, LEASE)
    assert heard(ours) == [], "what was read is not held against it, and the next orders are not due yet"
    keeper.receive()
    guardian.check(sent + 0.31 * LEASE, LEASE)
    assert [message["is"] for message in heard(ours)] == ["kill"], "the second one is unread, if not for as long"
    keeper.close()
    ours.close()
    guardian.ping(LEASE)
    assert guardian.lost
    await until(lambda: child._channel is None)


def test_further_orders_do_not_put_off_that_a_keeper_is_killed_for_an_unread_one() -> None:
    asyncio.run(_send_more())


async def _send_more() -> None:
    ours, guardian, child, keeper = introduced()
    child.set_deadline(boottime() + 50, b"")
    sent = boottime()
    child.set_deadline(sent + 60, b"")
    heard(ours)
    guardian.check(sent + 0.3 * LEASE, LEASE)
    assert [message["is"] for message in heard(ours)] == ["kill"], "it is for the first one, and the next is not due"
    keeper.close()
    ours.close()
    guardian.ping(LEASE)
    await until(lambda: child._channel is None)


def test_a_program_and_a_lock_are_held_until_the_last_child_of_theirs_is_over() -> None:
    asyncio.run(_hold())


async def _hold() -> None:
    ours, theirs = channel_pair()
    guardian = GuardianLink(theirs)
    for each in (order("beat", 7, 1), order("beat", 7, 2), order("relay", 7, 3), order("relay", 7, 3)):
        spawn(guardian, each)
    held = []
    for program, epoch in (("beat", 1), ("relay", 3), ("relay", 3), ("beat", 2)):
        held.append([guardian.holds(7, "-"), guardian.holds(0, "beat"), guardian.holds(0, "relay")])
        assert ours.send({"is": "refused", "program": program, "lock_id": 7, "epoch": epoch, "why": "a test"})
        guardian.ping(LEASE)
    assert held == [[True, True, True], [True, True, True], [True, True, False], [True, True, False]]
    assert not guardian.holds(7, "beat")
    ours.close()
    guardian.ping(LEASE)


def test_a_term_that_is_over_is_not_held_for_ever_when_the_guardian_tells_of_it_again() -> None:
    asyncio.run(_end_twice())


async def _end_twice() -> None:
    ours, theirs = channel_pair()
    guardian = GuardianLink(theirs)
    hello = {"is": "hello", "protocol": 1, "instance": "i", "draining": False, "memo": False, "signals": []}
    for message in (hello, {"is": "a word of a later version"}, {"is": "listed"}):
        assert ours.send(message)
    assert not (await guardian.greeted()).found
    child = spawn(guardian, order("beat", 7))
    keeper = introduce(ours, child)
    guardian.ping(LEASE)
    assert keeper.send(state(child, deadline=0.0, empty=True))
    await until(lambda: not guardian.holds(7, "beat"))
    keeper.close()
    await until(lambda: not child.reachable)
    for number in range(100):
        child.set_deadline(boottime() + number, b"")
    assert len(child._waiting) <= 2, "nobody hears it"
    assert not child.frozen(inf, LEASE)
    term = {"program": "beat", "lock_id": 7, "epoch": 1}
    assert ours.send({"is": "term", "id": 1, **term, "state": state(child, deadline=0.0)})
    guardian.ping(LEASE)
    assert guardian.holds(7, "beat"), "its tree is not proven empty in the eyes of the guardian"
    assert ours.send({"is": "emptied", **term})
    guardian.ping(LEASE)
    await until(lambda: not guardian.holds(7, "beat"))
    ours.close()
    guardian.ping(LEASE)


def test_a_keeper_leaves_after_the_worker_has_acted_on_the_proof() -> None:
    asyncio.run(_leave())


async def _leave() -> None:
    ours, theirs = channel_pair()
    guardian = GuardianLink(theirs)
    child, told = Child(guardian, "beat", 7, 1), list[list[dict[str, Any]]]()
    child.listen(lambda _event: told.append(heard(keeper)))
    child.start(order("beat", 7))
    keeper = introduce(ours, child)
    guardian.ping(LEASE)
    assert keeper.send(state(child, deadline=0.0, empty=True))
    await until(lambda: bool(told))
    assert told == [[]], "its end takes processors from the takeover"
    await until(lambda: heard(keeper) == [{"is": "leave"}])
    for channel in (keeper, ours):
        channel.close()
    guardian.ping(LEASE)


def test_a_child_that_is_stopped_before_its_request_is_written_is_never_started() -> None:
    asyncio.run(_stop_early())


async def _stop_early() -> None:
    ours, theirs = channel_pair()
    guardian = GuardianLink(theirs)
    events: list[ChildEvent] = []
    child, request = Child(guardian, "beat", 7, 1), asyncio.Future[SpawnRequest]()
    child.listen(events.append)
    child.start_when(request)
    child.signal(15, "tree")
    assert events == [SpawnFailed("it was stopped before it was started")]
    request.set_result(order("beat", 7))
    await asyncio.sleep(0)
    child.kill()
    assert len(events) == 1
    assert heard(ours) == []
    assert not guardian.holds(7, "beat")
    ours.close()
    guardian.ping(LEASE)


def test_the_deadline_that_was_set_while_the_request_was_written_is_in_it() -> None:
    asyncio.run(_set_early())


async def _set_early() -> None:
    ours, theirs = channel_pair()
    guardian = GuardianLink(theirs)
    child, request = Child(guardian, "beat", 7, 1), asyncio.Future[SpawnRequest]()
    child.listen(lambda _event: None)
    child.start_when(request)
    for number in (100.0, 200.0):
        child.set_deadline(number, b"renewed")
    assert not guardian.holds(7, "beat"), "the guardian was not asked yet"
    request.set_result(order("beat", 7))
    await asyncio.sleep(0)
    assert guardian.holds(7, "beat")
    assert ours.receive() is not None, "the memory that it lends"
    received = ours.receive()
    assert received is not None
    message, (spec,) = received
    written = marshal.loads(read_whole(spec))  # noqa: S302 - written in this test
    os.close(spec)
    assert (message["is"], written["deadline"], written["memo"]) == ("spawn", 200.0, b"renewed")
    assert child._waiting == []
    ours.close()
    guardian.ping(LEASE)


def test_a_request_that_cannot_be_written_is_a_failed_start() -> None:
    asyncio.run(_fail_to_write())


async def _fail_to_write() -> None:
    ours, theirs = channel_pair()
    guardian = GuardianLink(theirs)
    events: list[ChildEvent] = []
    for number, error in enumerate((HighlanderError("there is no user"), KeyError("a bug"))):
        child, request = Child(guardian, "beat", 7, number), asyncio.Future[SpawnRequest]()
        child.listen(events.append)
        child.start_when(request)
        request.set_exception(error)
        await asyncio.sleep(0)
    assert events == [SpawnFailed("there is no user"), SpawnFailed("its order cannot be written: KeyError('a bug')")]
    assert heard(ours) == []
    ours.close()
    guardian.ping(LEASE)
