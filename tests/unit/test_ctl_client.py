"""Claims about the client of the control socket: a daemon that breaks off is asked again, in good order."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from highlanderd import ctl
from highlanderd.ctl import client, exchange
from highlanderd.ctl.client import AGAIN, ControlClient
from highlanderd.ctl.commands import COMMANDS
from highlanderd.errors import DaemonUnreachable, HighlanderError
from highlanderd.system import ownership

PATIENCE = 2.0
SLOW = "asyncio dataclasses email http inspect logging pathlib shutil socket ssl textwrap urllib"
"""What takes a tenth of a client's start or more to import."""
OF_OTHERS = {
    f"highlanderd.ctl.{name}"
    for name in ("cluster", "direct", "events", "explain", "history", "logs", "predicates", "renewal", "top")
}
"""What other commands than ``status`` need."""
ONE_COMMAND = """
import sys
before = set(sys.modules)
from highlanderd.ctl import main
main(["--socket", sys.argv[1], "status"])
print(*set(sys.modules) - before)
"""


class Breaking:
    """A living daemon that closes each connection as soon as something was asked."""

    def __init__(self, path: Path) -> None:
        self.asked = 0
        self._lock = ownership.take(str(path))
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._door.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(1 << 16)
                while not data.endswith(b"{}" if data.startswith(b"POST") else b"\r\n\r\n"):
                    data += connection.recv(1 << 16)
                self.asked += 1

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._door.close()
        os.close(self._lock)


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[Breaking]:
    daemon = Breaking(tmp_path / "control.sock")
    yield daemon
    daemon.close()


def test_a_daemon_that_breaks_off_is_asked_again_only_now_and_then(
    breaking: Breaking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", PATIENCE)
    with pytest.raises(DaemonUnreachable, match="too many clients"):
        ControlClient(str(tmp_path / "control.sock")).ask("GET", "/v1/status")
    assert 1 < breaking.asked <= PATIENCE / AGAIN + 1


def test_a_plain_command_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE_COMMAND, tmp_path / "control.sock"], capture_output=True, text=True, check=True
    )
    assert "no daemon is running here" in done.stderr
    assert not ({*SLOW.split()} | OF_OTHERS) & {*done.stdout.split()}


def test_a_command_ends_without_taking_its_interpreter_apart(tmp_path: Path) -> None:
    watched = "import atexit, sys; from highlanderd.ctl import command; atexit.register(print, 'apart'); command()"
    words = [sys.executable, "-c", watched, "--socket", str(tmp_path / "none"), "status"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "")
    assert "no daemon is running here" in done.stderr


def test_an_order_is_not_given_twice(breaking: Breaking, tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="whether the order was carried out"):
        ControlClient(str(tmp_path / "control.sock")).order("beat", "stop", {})()
    assert breaking.asked == 1


@pytest.mark.parametrize(
    "content",
    [b"[1, 2]", b"7", b"null", b"[" * 100_000, b"\xff", b'"' + b"x" * (exchange.LONGEST + 1)],
    ids=["list", "number", "null", "deep", "bytes", "long"],
)
def test_an_answer_of_another_shape_is_refused_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    """A socket that was named by mistake may be anybody's."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "other.sock"))
        door.listen(1)
        thread = threading.Thread(target=_answer_once, args=(door, content))
        thread.start()
        with pytest.raises(HighlanderError, match=r"does not understand|is no highlanderd"):
            ControlClient(str(tmp_path / "other.sock")).ask("GET", "/v1/status")
        thread.join()


def _answer_once(door: socket.socket, content: bytes) -> None:
    connection, _ = door.accept()
    with connection, suppress(ConnectionError):
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))


def test_a_path_that_is_no_socket_is_no_dead_daemon(tmp_path: Path) -> None:
    (tmp_path / "highlander.toml").touch()
    with pytest.raises(DaemonUnreachable, match=r"highlander\.toml is no socket; check --socket"):
        ControlClient(str(tmp_path / "highlander.toml")).ask("GET", "/v1/status")


def test_ctrl_c_while_the_command_is_imported_prints_nothing() -> None:
    interrupted = (
        "import importlib.abc, sys\n"
        "class Interrupting(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'highlanderd.ctl.commands': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from highlanderd.ctl import main\n"
        "sys.exit(main(['status']))\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(("words", "said"), [(("stop", "beat"), "what was ordered stands"), (("status",), "")])
def test_ctrl_c_says_that_an_order_stands(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_daemon: object, _arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setenv("HIGHLANDER_SOCKET", "nowhere")  # whatever runs on this machine is not asked
    monkeypatch.setitem(COMMANDS, words[0], interrupted)
    assert ctl.main(words) == 130
    err = capsys.readouterr().err
    assert said in err
    assert bool(err) == bool(said)
