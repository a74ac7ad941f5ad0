"""The shape of lines on their way out: as they came, stamped, named, or as JSON.

A whole block of lines is shaped at once, with one stamp: a line costs no call.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable

    from highlanderd.guardian.launch import Spec

    Shape = Callable[[memoryview, float], tuple[memoryview, int]]
    """From a block and a moment on the wall clock to what goes out, and how many lines that is."""

_ESCAPES = (
    (b"\\", b"\\\\"),  # first: the others bring backslashes
    (b'"', b'\\"'),
    *((bytes([code]), b"\\u%04x" % code) for code in range(32) if code != 0x0A),
)
"""What a JSON string cannot hold as it is. The end of a line never stands in one."""


class Stamps:
    """RFC 3339 in UTC, to a millisecond. The second is worded once."""

    __slots__ = ("_second", "_words")

    def __init__(self) -> None:
        self._second, self._words = -1, ""

    def at(self, now: float) -> bytes:
        """Return the stamp of a moment on the wall clock."""
        second = int(now)
        if second != self._second:
            self._second, self._words = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return b"%b.%03dZ" % (self._words.encode(), int((now - second) * 1000))


def shape_of(spec: Spec, stream: str) -> Shape | None:
    """Return what shapes the lines of ``stdout`` or ``stderr``; None when the very bytes go out."""
    order = spec["log"]
    stamps = Stamps()
    if order.get("format") == "json":
        facts = f'"program": "{spec["program"]}", "epoch": {spec["epoch"]}, "stream": "{stream}"'.encode()
        return lambda block, now: _framed(
            _escaped(_body(block)), b'{"time": "%b", %b, "line": "' % (stamps.at(now), facts), b'"}\n'
        )
    name = f"{spec['program']}: ".encode() if stream in order.get("inherit", ()) else b""
    if order.get("timestamps"):
        return lambda block, now: _framed(_body(block), stamps.at(now) + b" " + name, b"\n")
    return (lambda block, _now: _framed(_body(block), name, b"\n")) if name else None


def _body(block: memoryview) -> bytes:
    """Return the lines without the last one's end, which it may lack."""
    return bytes(block[:-1] if block[-1] == 0x0A else block)


def _framed(body: bytes, head: bytes, tail: bytes) -> tuple[memoryview, int]:
    framed = b"".join((head, body.replace(b"\n", tail + head), tail))
    each = len(head) + len(tail) - 1  # what a line grows by; only the last one had no end
    return memoryview(framed), (len(framed) - len(body) - 1) // each


def _escaped(body: bytes) -> bytes:
    if not body.isascii():
        body = body.decode("utf-8", "replace").encode()
    for raw, code in _ESCAPES:
        if raw in body:
            body = body.replace(raw, code)
    return body
