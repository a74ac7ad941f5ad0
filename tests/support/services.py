"""What a service manager hears (sd_notify(3)), with the pid of whoever said it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from highlanderd.system.linux import boottime

SO_TIMESTAMPNS = 35
"""Linux's, which Python does not name: the kernel notes when a datagram was sent."""


@dataclass(frozen=True)
class Notice:
    """One datagram."""

    pid: int
    at: float
    """When it arrived, in CLOCK_BOOTTIME seconds."""
    words: dict[str, str]


class ServiceManager:
    """Listens at ``address``, and remembers everything."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._notices: list[Notice] = []

    def heard(self) -> list[Notice]:
        """Return everything that was said so far."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, 256, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return self._notices
            words = dict(line.split("=", 1) for line in data.decode().splitlines())
            facts = {kind: content for _, kind, content in ancillary}
            pid, *_ = struct.unpack("3i", facts[socket.SCM_CREDENTIALS])
            seconds, nanoseconds = struct.unpack("2q", facts[SO_TIMESTAMPNS])
            at = seconds + nanoseconds / 1e9 - (time.time() - boottime())
            self._notices.append(Notice(pid, at, words))

    def values(self, name: str) -> list[str]:
        """Return what was said under a name, in order."""
        return [notice.words[name] for notice in self.heard() if name in notice.words]

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture
def service_manager(open_dir: Path) -> Iterator[ServiceManager]:
    with closing(ServiceManager(str(open_dir / "notify"))) as listening:
        yield listening
