"""Claims about the question that is asked before the client is imported: it is the command's own, and asked once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from highlanderd import ctl
from highlanderd.ctl.ahead import CLUSTER, DEFAULT_SOCKET, MEASURED, STATUS, Ahead, asked
from highlanderd.ctl.client import ControlClient
from highlanderd.ctl.exchange import PATIENCE, Request

SLOW = {"argparse", "datetime", "enum", "json", "re", "typing"}
"""What takes a tenth of a client's start or more to import, and what it cannot do without later."""
ONLY_ASKED = """
import sys
before = set(sys.modules)
import highlanderd.ctl
from highlanderd.ctl.ahead import asked
assert asked(["status"]) is not None
print(*set(sys.modules) - before)
"""
ASK_STATUS = Request("GET", STATUS, None, PATIENCE)


class Answering:
    """A daemon without programs that keeps what it is asked."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = str(path), list[str]()
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(self.path)
        self._door.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        postgres = {"connected": True, "trouble": ""}
        content = json.dumps({"node": "a", "programs": [], "warnings": [], "postgres": postgres}).encode()
        while True:
            try:
                connection, _ = self._door.accept()
            except OSError:
                return
            with connection, suppress(ConnectionError):
                self.asked.append(connection.recv(1 << 16).split(b" ")[1].decode())
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._door.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Answering]:
    answering = Answering(tmp_path / "control.sock")
    yield answering
    answering.close()


@pytest.mark.parametrize(
    ("words", "resources"),
    [
        ("status", [STATUS]),
        ("status --state leading", [STATUS]),
        ("status --json", [MEASURED]),
        ("status -o tsv", [MEASURED]),
        ("--json status", [MEASURED]),
    ],
)
def test_each_question_is_asked_once(daemon: Answering, words: str, resources: list[str]) -> None:
    assert ctl.main(["--socket", daemon.path, *words.split()]) == 0
    assert daemon.asked == resources


@pytest.mark.parametrize(
    ("words", "resource"),
    [
        ("cluster", CLUSTER),
        ("list", CLUSTER),
        ("is-leading beat", STATUS),
        ("pid beat", STATUS),
        ("release beat", STATUS),
        ("restart beat", STATUS),
        ("signal HUP beat", STATUS),
        ("start beat", STATUS),
        ("stop beat", STATUS),
    ],
)
def test_what_is_asked_ahead_is_what_the_command_begins_with(daemon: Answering, words: str, resource: str) -> None:
    ctl.main(["--socket", daemon.path, *words.split()])  # some fail: this daemon has no programs
    assert daemon.asked[0] == resource
    assert daemon.asked.count(resource) == 1


def test_it_is_asked_before_anything_is_imported_that_takes_long() -> None:
    done = subprocess.run([sys.executable, "-c", ONLY_ASKED], capture_output=True, text=True, check=True)
    assert not SLOW & {*done.stdout.split()}


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--socket",
        "--version",
        "drain",
        "explain status",
        "--json status",
        "status -o json",
        "status --socket=elsewhere",
        "stop beat --on b",
        "cluster --dsn dbname=a",
    ],
)
def test_nothing_is_asked_where_the_command_may_ask_something_else(words: str) -> None:
    assert asked(words.split()) is None


@pytest.mark.parametrize(
    ("words", "path"),
    [("status", DEFAULT_SOCKET), ("--socket a --socket b status", "b"), ("--socket status status", "status")],
)
def test_the_socket_is_the_one_that_the_command_has(
    words: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HIGHLANDER_SOCKET", raising=False)
    asked_where = list[str]()
    monkeypatch.setattr("highlanderd.ctl.ahead.Ahead", lambda path, _: asked_where.append(path))
    asked(words.split())
    assert asked_where == [path]


def test_an_answer_is_the_command_s_if_it_asks_the_same_first(daemon: Answering) -> None:
    ahead = Ahead(daemon.path, ASK_STATUS)
    client = ControlClient(daemon.path, send=ahead.send)
    assert client.status() == client.status()
    assert daemon.asked == [STATUS, STATUS]


def test_an_answer_has_as_long_as_the_command_gives_it_however_long_the_imports_took(
    daemon: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, now = Ahead(daemon.path, ASK_STATUS), time.monotonic()
    monkeypatch.setattr("highlanderd.ctl.exchange.time.monotonic", lambda: now + PATIENCE + 1)
    assert ControlClient(daemon.path, send=ahead.send).status()["node"] == "a"


def test_a_question_that_the_command_does_not_have_is_dropped(daemon: Answering) -> None:
    ahead = Ahead(daemon.path, ASK_STATUS)
    client = ControlClient(daemon.path, send=ahead.send)
    client.ask("GET", CLUSTER)
    client.status()  # later than the other question, so it is asked anew
    assert daemon.asked == [STATUS, CLUSTER, STATUS]


def test_a_socket_that_was_not_there_is_the_answer_to_the_first_question_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    ahead = Ahead(str(path), ASK_STATUS)
    daemon = Answering(path)
    try:
        with pytest.raises(FileNotFoundError):
            ahead.send(daemon.path, ASK_STATUS)
        assert ControlClient(daemon.path, send=ahead.send).status()["node"] == "a"
    finally:
        daemon.close()
