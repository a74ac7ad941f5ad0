"""Outlets other than a plain file: the daemon's own output, a file opened as another user, a file behind a thread.

All have the shape of ``LogFile``. One that takes nothing now raises BlockingIOError; its ``fd`` and ``events`` say what
to wait for then.
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import stat

from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from highlanderd.guardian.launch import Spec
    from highlanderd.guardian.log_file import LogFile

    Outlet: TypeAlias = "LogFile | Inherited | AsUser | Aside"

NUMBERS = {"stdout": 1, "stderr": 2}
NAMES = {"stdout": "standard output", "stderr": "standard error"}
SOCKET_PIECE = 1 << 15  # bytes that Linux keeps together on a stream socket, as the journal's is


def lasting(data: memoryview) -> memoryview:
    """Return what outlives the memory that is used again; what was shaped is in memory of its own."""
    return data if isinstance(data.obj, bytes) else memoryview(bytes(data))


class Inherited:
    """The daemon's own standard output or error, where the lines of many programs meet.

    Other processes have the same open file, so it is never made non-blocking. It is asked first whether it takes
    something, and gets whole lines, as many as nothing else can come between.
    """

    __slots__ = ("_piece", "_poll", "fd", "name")
    events = select.EPOLLOUT
    busy, unrotated = False, None

    def __init__(self, stream: str) -> None:
        self.fd, self.name = NUMBERS[stream], NAMES[stream]
        mode = os.fstat(self.fd).st_mode
        self._piece = 1 << 30 if stat.S_ISREG(mode) else SOCKET_PIECE if stat.S_ISSOCK(mode) else select.PIPE_BUF
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLOUT)

    def write(self, data: memoryview) -> int:
        """Write a first piece of ``data``. Raises BlockingIOError when nothing is taken now."""
        if not self._poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, "its reader is slow")
        piece = len(data)
        if piece > self._piece:
            piece = bytes(data[: self._piece]).rfind(b"\n") + 1 or self._piece
        return os.write(self.fd, data[:piece])

    def obey(self, order: Spec) -> None:
        """Do nothing: it has no size."""

    def reaped(self, pid: int, status: int) -> None:
        """Do nothing: it has no process."""

    def close(self) -> None:
        """Do nothing: it stays what the daemon was started with."""

    def rest(self, now: float) -> bool:  # noqa: ARG002 - an outlet's shape
        """Return that there is nothing to let go of."""
        return True


class AsUser:
    """A file in a directory of the program's user, in a logger that has to be root for another file."""

    __slots__ = ("_file", "_gid", "_uid", "name")
    fd, events, busy = None, 0, False

    def __init__(self, file: LogFile, uid: int, gid: int) -> None:
        self._file, self._uid, self._gid, self.name = file, uid, gid, file.name

    @property
    def unrotated(self) -> str | None:
        """Why the last rotation failed."""
        return self._file.unrotated

    def write(self, data: memoryview) -> int:
        """Write a first piece of ``data`` as that user."""
        with linux.FilesAs(self._uid, self._gid):
            return self._file.write(data)

    def obey(self, order: Spec) -> None:
        """Use other sizes."""
        with linux.FilesAs(self._uid, self._gid):
            self._file.obey(order)

    def reaped(self, pid: int, status: int) -> None:
        """Take in the end of a process."""
        with linux.FilesAs(self._uid, self._gid):
            self._file.reaped(pid, status)

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        self._file.close()

    def rest(self, now: float) -> bool:
        """Close the file when it was not used for a while. Return whether it is closed."""
        return self._file.rest(now)


class Aside:
    """A file that a thread writes: a disk that hangs then keeps nothing but that thread.

    For programs whose lines are dropped rather than waited for. A piece counts as written once the thread has it.
    """

    __slots__ = ("_error", "_file", "_go", "_left", "_tasks", "busy", "fd", "name")
    events = select.EPOLLIN

    def __init__(self, file: LogFile | AsUser) -> None:
        self._file, self.name = file, file.name
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = False
        self._tasks: list[Callable[[], None]] = []
        """What the thread does first."""
        self._left = memoryview(b"")
        self._error: OSError | None = None
        self._go = _thread.allocate_lock()
        self._go.acquire()
        _thread.start_new_thread(self._run, ())

    @property
    def unrotated(self) -> str | None:
        """Why the last rotation failed."""
        return self._file.unrotated

    def write(self, data: memoryview) -> int:
        """Hand ``data`` to the thread. Raises BlockingIOError while that is busy, and what went wrong before."""
        if not self.busy:
            error, self._error = self._error, None
            if error is not None:
                raise error
            taken = not self._left
            if taken:
                self._left = lasting(data)
            self._begin()
            if taken:
                return len(data)
        raise BlockingIOError(errno.EAGAIN, "its disk is slow")

    def obey(self, order: Spec) -> None:
        """Have the thread use other sizes."""
        self._have(lambda: self._file.obey(order))

    def reaped(self, pid: int, status: int) -> None:
        """Have the thread take in the end of a process."""
        self._have(lambda: self._file.reaped(pid, status))

    def close(self) -> None:
        """Have the thread close the file; the next write opens it again."""
        self._have(self._file.close)

    def rest(self, now: float) -> bool:
        """Close the file when it was not used for a while. Return whether it is closed."""
        return not self.busy and self._file.rest(now)

    def _have(self, task: Callable[[], None]) -> None:
        self._tasks.append(task)
        if not self.busy:
            self._begin()

    def _begin(self) -> None:
        os.eventfd_write(self.fd, 1)  # the thread may have read already, or not: now there is something to read
        os.eventfd_read(self.fd)
        self.busy = True
        self._go.release()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            try:
                while self._tasks:
                    self._tasks.pop(0)()
                while self._left:
                    self._left = self._left[self._file.write(self._left) :]
            except OSError as error:
                self._error = error
            os.eventfd_write(self.fd, 1)  # before the next line: a bell that comes later would ring for nothing
            self.busy = False
