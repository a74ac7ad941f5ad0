"""What a logger reports of itself, in a memfd that the worker reads: counts of lines, the last lines, what is wrong.

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
PLACE = 1 << 19  # bytes for one report: 200 lines of 1000 bytes, and room
FIRST = 4096
TRIES = 5
NOTHING: Message = {"lines": {}, "last": [], "troubles": {}, "unrotated": {}, "recovered": {}}


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


def _head(fd: int) -> tuple[int, ...]:
    data = os.pread(fd, HEAD.size, 0)
    return HEAD.unpack(data) if len(data) == HEAD.size else (0, 0, 0)
