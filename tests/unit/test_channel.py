"""Channels tell whole messages or none, never wait, and lose nothing that the peer had sent before it died."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from highlanderd.guardian.channel import LONGEST, Channel, channel_pair


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = channel_pair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_message_arrives_as_it_was_sent(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    message = {"is": "state", "at": 0.1, "memo": b"\0\xff", "none": None, "big": 2**62, "text": "\udce9ä"}
    assert ours.send(message)
    assert theirs.receive() == (message, [])
    assert theirs.receive() is None


def test_descriptors_travel_close_on_exec_and_stay_the_senders(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()
    assert ours.send({"is": "pipes"}, [reader, writer])
    received = theirs.receive()
    assert received is not None
    _, (other_reader, other_writer) = received
    assert not os.get_inheritable(other_reader)
    os.write(other_writer, b"through")
    assert os.read(reader, 10) == b"through"
    for fd in (reader, writer, other_reader, other_writer):
        os.close(fd)


def test_everything_sent_before_the_end_is_told_before_the_end(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send({"is": "unread"})  # makes the peer's death a reset as well
    theirs.send({"is": "first"})
    theirs.send({"is": "last"})
    theirs.close()
    assert [ours.receive(), ours.receive()] == [({"is": "first"}, []), ({"is": "last"}, [])]
    with pytest.raises(EOFError):
        ours.receive()
    assert not ours.send({"is": "late"})


def test_a_full_queue_refuses_and_never_waits(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    sent = 0
    while ours.send({"is": "deadline", "n": sent}):
        sent += 1
    assert sent > 100
    reader, writer = os.pipe()
    ours.post({"is": "posted", "n": sent}, [reader])
    assert [message["n"] for message in ours.unsent] == [sent]
    assert [theirs.receive() for _ in range(sent)] == [({"is": "deadline", "n": n}, []) for n in range(sent)]
    assert ours.flush()
    received = theirs.receive()
    assert received is not None
    assert received[0] == {"is": "posted", "n": sent}
    os.close(received[1][0])
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")  # posted descriptors were given away
    os.close(writer)


def test_what_was_never_sent_is_closed_with_the_channel() -> None:
    ours, theirs = channel_pair()
    theirs.close()
    reader, writer = os.pipe()
    ours.post({"is": "undeliverable"}, [reader])
    assert ours.unsent == [{"is": "undeliverable"}]
    ours.close()
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)


def test_a_message_that_is_too_long_is_our_own_mistake(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(ValueError, match="need a memfd"):
        pair[0].send({"is": "spec", "data": b"x" * LONGEST})


def test_descriptors_that_found_no_room_are_all_missing(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()
    ours.send({"is": "pipes"}, [reader, writer])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))  # room for one of the two
    try:
        assert theirs.receive() == ({"is": "pipes"}, [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in (reader, writer):
        os.close(fd)
