"""The mark of a living daemon: a lock on the file ``SOCKET.lock``, which its main process holds until it ends.

Workers come and go, and nobody answers on the control socket in between. The lock tells that from a daemon that has
ended. It is a lock of Linux' open file descriptions: a client can ask for it without taking it, and it outlives exec.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid: all of the file, and no pid


def take(socket: str) -> int:
    """Take the lock of the daemon whose control socket is ``socket``. Return the descriptor that holds it.

    Raises BlockingIOError when another daemon has it, and OSError when the file cannot be made.
    """
    path = f"{socket}.lock"
    if os.path.lexists(path) and not taken(socket):
        os.unlink(path)  # somebody who may only read it may have locked it, too, or it may be a link
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        os.fchmod(fd, 0o644)  # every client may ask, whatever the umask says
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        os.close(fd)
        raise
    return fd


def taken(socket: str) -> bool:
    """Return whether a daemon lives whose control socket is ``socket``; False where that cannot be seen.

    It asks for a lock to read, which only a lock to write refuses, and that takes the rights of the daemon's user.
    """
    try:
        fd = os.open(f"{socket}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
