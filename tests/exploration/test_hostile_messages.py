"""What arrives on a channel is checked there: nothing that a peer can write raises beyond that peer."""

from __future__ import annotations

import asyncio
import gc
import marshal
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.messages import ChildEvent, SpawnRequest
from highlanderd.errors import HighlanderError
from highlanderd.guardian import messages, protocol, shapes
from highlanderd.guardian.channel import MARSHAL_VERSION, Channel, Garbled, Message, channel_pair
from highlanderd.system import linux
from tests.unit.test_protocol import EXAMPLES, STATE, TERM

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def bent(draw: st.DrawFn, receiver: str, *names: str) -> Message:
    """Draw a message to ``receiver``, of these names if any, of which one key is missing or holds anything."""
    examples = [one for _, to, one in EXAMPLES.values() if to == receiver and (not names or one["is"] in names)]
    message = dict(draw(st.sampled_from(examples)))
    name = draw(st.sampled_from(sorted(message)))
    if name != "is" and draw(st.booleans()):
        del message[name]
    else:
        message[name] = draw(VALUES)
    return message


def put(channel: Channel, data: bytes) -> None:
    """Send bytes as they are: what no constructor makes."""
    os.write(channel.fileno(), data)


@contextmanager
def channels() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = channel_pair()
    try:
        yield ours, theirs
    finally:
        ours.close()
        theirs.close()


@given(VALUES, st.integers(0, 40))
@settings(max_examples=50)
def test_what_is_no_message_or_half_a_one_is_garbled_and_the_next_message_arrives(value: Any, cut: int) -> None:
    """Both ends belong to this daemon, so bytes that marshal never wrote do not arrive: they are not tried here."""
    data = marshal.dumps(value, MARSHAL_VERSION)
    with channels() as (ours, theirs):
        put(ours, data[: max(1, len(data) - cut)])
        ours.send({"is": "pong", "n": 1})
        with suppress(Garbled):
            theirs.receive()
        assert theirs.receive() == ({"is": "pong", "n": 1}, [])


@pytest.mark.parametrize("receiver", [protocol.GUARDIAN, protocol.WORKER, protocol.KEEPER])
@given(data=st.data())
def test_a_bent_message_is_unknown_or_refused_or_whole(receiver: str, data: st.DataObject) -> None:
    message = data.draw(bent(receiver))
    if type(message["is"]) is not str:
        return  # the channel refuses it
    try:
        known = shapes.check(receiver, message)
    except ValueError:
        return
    keys: Mapping[str, str] = next(
        (kind.keys for kind in protocol.MESSAGES if (kind.receiver, kind.name) == (receiver, message["is"])), {}
    )
    assert known == any((kind.receiver, kind.name) == (receiver, message["is"]) for kind in protocol.MESSAGES)
    assert all(shapes.is_of(message[name], kind) for name, kind in keys.items() if name in message)


@pytest.mark.parametrize("time", [float("nan"), "soon", None])
def test_a_deadline_that_is_no_time_is_refused(time: Any) -> None:
    with pytest.raises(ValueError, match="deadline"):
        shapes.check(protocol.KEEPER, messages.deadline(time, b""))


class _Bench:
    """A link to a guardian that the test plays, and a child with a keeper that the test plays, too."""

    def __init__(self) -> None:
        ours, self.guardian = channel_pair()
        self.link = GuardianLink(ours)
        self.events: list[ChildEvent] = []
        self.child = Child(self.link, "beat", 7, 2)
        self.link._hold(self.child)
        keepers, workers = channel_pair()
        self.keeper = keepers
        self.child.listen(self.events.append)
        self.child.attached(1, workers)

    def sent(self) -> list[str]:
        """Return the names of what the guardian was sent."""
        names = []
        while (received := self.guardian.receive()) is not None:
            names.append(received[0]["is"])
            for fd in received[1]:
                os.close(fd)
        return names

    def close(self) -> None:
        self.child._close()
        self.link._channel.close()
        self.guardian.close()
        self.keeper.close()


@settings(max_examples=50)
@given(message=bent(protocol.WORKER, "state"))
def test_a_keeper_whose_report_is_bent_is_killed_and_nothing_else_happens(message: Message) -> None:
    async def scenario() -> None:
        bench = _Bench()
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        bench.sent()
        bench.keeper.send(message)
        bench.child._read()
        try:
            whole = message["is"] != "state" or shapes.check(protocol.WORKER, message)
        except ValueError:
            whole = False
        if not whole:
            assert "kill" in bench.sent()
            assert not bench.child.reachable
            assert bench.link.holds(7, "beat"), "its tree is not proven empty"
        await asyncio.sleep(0)
        assert not raised
        bench.close()

    asyncio.run(scenario())


def test_a_child_that_is_stopped_while_its_request_fails_complains_of_nothing() -> None:
    async def scenario() -> None:
        bench, raised = _Bench(), list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))

        async def fail() -> SpawnRequest:
            await asyncio.sleep(0)
            raise HighlanderError("env:1: this line sets no variable")

        child = Child(bench.link, "relay", 8, 1)
        events: list[ChildEvent] = []
        child.listen(events.append)
        written = asyncio.get_running_loop().create_task(fail())
        child.start_when(written)
        child.kill()
        await asyncio.wait([written])
        await asyncio.sleep(0)
        del written
        gc.collect()
        assert not raised
        assert events
        bench.close()

    asyncio.run(scenario())


def test_a_term_that_the_guardian_reports_in_a_bent_way_still_counts_as_alive() -> None:
    async def scenario() -> None:
        bench = _Bench()
        bench.guardian.send({**messages.term(3, {**TERM, "epoch": 5}, STATE), "state": {"empty": "perhaps"}})
        bench.link._channel.read()
        bench.child._close()
        bench.link.forget(bench.child)
        assert bench.link.holds(7, "beat")
        assert not bench.link.failed.done()
        bench.close()

    asyncio.run(scenario())


def test_a_guardian_that_cannot_be_understood_ends_the_worker_loudly() -> None:
    async def scenario() -> None:
        bench = _Bench()
        put(bench.guardian, b"\xff\xff")
        bench.link._channel.read()
        with pytest.raises(Garbled):
            await bench.link.failed
        with pytest.raises(Garbled):
            await bench.link.greeted()
        bench.close()

    asyncio.run(scenario())


def test_a_request_that_is_none_is_refused_by_name() -> None:
    from highlanderd.guardian.keepers import _spec

    for data in (b"", b"\xff", marshal.dumps([1], MARSHAL_VERSION), marshal.dumps({"argv": "true"}, MARSHAL_VERSION)):
        fd = linux.memfd("spec", data)
        with pytest.raises(ValueError, match=r"."):
            _spec(fd)
        os.close(fd)
