"""Backups of a log file are compressed one after another, by a process of the lowest priority.

Only the logger renames and removes; the process fills a file that has no number yet. So a rotation in the middle waits
for nothing: the backup is found again by its inode. A logger that ends in the middle takes the process along, and the
next one begins that backup anew.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib  # in the guardian already: a program's user may not be able to reach this Python's files

from highlanderd.system import linux, priority

PACKED = b".gz"
PIECE = 1 << 16
GZIP = 31  # zlib's window size for a gzip header
SOURCE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
TARGET = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Compression:
    """The compression of one log file's backups. Its methods raise OSError where the system refuses something."""

    __slots__ = ("_part", "_path", "_source", "_target", "pid")

    def __init__(self, path: bytes) -> None:
        self._path, self._part = path, path + PACKED + b"-part"
        self._source = self._target = -1
        self.pid: int | None = None

    def begin(self, backups: int) -> None:
        """Compress the youngest backup that is not, unless one is under way."""
        if self.pid is not None:
            return
        try:
            if any(self._open(backup(self._path, number)) for number in range(1, backups + 1)):
                self.pid = linux.fork(self._become)
        finally:
            if self.pid is None:
                self._close()

    def _open(self, path: bytes) -> bool:
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode):
                return False
            self._source = os.open(path, SOURCE)
        except FileNotFoundError:
            return False
        remove(self._part)  # of one that was cut short
        self._target = os.open(self._part, TARGET, stat.S_IMODE(found.st_mode))
        return True

    def _become(self) -> int:
        linux.die_with_parent()
        linux.close_all_but(0, 1, 2, self._source, self._target)
        linux.set_name("log gzip")
        priority.take_lowest()
        try:
            pack(self._source, self._target)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def reaped(self, status: int, backups: int) -> bool:
        """Put what was compressed in the backup's place, whatever number that has by now. Return whether it worked."""
        self.pid = None
        try:
            if status == 0:
                return self._put(backups)
            remove(self._part)
        finally:
            self._close()
        if os.WIFEXITED(status):
            raise OSError(code := os.WEXITSTATUS(status), os.strerror(code))
        return False

    def _close(self) -> None:
        for fd in {self._source, self._target} - {-1}:
            os.close(fd)
        self._source = self._target = -1

    def _put(self, backups: int) -> bool:
        source = os.fstat(self._source)
        if not os.path.samestat(os.lstat(self._part), os.fstat(self._target)):
            return False
        for number in range(1, backups + 1):
            path = backup(self._path, number)
            try:
                found = os.path.samestat(os.lstat(path), source)
            except FileNotFoundError:
                continue
            if found:
                os.rename(self._part, path + PACKED)
                os.unlink(path)
                return True
        os.unlink(self._part)  # that backup was the oldest, and is gone
        return True


def say_left(path: bytes, error: OSError) -> None:
    """Log that a backup of the log file ``path`` stays as it is."""
    name = os.fsdecode(path)
    linux.log(f"highlanderd: a backup of {name} is not compressed: {error.strerror}; it stays as it is")


def remove(path: bytes) -> None:
    """Remove a file, if there is one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def backup(path: bytes, number: int) -> bytes:
    """Return the path of a log file's backup that is not compressed."""
    return b"%b.%d" % (path, number)


def pack(source: int, target: int) -> None:
    """Compress one open file into another one, which gets its times."""
    found = os.fstat(source)
    stream = zlib.compressobj(6, zlib.DEFLATED, GZIP)
    while piece := os.read(source, PIECE):
        _write(target, stream.compress(piece))
    _write(target, stream.flush())
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.fsync(target)  # the backup itself is removed next


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
