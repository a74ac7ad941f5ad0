"""Messages between the daemon's own processes: one dict and perhaps some descriptors, whole or not at all.

A channel never blocks, and never delivers half a message. Both ends belong to this daemon: ``marshal`` must not read
what others have written. Its version 2 is the same in every Python 3, so a new worker can talk to an old guardian.
"""

from __future__ import annotations

import errno
import marshal
import os
import struct

from highlanderd.system.stdlib import socket

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict

MARSHAL_VERSION = 2
LONGEST = 65536  # bytes of one message; what may be larger travels in a memfd
MOST_FDS = 8
FULL = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})  # for now, as EAGAIN
GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.ESHUTDOWN})


class Garbled(ValueError):
    """What has arrived is no message."""


class Channel:
    """One end of a SOCK_SEQPACKET pair."""

    __slots__ = ("_socket", "_unsent")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._unsent: list[tuple[Message, tuple[int, ...]]] = []

    @classmethod
    def of(cls, fd: int) -> Channel:
        """Return a channel that owns a descriptor which came from another process."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """Return the descriptor for ``poll``; -1 once closed."""
        return self._socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Send now or not at all: False when the queue is full or the peer is gone (reading tells which).

        ``fds`` stay the caller's. Raises ValueError when the message is longer than 64 KiB.
        """
        data = marshal.dumps(message, MARSHAL_VERSION)
        if len(data) > LONGEST:
            raise ValueError(f"message {message.get('is')!r} has {len(data)} bytes; more than {LONGEST} need a memfd")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        try:
            self._socket.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in FULL | GONE:
                return False
            raise
        return True

    def post(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, and what does not fit now at the next ``flush()``, in order. ``fds`` are closed once sent."""
        if self._unsent or not self.send(message, fds):
            self._unsent.append((message, tuple(fds)))
            self.flush()
            return
        for fd in fds:
            os.close(fd)

    def flush(self) -> bool:
        """Send what was posted and is not sent yet; return whether all is sent."""
        while self._unsent:
            message, fds = self._unsent[0]
            if not self.send(message, fds):
                return False
            del self._unsent[0]
            for fd in fds:
                os.close(fd)
        return True

    @property
    def unsent(self) -> list[Message]:
        """The posted messages that have certainly not reached the peer."""
        return [message for message, _ in self._unsent]

    def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message and its descriptors, close-on-exec; None when there is nothing to read now.

        When some of the descriptors were lost on the way, because this process may open no more, none is returned: the
        receiver counts them. Raises EOFError when the peer is gone and everything it had sent is read, and Garbled when
        what it has sent is no message.
        """
        while True:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    LONGEST, socket.CMSG_SPACE(4 * MOST_FDS), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # raised once if the peer has left messages unread; its own last messages follow
            except OSError as error:
                if error.errno in FULL:
                    return None
                raise
            if not data:
                raise EOFError("the peer is gone")
            fds = [fd for *_, rights in ancillary for fd in struct.unpack(f"{len(rights) // 4}i", rights)]
            if flags & socket.MSG_CTRUNC:
                fds = _closed(fds)
            try:
                return _message(data), fds
            except Garbled:
                _closed(fds)
                raise

    def detach(self) -> int:
        """Return the descriptor of this end, which is the caller's from now on."""
        return self._socket.detach()

    def close(self) -> None:
        """Close this end, and the descriptors of what was never sent."""
        for _, fds in self._unsent:
            _closed(fds)
        self._unsent = []
        self._socket.close()


def _message(data: bytes) -> Message:
    try:
        message = marshal.loads(data)  # noqa: S302 - the peer is a process of this daemon
    except (EOFError, ValueError, TypeError) as error:
        raise Garbled(f"{len(data)} bytes are no message: {error}") from error
    if type(message) is not dict or type(message.get("is")) is not str:
        raise Garbled(f"{len(data)} bytes are no message")
    return message


def _closed(fds: Sequence[int]) -> list[int]:
    for fd in fds:
        os.close(fd)
    return []


def channel_pair() -> tuple[Channel, Channel]:
    """Return the two ends of a new channel, both close-on-exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(ours), Channel(theirs)
