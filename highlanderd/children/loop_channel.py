"""A channel on the worker's event loop, asyncio's or uvloop's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Final

from highlanderd.guardian.channel import Channel, Message

NOTHING: Final = bytes(4)
"""The kernel's answer that a peer has read all that was sent to it, which ``ioctl`` also wants as the room for it."""


class LoopChannel:
    """A channel that is read as messages arrive, and written as soon as there is room. Nothing waits for it.

    ``receive`` is called with each message and its descriptors, ``ended`` when the peer is gone. Neither is called
    after ``close()``, which ``ended`` has to call. ``failed`` is called with what no message was, or what ``receive``
    has raised: an event loop would only log it.
    """

    def __init__(
        self,
        channel: Channel,
        receive: Callable[[Message, list[int]], None],
        ended: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._channel, self._receive, self._ended, self._failed = channel, receive, ended, failed
        self._loop = asyncio.get_running_loop()
        self._fd = channel.fileno()
        self._writing = False
        self.open = True
        self._loop.add_reader(self._fd, self._read_one)

    def post(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message, later if there is no room now. A closed channel drops it. ``fds`` are closed once sent."""
        if self.open:
            self._channel.post(message, fds)
            if self._writing or self._channel.unsent:
                self._write()
        else:
            for fd in fds:
                os.close(fd)

    @property
    def unsent(self) -> list[Message]:
        """The messages that have certainly not reached the peer."""
        return self._channel.unsent

    @property
    def unread(self) -> bool:
        """Whether the peer has not read yet all that was posted. The channel must be open."""
        return ioctl(self._fd, TIOCOUTQ, NOTHING) != NOTHING or bool(self.unsent)

    def read(self) -> None:
        """Receive everything that has arrived by now."""
        while self._read_one():
            pass

    def _read_one(self) -> bool:
        """Receive one message, and return whether there was one: the loop calls again while there are more."""
        try:
            if not self.open or (received := self._channel.receive()) is None:
                return False
            self._receive(*received)
        except EOFError:
            self._ended()
        except Exception as error:  # noqa: BLE001 - whatever it was, it belongs to this peer
            self._failed(error)
        else:
            return True
        return False

    def close(self) -> None:
        """Close the channel, with the descriptors of what was never sent."""
        if self.open:
            self.open = False
            self._loop.remove_reader(self._fd)
            if self._writing:
                self._loop.remove_writer(self._fd)
            self._channel.close()

    def _write(self) -> None:
        wanted = self.open and not self._channel.flush()
        if wanted and not self._writing:
            self._loop.add_writer(self._fd, self._write)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._fd)
        self._writing = wanted
