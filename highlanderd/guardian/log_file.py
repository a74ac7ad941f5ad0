"""A log file: opened without following links, appended to, rotated by size, opened again when it was moved.

Its backups are ``NAME.1``, the youngest, to ``NAME.N``, or the same with ``.gz``.

The logger that uses it runs as the program's user, unless nobody but root and the daemon's user could have put
anything in the file's place (``way.sheltered``).
"""

from __future__ import annotations

import errno
import os
import stat
import time

from highlanderd.guardian.log_pack import PACKED, Compression, backup, remove, say_left

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.launch import Spec

# O_NONBLOCK: a FIFO without a reader is an error, and not a logger that hangs
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW
MODE = 0o640
NOT_REGULAR = "it is no regular file"
UNUSABLE = {errno.ELOOP: "it is a link, and links are not followed", errno.ENXIO: NOT_REGULAR}
LOOK_EVERY = 1.0  # seconds between two looks whether the file was moved; and for which an unused file stays open


class LogFile:
    """One log file and its backups. Raises OSError where the system refuses something.

    ``torn``: it may end in the middle of a line, because a logger died there.
    """

    fd, events, busy = None, 0, False
    """It always takes something, or fails: nothing has to be waited for."""

    def __init__(self, path: bytes, *, torn: bool = False) -> None:
        self.path, self.name, self._torn = path, os.fsdecode(path), torn
        self._max_bytes = self._backups = 0
        self._packs, self._compression = False, Compression(path)
        self.unrotated: str | None = None
        """Why the last rotation failed; the file then grows beyond its size."""
        self._unpackable: set[str] = set()
        """Why compressions could not begin or be finished: each reason was said once."""
        self._fd: int | None = None
        self._size = 0
        self._looked = self._used = 0.0

    def write(self, data: memoryview) -> int:
        """Write a first piece of ``data``, up to the end of a line where the file would outgrow its size."""
        try:
            return self._write(data)
        except BlockingIOError:  # to open it was refused, and there is nothing to wait for
            raise OSError(errno.EBUSY, "another process holds a lease on it") from None

    def _write(self, data: memoryview) -> int:
        self._used = time.monotonic()
        fd = self._current()
        piece = len(data)
        if self._max_bytes and self.unrotated is None and self._size + piece > self._max_bytes:
            piece = _whole_lines(data, self._max_bytes - self._size)
            if not piece and self._size:
                fd = self._rotate(fd)
            piece = piece or _whole_lines(data, self._max_bytes - self._size) or min(len(data), self._max_bytes)
        written = os.write(fd, data[:piece])
        self._size += written
        return written

    def obey(self, order: Spec) -> None:
        """Use these sizes from now on, and compress the backups or not."""
        self._max_bytes, self._backups = order["max_bytes"], order["backups"]
        self._packs = order.get("compress", False)
        self._pack()

    def reaped(self, pid: int, status: int) -> None:
        """Take in the end of a process: perhaps of the one that compresses."""
        if pid == self._compression.pid:
            try:
                done = self._compression.reaped(status, self._backups)
            except OSError as error:
                self._unpacked(error)
            else:
                if done:
                    self._pack()

    def _pack(self) -> None:
        if self._packs:
            try:
                self._compression.begin(self._backups)
            except OSError as error:
                self._unpacked(error)

    def _unpacked(self, error: OSError) -> None:
        """Say once why a backup stays as it is: a program can have its file rotated a thousand times a second."""
        if (why := str(error.strerror)) not in self._unpackable:
            self._unpackable.add(why)
            say_left(self.path, error)

    def _end_line(self, fd: int) -> None:
        """Begin a new line where the file ends in the middle of one."""
        with_end = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            size = os.fstat(with_end).st_size
            if size and os.pread(with_end, 1, size - 1) != b"\n":
                self._size += os.write(fd, b"\n")
        finally:
            os.close(with_end)

    def rest(self, now: float) -> bool:
        """Close the file when it was not used for a while. Return whether it is closed."""
        if self._fd is not None and now - self._used >= LOOK_EVERY:
            self.close()
        return self._fd is None

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _current(self) -> int:
        if self._fd is not None and self._used - self._looked > LOOK_EVERY and not self._in_place(self._fd):
            self.close()
        return self._open() if self._fd is None else self._fd

    def _open(self) -> int:
        try:
            fd = _open_regular(self.path)
        except PermissionError:
            if not self._backups or not _is_regular(self.path):
                raise
            self._shift()  # an earlier version's file, which root has made in a directory of this user
            fd = _open_regular(self.path)
        found = os.fstat(fd)
        self._fd, self._size, self._looked, self.unrotated = fd, found.st_size, self._used, None
        if self._torn:
            self._torn = False  # first: what cannot be mended must not keep the rest from being written
            self._end_line(fd)
        return fd

    def _in_place(self, fd: int) -> bool:
        """Return whether the path still names the file that we have open."""
        self._looked = self._used
        try:
            there, ours = os.lstat(self.path), os.fstat(fd)
        except OSError:
            return False
        self._size = ours.st_size  # others may write to it, or cut it
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _rotate(self, fd: int) -> int:
        """Shift the backups by one and open a new file. After a failure the file grows beyond its size."""
        if self._in_place(fd):  # else another process has rotated it, or put a file there that must not be moved
            try:
                if not self._backups:
                    os.ftruncate(fd, 0)
                    self._size = 0
                    return fd
                self._shift()
            except OSError as error:
                self.unrotated = error.strerror
                return fd
        self.close()
        fd = self._open()
        self._pack()
        return fd

    def _shift(self) -> None:
        """Rename each backup to the next number, whichever form it has; the oldest one goes."""
        for form in (b"", PACKED):
            remove(backup(self.path, self._backups) + form)
            for number in range(self._backups - 1, 0, -1):
                _replace(backup(self.path, number) + form, backup(self.path, number + 1) + form)
        _replace(self.path, backup(self.path, 1))


def _open_regular(path: bytes) -> int:
    """Open a file, or make it. Raises OSError with words for what the system has one number for."""
    try:
        fd = os.open(path, FLAGS, MODE)
    except OSError as error:
        if (why := UNUSABLE.get(error.errno or 0)) is None:
            raise
        raise OSError(error.errno, why) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, NOT_REGULAR)
    return fd


def _is_regular(path: bytes) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _whole_lines(data: memoryview, most: int) -> int:
    """Return how many of the first ``most`` bytes are whole lines."""
    return bytes(data[: max(most, 0)]).rfind(b"\n") + 1


def _replace(old: bytes, new: bytes) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        return
