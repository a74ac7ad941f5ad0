"""The process tree, read from /proc: children, whole trees, parents.

Standard library only, and little of it, as in ``linux.py``. Only the list of this process' own children is exact. Other
processes may be gone by the time it is read, and their pids reused.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Iterator

SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # these pass


class Children:
    """The children of this process, which has one thread: listed through one descriptor that is open from the start.

    A process that has to kill may be unable to open another one. Raises OSError on a kernel without this file.
    """

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)

    def now(self) -> list[int]:
        """Return their pids, zombies included.

        Reparenting is over before SIGCHLD is sent, so what a dead process left behind is listed once its death is
        known.
        """
        data = b""
        while piece := os.pread(self._fd, 65536, len(data)):
            data += piece
        return [int(word) for word in data.split()]


def children(pid: int, thread: int | None = None) -> list[int]:
    """Return the children of a process' thread, by default its first one; zombies included. Empty if it is gone."""
    return [int(word) for word in contents(f"/proc/{pid}/task/{thread or pid}/children").split()]


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes below a process, parents first. Some may be gone by now.

    Raises OSError when there is no descriptor to look with.
    """
    level = [pid]
    while level:
        level = [child for each in level for child in below(each)]
        yield from level


def below(pid: int) -> list[int]:
    """Return the children of all threads of a process. Raises OSError when there is no descriptor to look with."""
    return [child for thread in _threads(pid) for child in children(pid, thread)]


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def parent(pid: int) -> int:
    """Return the parent of a process; 0 if it is gone. Raises OSError when there is no descriptor to look with."""
    fields = contents(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    return int(fields[1]) if fields else 0


def state(pid: int) -> str:
    """Return the letter of a process' state, as ps(1) shows it; empty if it is gone."""
    return contents(f"/proc/{pid}/stat").rpartition(b") ")[2][:1].decode()


def contents(path: str) -> bytes:
    """Return a file of /proc, empty if its process is gone or hidden. File objects would cost a keeper more memory."""
    data = b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while piece := os.read(fd, 65536):
                data += piece
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    return data
