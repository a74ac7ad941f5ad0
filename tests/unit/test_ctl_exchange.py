"""Claims about the client's HTTP: a whole answer is understood, and anything else becomes a sentence."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from highlanderd.ctl import client, exchange, main
from highlanderd.ctl.client import Answer, ControlClient
from highlanderd.errors import DaemonUnreachable, HighlanderError, NoSuchProgram

FACTS = {"node": "web-1", "programs": [{"name": "beat", "reason": "caf\u00e9 \u202e\x1b"}]}
CONTENT = json.dumps(FACTS).encode() + b"\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
COUNTED = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(CONTENT), CONTENT)
Asking = Callable[[bytes], Answer]
thrifty = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def chunked(content: bytes, size: int) -> bytes:
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    chunks = b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "some.sock"))
        listening.listen(4)
        yield listening


@pytest.fixture
def ask(door: socket.socket) -> Asking:
    """What asks, is answered with these bytes and nothing more, and returns what the client makes of it."""
    asked = ControlClient(door.getsockname())

    def ask(answer: bytes) -> Answer:
        receive = asked.begin("GET", "/v1/status")
        reply(door, answer)
        return receive()

    return ask


@pytest.fixture
def follow(door: socket.socket) -> Callable[[bytes], list[Answer]]:
    """What asks for a stream, is answered with these bytes, and returns the client's objects."""
    asked = ControlClient(door.getsockname())

    def follow(answer: bytes) -> list[Answer]:
        thread = threading.Thread(target=reply, args=(door, answer))
        thread.start()
        try:
            return list(asked.stream("/v1/events"))
        finally:
            thread.join()

    return follow


def reply(door: socket.socket, answer: bytes) -> None:
    connection, _ = door.accept()
    with connection, suppress(ConnectionError):
        connection.recv(1 << 16)
        connection.sendall(answer)


# ---------------------------------------------------------------------------------------------------------- one answer


@given(cut=st.integers(1, 300), at_a_time=st.integers(1, 300))
@example(cut=len(CONTENT), at_a_time=1)
@thrifty
def test_a_whole_answer_is_understood_however_it_is_cut(
    ask: Asking, monkeypatch: pytest.MonkeyPatch, cut: int, at_a_time: int
) -> None:
    monkeypatch.setattr(exchange, "AT_A_TIME", at_a_time)
    assert ask(COUNTED) == FACTS
    assert ask(chunked(CONTENT, cut)) == FACTS


@pytest.mark.parametrize("whole", [COUNTED, chunked(CONTENT, 50)], ids=["counted", "chunked"])
def test_no_part_of_an_answer_passes_for_the_whole(ask: Asking, whole: bytes) -> None:
    for end in range(len(whole)):
        with pytest.raises(DaemonUnreachable, match="broke off before it answered"):
            ask(whole[:end])


def changed(answer: bytes) -> st.SearchStrategy[bytes]:
    """Return that answer with something else at one place."""
    places = st.tuples(st.integers(0, len(answer)), st.integers(0, 9), st.binary(max_size=9))
    return places.map(lambda where: answer[: where[0]] + where[2] + answer[where[0] + where[1] :])


@given(answer=st.one_of(st.binary(max_size=200), changed(COUNTED), changed(chunked(CONTENT, 40))))
@example(answer=HEAD + b"\r\n{}")
@example(answer=HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")
@example(answer=HEAD + b"Content-Length: -1\r\n\r\n{}")
@example(answer=HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}")
@example(answer=HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 2000)
@example(answer=HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n{}")
@example(answer=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000)
@example(answer=b"HTTP/1.1 100 Continue\r\n\r\n")
@example(answer=HEAD + b"Content-Length: 5\r\n\r\n[1,2]")
@example(answer=HEAD + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000)
@thrifty
def test_whatever_is_answered_becomes_an_object_or_a_sentence(ask: Asking, answer: bytes) -> None:
    try:
        found: object = ask(answer)
    except HighlanderError as error:
        found = str(error)
    assert isinstance(found, dict) or (isinstance(found, str) and found.isprintable())


def test_what_is_too_long_is_not_read(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LONGEST", 100)
    for answer in (HEAD + b"Content-Length: 101\r\n\r\n", chunked(b"x" * 101, 101)):
        with pytest.raises(DaemonUnreachable, match=r"does not understand.*10[01]"):
            ask(answer)


def test_a_daemon_that_sends_a_byte_now_and_then_is_not_waited_for_without_end(
    door: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.3)
    gone = threading.Event()

    def trickle() -> None:
        connection, _ = door.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not gone.wait(0.01):
                connection.sendall(b"y")

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(DaemonUnreachable, match="does not answer"):
        ControlClient(door.getsockname()).ask("GET", "/v1/status")
    gone.set()
    thread.join()


@pytest.mark.parametrize(
    "line", ["status", "cluster", "explain x", "history", "show x", "pid all", "version", "events"]
)
@pytest.mark.parametrize("content", [b'{"n": 1}', b'{"programs": 7}', b'{"programs": [{"name": []}], "terms": [{}]}'])
def test_an_answer_that_lacks_something_is_refused_with_a_sentence(
    door: socket.socket, capsys: pytest.CaptureFixture[str], line: str, content: bytes
) -> None:
    thread = threading.Thread(target=reply, args=(door, chunked(content, 100)))
    thread.start()
    assert main(["--socket", door.getsockname(), *line.split()]) == 1
    thread.join()
    assert "cannot use what was answered" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- one that goes on


@given(cut=st.integers(1, 100))
@thrifty
def test_a_stream_gives_its_objects_however_it_is_cut(follow: Callable[[bytes], list[Answer]], cut: int) -> None:
    assert follow(chunked(CONTENT + b"\n\n" + CONTENT + CONTENT.strip(), cut)) == [FACTS] * 3


@pytest.mark.parametrize(
    "content",
    [b"7\n", b"[1]\n", b"{\n", b"\xff\n", b"[" * 100_000 + b"\n", b'"' + b"x" * exchange.LONGEST_LINE],
    ids=["number", "list", "half", "bytes", "deep", "long"],
)
def test_a_stream_of_something_else_is_refused(follow: Callable[[bytes], list[Answer]], content: bytes) -> None:
    with pytest.raises(HighlanderError, match="does not understand"):
        follow(chunked(content, 1000))


def test_a_stream_that_is_refused_says_why(follow: Callable[[bytes], list[Answer]]) -> None:
    refusal = b'{"error": {"code": "no_such_program", "message": "no program \'x\'"}}'
    with pytest.raises(NoSuchProgram, match="no program 'x'"):
        follow(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(refusal), refusal))
