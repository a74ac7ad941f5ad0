"""The deadlines that keepers have taken in, in memory that the guardian reads when one of them matters to it.

Each renewal moves a deadline on. A message for each would wake the guardian hundreds of times, for what it needs to
know when the deadline is near, when the keeper has died, or when another worker begins. So a keeper notes it here,
before the worker hears that it holds. The guardian forks all keepers, so both sides are of one version.

The guardian may read while a keeper writes, and a keeper may be killed while it writes. The checksum tells such a note
from a whole one. It is Python's own hash, which a process and what it has forked have in common.
"""

from __future__ import annotations

import os
import struct

HEAD = struct.Struct("=dqI")  # the deadline, a checksum of it and the memo, and the memo's length
PLACE = 20480  # bytes of one keeper: head and memo, 16 KiB at most; what is not written takes no memory


class DeadlineNotes:
    """One memfd with a place for each keeper. Raises OSError when there is no memory for it."""

    __slots__ = ("_fd", "_free", "_places")

    def __init__(self) -> None:
        self._fd = os.memfd_create("deadlines")
        self._free: list[int] = []
        self._places = 0

    def fileno(self) -> int:
        """Return the descriptor, which keepers hold open and their children do not."""
        return self._fd

    def take(self) -> int:
        """Return a place that no keeper has, with nothing in it. Raises OSError when there is no memory for it."""
        place = self._free[-1] if self._free else self._places
        os.pwrite(self._fd, HEAD.pack(0.0, 0, 0), place * PLACE)
        if self._free:
            self._free.pop()
        else:
            self._places += 1
        return place

    def give_back(self, place: int) -> None:
        """Let another keeper have this place: its keeper is dead."""
        self._free.append(place)

    def write(self, place: int, deadline: float, memo: bytes) -> None:
        """Note a keeper's deadline, and its memo. Raises OSError when there is no memory for it."""
        head = HEAD.pack(deadline, hash((deadline, memo)), len(memo))
        os.pwrite(self._fd, head + memo, place * PLACE)

    def read(self, place: int) -> tuple[float, bytes]:
        """Return the deadline and the memo that a keeper has noted last: 0 where no whole note is found."""
        data = os.pread(self._fd, PLACE, place * PLACE)
        deadline, checksum, length = HEAD.unpack_from(data)
        memo = data[HEAD.size : HEAD.size + length]
        return (deadline, memo) if checksum == hash((deadline, memo)) else (0.0, b"")
