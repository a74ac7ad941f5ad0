"""Claims about the client of the control socket: a daemon that breaks off is asked again, in good order."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd.ctl import client
from highlanderd.ctl.client import AGAIN, ControlClient
from highlanderd.errors import DaemonUnreachable
from highlanderd.system import ownership

PATIENCE = 2.0


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


def test_an_order_is_not_given_twice(breaking: Breaking, tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="whether the order was carried out"):
        ControlClient(str(tmp_path / "control.sock")).order("beat", "stop", {})()
    assert breaking.asked == 1
