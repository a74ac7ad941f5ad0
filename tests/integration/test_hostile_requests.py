"""Thousands of hostile requests on the real sockets: each is answered or its connection closed, and nobody notices."""

from __future__ import annotations

import os
import random
import re
import socket
from pathlib import Path
from typing import Final

import pytest

from tests.support.long import first_of
from tests.support.nodes import PATIENCE, Nodes
from tests.support.ports import reserved_port
from tests.support.postgres import Database
from tests.support.undisturbed import Strained

INPUTS = int(os.environ.get("HIGHLANDER_HOSTILE_REQUESTS", "1500"))
"""On each socket."""
METHODS = (b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"TRACE", b"CONNECT", b"get", b"\xff", b"G" * 9000, b"")
PATHS = (
    b"/v1/status", b"/v1/status?wait=nan", b"/v1/status?wait=-1", b"/v1/status?wait=0.01", b"/v1/programs/beat",
    b"/v1/programs/%00", b"/v1/programs/%ff%fe/stop", b"/v1/programs/%1b%5b2J/restart",
    b"/v1/programs/../../etc/passwd",
    b"/v1/programs/nobody/stop", b"/v1/programs/*/explode", b"/v1/programs//stop", b"/v1/history?limit=" + b"9" * 400,
    b"/v1/history?limit=\xc2\xb2", b"/v1/history/%2e%2e?name=%ff", b"/v1/cluster", b"/v1/ledger/lease",
    b"/v1/maintenance",
    b"/v1/drain", b"/v1/resume", b"/metrics", b"/leader/%00", b"/leader/" + b"x" * 3000, b"/healthz", b"/", b"*", b"",
    b"http://[::1", b"//", b"/" + b"%" * 100, b"/\r\nX: y",
)  # fmt: skip
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"HTP", b"")
HEADERS = (
    b"Host: x", b"Host: \xff", b"Host: x\r\nHost: y", b"Content-Length: 5", b"Content-Length: -5",
    b"Content-Length: 1e3",
    b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Content-Encoding: gzip", b"Content-Encoding: deflate", b"Content-Type: multipart/form-data; boundary=\x01",
    b"Expect: 100-continue", b"Upgrade: websocket\r\nConnection: Upgrade", b"Connection: close", b"Range: bytes=9-1",
    b"Accept: \x00", b": empty", b"No colon", b" Folded: x", b"Cookie: " + b"a=b; " * 900, b"X: " + b"y" * 9000,
    b"Accept-Encoding: zstd;q=nan", b"If-Modified-Since: yesterday",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"{", b"null", b"[1]", b'{"wait": true, "timeout": 1e400}', b'{"reason": "\\ud800"}', b"[" * 5000,
    b'{"lease": 1e-400}', b'{"nodes": [""]}', b'{"on": true, "for": -0.0}', b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n",
    b"\xff\xfe",
    b"ffffffffffffffff\r\n", b"\x1f\x8b\x08\x00", b'{"to": "\\u0000"}', b'{"signal": {}}', b'{"": 1}', b"\x00" * 3000,
)  # fmt: skip
STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")


class Mouth:
    """Makes requests that no client makes, out of pieces of those that clients do."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def request(self) -> bytes:
        draw = self._random
        if draw.random() < 0.1:
            return draw.randbytes(draw.randrange(1, 600))
        method, version = draw.choice(METHODS[:2] * 5 + METHODS), draw.choice(VERSIONS[:1] * 9 + VERSIONS)
        line = b" ".join((method, draw.choice(PATHS), version))
        headers = [b"Host: x", *draw.sample(HEADERS, draw.randrange(3))]
        body = draw.choice(BODIES)
        if draw.random() < 0.6:
            headers.append(b"Content-Length: %d" % len(body))
        whole = b"\r\n".join((line, *headers, b"", body))
        if draw.random() < 0.15:
            at = draw.randrange(len(whole))
            whole = whole[:at] + draw.randbytes(3) + whole[at + draw.randrange(4) :]
        return whole[: draw.randrange(1, len(whole) + 1)] if draw.random() < 0.1 else whole


def connect(door: Path | int) -> socket.socket:
    if isinstance(door, int):
        return socket.create_connection(("127.0.0.1", door), PATIENCE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(door))
    return client


def said(door: Path | int, sent: bytes) -> bytes:
    """Send, say that there is no more, and return all that comes until the connection is closed."""
    answer = b""
    with connect(door) as client:
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(1 << 16):
                answer += piece
        except (ConnectionError, TimeoutError):
            pass
    return answer


@pytest.mark.parametrize("door", first_of(["control socket", "TCP listener"]))
def test_thousands_of_hostile_requests_are_refused_and_disturb_nobody(
    nodes: Nodes, database: Database, door: str
) -> None:
    port = reserved_port()
    strained = Strained(nodes, database, "[program.beat]\n[program.relay]\n", f"127.0.0.1:{port}")
    place, mouth, worker = (strained.node.socket if door == "control socket" else port), Mouth(7), strained.node.worker
    bad: list[tuple[bytes, bytes]] = []
    with strained.undisturbed():
        for _ in range(INPUTS):
            sent = mouth.request()
            answer = said(place, sent)
            bad += [(sent, answer) for status in STATUS.findall(answer) if status in (b"500", b"501", b"502")]
    assert bad == []
    assert strained.node.worker == worker
    assert "Traceback" not in strained.log()
    assert strained.await_led() == strained.led
