"""A process that looks at paths as the user of a program, who may have put anything there. Executed with ``-I -S``.

It ends with its standard input. A request is a line of JSON, and its answer is ``ANSWER`` with so many bytes after it:
nothing in either is more than text, numbers and bytes. When a file system hangs, this process alone hangs with it, and
the one that asks has to kill it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Sequence

if __name__ == "__main__":  # at the end of the path: nothing there can replace the standard library
    sys.path.append(os.path.abspath(__file__).rsplit("/", 3)[0])

from highlanderd.system import way
from highlanderd.system.rights import acting

LARGEST = 1 << 20  # bytes of a file; Linux takes two such for a whole environment
LONGEST = 4096  # bytes of a path, as Linux has it
ANSWER = struct.Struct("=iII")  # an errno, or 0; a number; and how many bytes follow: content, or the path at fault


class User:
    """The user whose rights a path is opened with. ``uid`` None: the user that this process runs as."""

    def __init__(self, uid: int | None, gid: int | None, groups: Sequence[int] | None) -> None:
        self.uid = os.geteuid() if uid is None else uid
        self.gid = os.getegid() if gid is None else gid
        self.groups = tuple(groups or ())

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Have this user's rights only, if there are more to give up."""
        if os.geteuid() != 0 or self.uid == 0:
            yield
        else:
            with acting(self.uid, self.gid, self.groups):
                yield


def read(path: bytes, user: User) -> bytes:
    """Return what a regular file holds. Raises OSError: EINVAL for anything else, EFBIG above ``LARGEST``."""
    fd = _open(path, user)
    try:
        data = b""
        while len(data) <= LARGEST and (piece := os.read(fd, LARGEST + 1 - len(data))):
            data += piece
    finally:
        os.close(fd)
    if len(data) > LARGEST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def _open(path: bytes, user: User) -> int:
    """Open as the user. A file that this user may not open has to be root's or this process' own on its whole way.

    Raises OSError, whose file name is what is not theirs.
    """
    try:
        with user.acting():
            return _open_regular(path)
    except PermissionError as error:
        if os.geteuid() != 0:
            raise
        if (gap := way.gap(path, {user.gid, *user.groups})) is not None:
            raise OSError(error.errno, error.strerror, gap) from None
        return _open_regular(path)


def _open_regular(path: bytes) -> int:
    """Open a regular file. Nothing else is ever opened: that alone can wait, rewind a tape or arm a watchdog."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        # O_NONBLOCK: its owner may hold a lease on it, and let us wait for that
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(place)


def mode(path: bytes, user: User) -> int:
    """Return the mode of what is there, as the user sees it. Raises OSError."""
    with user.acting():
        return os.stat(path).st_mode


def executable(path: bytes, user: User) -> bool:
    """Return whether the user may execute the file, or enter the directory. Raises OSError when nothing is there."""
    with user.acting():
        os.stat(path)
        return os.access(path, os.X_OK, effective_ids=True)


def writable(path: bytes, user: User) -> bool:
    """Return whether the user's logger may write to the log file, or make it. Raises OSError.

    ENOENT where its directory does not exist. ELOOP for a link, EINVAL for anything else that is no regular file: a
    logger opens neither.
    """
    directory = os.path.dirname(path)
    sheltered = os.geteuid() == 0 and way.sheltered(directory, {user.gid, *user.groups})
    with contextlib.nullcontext() if sheltered else user.acting():
        with contextlib.suppress(FileNotFoundError):
            kind = os.lstat(path).st_mode
            if not stat.S_ISREG(kind):
                raise OSError(errno.ELOOP if stat.S_ISLNK(kind) else errno.EINVAL, "no regular file")
            if os.access(path, os.W_OK, effective_ids=True):
                return True
        os.stat(directory)
        return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


OPERATIONS: dict[str, Callable[[bytes, User], bytes | int | bool]] = {
    "read": read,
    "mode": mode,
    "executable": executable,
    "writable": writable,
}


def request(operation: str, path: bytes, uid: int | None, gid: int | None, groups: Sequence[int] | None) -> bytes:
    """Return a request as it is sent."""
    return json.dumps([operation, os.fsdecode(path), uid, gid, groups]).encode() + b"\n"


def answer(line: bytes) -> bytes:
    """Return the answer to a request, as it is sent."""
    operation, path, *who = json.loads(line)
    try:
        found = OPERATIONS[operation](os.fsencode(path), User(*who))
    except OSError as error:
        place = os.fsencode(error.filename or b"")[:LONGEST]
        return ANSWER.pack(error.errno or errno.EIO, 0, len(place)) + place
    if isinstance(found, bytes):
        return ANSWER.pack(0, 0, len(found)) + found
    return ANSWER.pack(0, found, 0)


def main() -> None:
    """Answer until the asking end is closed."""
    try:
        while line := sys.stdin.buffer.readline():
            sys.stdout.buffer.write(answer(line))
            sys.stdout.buffer.flush()
    except ConnectionError:  # the process that asked was killed
        os._exit(0)  # what it has not read would be tried again, and be a traceback in the daemon's log


if __name__ == "__main__":
    main()
