"""One request to the control socket and its answer: as much of HTTP/1.1 as daemons speak.

The client of the standard library takes longer to import than all else that a command needs. Anybody may answer on a
socket that was named by mistake: what is read has an end, both in time and in size. A connection that ends too early
raises ConnectionResetError, and what is no such answer ValueError.
"""

from __future__ import annotations

import _socket as socket  # all of it that a Unix socket needs: the module around it takes as long to import as argparse
import struct
import time
from collections.abc import Iterator, Sequence

PATIENCE = 10.0
"""Seconds that an answer may take beyond what the daemon was asked to wait."""
LONGEST = 1 << 26
"""Bytes of an answer that are read at most: thousands of programs with their last lines are some megabytes."""
LONGEST_LINE = 1 << 20
"""Bytes of one line of an answer that goes on; the longest one of a program has a thousand letters."""
LONGEST_HEAD = 1 << 14
"""Bytes of status and headers; daemons send two hundred."""
SILENT_FOR = 60.0
"""Seconds without a word of a daemon that streams: it gives a sign each ten seconds."""
AT_A_TIME = 1 << 18
"""Bytes that are taken from the kernel at once."""
_HEADS_END, _LINES_END = b"\r\n\r\n", b"\r\n"


class Request:
    """What is asked. A dataclass or a named tuple would take longer to make than all else that this module does."""

    def __init__(self, method: str, resource: str, body: str | None, patience: float) -> None:
        """``resource`` is quoted and has its query; ``patience`` are seconds for the whole of it."""
        self.method, self.resource, self.body, self.patience = method, resource, body, patience


class Exchange:
    """A request that was sent, and its answer. Every method raises OSError, TimeoutError among them."""

    def __init__(self, path: str, request: Request) -> None:
        self._end: float | None = time.monotonic() + request.patience
        self._received = bytearray()
        self._parts: Iterator[bytes] = iter(())
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(path, request.patience)
            self._socket.settimeout(self._left())
            self._socket.sendall(_written(request))
        except BaseException:
            self.close()
            raise

    def extend(self, patience: float) -> None:
        """Have the answer take ``patience`` seconds from now at most."""
        self._end = time.monotonic() + patience

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _connect(self, path: str, patience: float) -> None:
        # With a timeout of Python's, a full backlog would fail at once instead of waiting
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(patience) + 1, 0))
        self._socket.connect(path)

    def status(self) -> int:
        """Return the status of the answer; its content is read after that. Raises ValueError."""
        first, *lines = self._until(_HEADS_END, LONGEST_HEAD).split(_LINES_END)
        version, status = [*first.split(b" ", 2), b""][:2]
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(status) != 3 or not status.isdigit():
            raise ValueError(f"{first!r:.100} is no status of HTTP/1.1")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self._parts = self._chunks() if b"transfer-encoding" in headers else self._counted(headers)
        return int(status)

    def content(self) -> bytes:
        """Return the whole content. Raises ValueError."""
        found = bytearray()
        for part in self._parts:
            found += part
            if len(found) > LONGEST:
                raise ValueError(f"it is longer than {LONGEST} bytes")
        return bytes(found)

    def lines(self) -> Iterator[bytes]:
        """Return the lines of a content that goes on, as they come. Raises ValueError."""
        self._end, begun = None, bytearray()
        for part in self._parts:
            *whole, rest = part.split(b"\n")
            for line in whole:
                yield bytes(begun + line)
                begun.clear()
            begun += rest
            if len(begun) > LONGEST_LINE:
                raise ValueError(f"a line is longer than {LONGEST_LINE} bytes")
        if begun:
            yield bytes(begun)

    def _counted(self, headers: dict[bytes, bytes]) -> Iterator[bytes]:
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > len(str(LONGEST)) or int(length) > LONGEST:
            raise ValueError(f"{length!r:.100} is no length of an answer")
        yield from self._some(int(length))

    def _chunks(self) -> Iterator[bytes]:
        while size := self._size():
            yield from self._some(size)
            self._until(_LINES_END, len(_LINES_END))
        self._until(_LINES_END, len(_LINES_END))

    def _size(self) -> int:
        written = self._until(_LINES_END, 1 << 10).partition(b";")[0].strip()
        if not written or len(written) > 8 or written.strip(b"0123456789abcdefABCDEF"):
            raise ValueError(f"{written!r:.100} is no size of a chunk")
        return int(written, 16)

    def _some(self, number: int) -> Iterator[bytes]:
        """Return so many bytes, in parts as they come."""
        while number:
            if not self._received:
                self._receive()
            part = bytes(self._received[:number])
            del self._received[: len(part)]
            number -= len(part)
            yield part

    def _until(self, mark: bytes, most: int) -> bytes:
        """Return what comes before a mark, which ``most`` bytes must contain."""
        while (found := self._received.find(mark, 0, most)) < 0:
            if len(self._received) >= most:
                raise ValueError(f"{bytes(self._received[:100])!r} is no part of an answer")
            self._receive()
        before = bytes(self._received[:found])
        del self._received[: found + len(mark)]
        return before

    def _receive(self) -> None:
        self._socket.settimeout(self._left())
        received = self._socket.recv(AT_A_TIME)
        if not received:
            raise ConnectionResetError("it broke off")
        self._received += received

    def _left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError when there are none."""
        if self._end is None:
            return SILENT_FOR
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _written(request: Request) -> bytes:
    head = [f"{request.method} {request.resource} HTTP/1.1", "Host: localhost"]
    content = b"" if request.body is None else request.body.encode()
    if request.body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*head, "", ""]).encode("ascii") + content


def segment(name: str) -> str:
    """Return a name as a part of a resource, also one that is not UTF-8.

    >>> segment("a/b \\udcff")
    'a%2Fb%20%FF'
    """
    from urllib.parse import quote  # many commands name nothing, and need not import it

    return quote(name, safe="", errors="surrogateescape")


def query(pairs: Sequence[tuple[str, object]]) -> str:
    """Return the query of a resource.

    >>> query([("name", "a&b"), ("limit", 7)])
    'name=a%26b&limit=7'
    """
    from urllib.parse import urlencode

    return urlencode(pairs, errors="surrogateescape")
