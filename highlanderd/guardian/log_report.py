"""What a logger reports of itself, in a memfd that the worker reads: counts of lines, the last lines, what is wrong.

In the same memfd the guardian leaves orders that have changed since the child was started.

The memfd is the guardian's and outlives loggers and workers. A report is written into one of two places in turn, and
counts once its number stands at the beginning: a reader never sees half of one, and nobody waits for the other.

A logger runs as the program's user, and the worker as the daemon's. So a report is made of records of one fixed form,
as few and as large as a logger needs, and whatever else is found is a ValueError. The memfd cannot grow.
"""

from __future__ import annotations

import os
import struct

from highlanderd.guardian.log_tail import KEPT_LINES
from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Iterator

    from highlanderd.guardian.channel import Message

HEAD = struct.Struct("=QQQ")  # the report's number, and the lengths of the two places' contents
RECORD = struct.Struct("=BBdQI")  # its kind, its stream, a time, a number, and the length of the text after it
ORDERED = struct.Struct("=?QQ??BB")  # whether there is an order, and the order
PLACE = 1 << 19  # bytes for one report: 200 lines of 1000 bytes, and room
FIRST = 4096
ORDER = FIRST + 2 * PLACE
TRIES = 5
STREAMS = ("stdout", "stderr")
COUNTS = ("lines", "bytes", "dropped")
TOTALS = ("number", "reopened")
WORDS = ("troubles", "unrotated")
KINDS = (*COUNTS, *TOTALS, *WORDS, "recovered", "last")
MOST_RECORDS = KEPT_LINES + len(STREAMS) * len(KINDS)
LONGEST_TEXT = 5000  # bytes: a path, and what is wrong with it
MOST = 1 << 53  # what every reader of JSON can count to
LATEST = 1 << 37  # seconds since 1970
FORMATS, OVERFLOWS = ("text", "json"), ("wait", "drop")
NOTHING: Message = {
    "lines": {},
    "bytes": {},
    "dropped": {},
    "last": [],
    "number": 0,
    "troubles": {},
    "unrotated": {},
    "recovered": {},
    "reopened": 0,
}


def memory() -> int:
    """Return a descriptor of memory for the reports of one child's loggers. Raises OSError."""
    return linux.sized_memfd("log", ORDER + ORDERED.size)


def publish(fd: int, report: Message) -> None:
    """Write ``report`` where readers find it from now on. Only one process may do so at a time."""
    number, *sizes = _head(fd)
    data = b"".join(_records(report))
    place = (number + 1) % 2
    os.pwrite(fd, data, FIRST + place * PLACE)
    sizes[place] = len(data)
    os.pwrite(fd, HEAD.pack((number + 1) % MOST, *sizes), 0)


def read(fd: int) -> Message | None:
    """Return the latest report; None when there is none yet, or when it changes faster than it can be read.

    Raises ValueError when what stands there was not written by a logger of this version.
    """
    for _ in range(TRIES):
        head = _head(fd)
        number, *sizes = head
        if number == 0:
            break
        size = sizes[number % 2]
        if size > PLACE:
            raise ValueError("too long")
        data = os.pread(fd, size, FIRST + number % 2 * PLACE)
        if _head(fd) == head:
            return _report(data)
    return None


def number(fd: int) -> int:
    """Return the number of the latest report, which grows with each."""
    return _head(fd)[0]


def give_order(fd: int, order: Message) -> None:
    """Leave an order for the logger, to be read after a SIGHUP. Only the guardian does so.

    Raises ValueError for words that this version does not know.
    """
    switches = order.get("compress", False), order.get("timestamps", False)
    words = FORMATS.index(order.get("format", "text")), OVERFLOWS.index(order.get("overflow", "wait"))
    os.pwrite(fd, ORDERED.pack(True, order["max_bytes"], order["backups"], *switches, *words), ORDER)


def order(fd: int) -> Message:
    """Return what was ordered last, nothing if that was never. Raises ValueError for what the guardian never writes."""
    given, max_bytes, backups, compress, timestamps, form, overflow = ORDERED.unpack(os.pread(fd, ORDERED.size, ORDER))
    if not given:
        return {}
    if form >= len(FORMATS) or overflow >= len(OVERFLOWS):
        raise ValueError("an order of words that nobody knows")
    sizes = {"max_bytes": max_bytes, "backups": backups, "compress": compress, "timestamps": timestamps}
    return {**sizes, "format": FORMATS[form], "overflow": OVERFLOWS[overflow]}


def _head(fd: int) -> tuple[int, ...]:
    data = os.pread(fd, HEAD.size, 0)
    return HEAD.unpack(data) if len(data) == HEAD.size else (0, 0, 0)


def _records(report: Message) -> Iterator[bytes]:
    for kind in COUNTS:
        for stream, count in report[kind].items():
            yield _record(kind, count, stream=stream)
    for kind in TOTALS:
        yield _record(kind, report[kind])
    for kind in WORDS:
        for name, why in report[kind].items():
            yield _record(kind, text=os.fsencode(f"{name}\0{why}"))
    for name, times in report["recovered"].items():
        yield _record("recovered", times, os.fsencode(name))
    for at, time, stream, line in report["last"]:
        yield _record("last", at, line, stream=stream, time=time)


def _record(kind: str, count: int = 0, text: bytes = b"", *, stream: str = "stdout", time: float = 0.0) -> bytes:
    text = text[:LONGEST_TEXT]
    return RECORD.pack(KINDS.index(kind), STREAMS.index(stream), time, min(count, MOST), len(text)) + text


def _report(data: bytes) -> Message:
    report: Message = {key: type(value)(value) for key, value in NOTHING.items()}
    at = records = 0
    while at < len(data):
        records += 1
        if records > MOST_RECORDS or len(data) - at < RECORD.size:
            raise ValueError("too many records, or a part of one")
        kind, stream, time, count, size = RECORD.unpack_from(data, at)
        at += RECORD.size + size
        known = kind < len(KINDS) and stream < len(STREAMS) and 0 <= time < LATEST  # which is false for NaN
        if not known or count > MOST or size > LONGEST_TEXT or at > len(data):
            raise ValueError("no record of a logger")
        _take(report, KINDS[kind], STREAMS[stream], time, count, data[at - size : at])
    return report


def _take(report: Message, kind: str, stream: str, time: float, count: int, text: bytes) -> None:
    if kind in COUNTS:
        report[kind][stream] = count
    elif kind in TOTALS:
        report[kind] = count
    elif kind == "last":
        report[kind].append((count, time, stream, text))
    elif len(report[kind]) == len(STREAMS):
        raise ValueError("more files than streams")
    elif kind in WORDS:
        name, _, why = os.fsdecode(text).partition("\0")
        report[kind][name] = why
    else:
        report[kind][os.fsdecode(text)] = count
