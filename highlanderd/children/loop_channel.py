"""A channel on the worker's event loop, asyncio's or uvloop's: what comes is told, what goes is never waited for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from highlanderd.guardian.channel import Channel, Message


class LoopChannel:
    """Tells ``heard`` of each message with its descriptors, and ``ended``, once, that the peer is gone."""

    def __init__(
        self, channel: Channel, heard: Callable[[Message, list[int]], None], ended: Callable[[], None]
    ) -> None:
        self._channel, self._heard, self._ended = channel, heard, ended
        self._loop = asyncio.get_running_loop()
        self._fd = channel.fileno()
        self._writing = False
        self.open = True
        self._loop.add_reader(self._fd, self.read)

    def post(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, or keep until there is room; dropped when the peer is gone. ``fds`` are closed once sent."""
        if self.open:
            self._channel.post(message, fds)
            self._write()
        else:
            for fd in fds:
                os.close(fd)

    @property
    def unsent(self) -> list[Message]:
        """What has certainly not reached the peer."""
        return self._channel.unsent

    def read(self) -> None:
        """Tell everything that is there now."""
        try:
            while self.open and (received := self._channel.receive()) is not None:
                self._heard(*received)
        except EOFError:
            self._ended()

    def close(self) -> None:
        """Let go of the channel; nothing is told any more."""
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
