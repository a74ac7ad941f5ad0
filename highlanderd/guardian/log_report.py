"""What a logger reports of itself, in a memfd that the worker reads: counts of lines, the last lines, what is wrong.

In the same memfd the guardian leaves orders that have changed since the child was started.

The memfd is the guardian's and outlives loggers and workers. A report is written into one of two places in turn, and
counts once its number stands at the beginning: a reader never sees half of one, and nobody waits for the other.
"""

from __future__ import annotations

import marshal
import os
import struct

from highlanderd.guardian.channel import MARSHAL_VERSION

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

HEAD = struct.Struct("=QQQ")  # the report's number, and the lengths of the two places' contents
SIZE = struct.Struct("=Q")
PLACE = 1 << 19  # bytes for one report: 200 lines of 1000 bytes, and room
FIRST = 4096
ORDER = FIRST + 2 * PLACE
TRIES = 5
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


def publish(fd: int, report: Message) -> None:
    """Write ``report`` where readers find it from now on. Only one process may do so at a time."""
    number, *sizes = _head(fd)
    data = marshal.dumps(report, MARSHAL_VERSION)[:PLACE]
    place = (number + 1) % 2
    os.pwrite(fd, data, FIRST + place * PLACE)
    sizes[place] = len(data)
    os.pwrite(fd, HEAD.pack(number + 1, *sizes), 0)


def read(fd: int) -> Message:
    """Return the latest report; an empty one when there is none yet, or when it changes faster than it can be read."""
    for _ in range(TRIES):
        head = _head(fd)
        number, *sizes = head
        if number == 0:
            break
        data = os.pread(fd, sizes[number % 2], FIRST + number % 2 * PLACE)
        if _head(fd) == head:
            return {**NOTHING, **marshal.loads(data)}  # noqa: S302 - a process of ours wrote it
    return dict(NOTHING)


def number(fd: int) -> int:
    """Return the number of the latest report, which grows with each."""
    return _head(fd)[0]


def give_order(fd: int, order: Message) -> None:
    """Leave an order for the logger, to be read after a SIGHUP. Only the guardian does so."""
    data = marshal.dumps(order, MARSHAL_VERSION)
    os.pwrite(fd, SIZE.pack(len(data)) + data, ORDER)


def order(fd: int) -> Message:
    """Return what was ordered since the child was started."""
    head = os.pread(fd, SIZE.size, ORDER)
    return marshal.loads(os.pread(fd, SIZE.unpack(head)[0], ORDER + SIZE.size)) if head else {}  # noqa: S302


def _head(fd: int) -> tuple[int, ...]:
    data = os.pread(fd, HEAD.size, 0)
    return HEAD.unpack(data) if len(data) == HEAD.size else (0, 0, 0)
