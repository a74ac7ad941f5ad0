"""A worker's spare: the process that it forks before it begins to work, and that becomes the next worker.

``guardian/spare.py`` says why. Both share the memory of all that was imported.
"""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path

from highlanderd.errors import DONE
from highlanderd.guardian import protocol, shapes
from highlanderd.guardian.channel import Channel

WORKING, WAITING = b"\0--worker\0", b"\0--spare \0"
"""How the command line shows which of the two a process is, in ``ps`` and ``pgrep -f``."""
ARG_START, ARG_END = 45, 46
"""Fields of /proc/PID/stat after the name: see proc(5)."""


def with_spare(channel_fd: int, spare_fd: int) -> int:
    """Fork the spare, which waits at ``spare_fd``, and return in the worker: the descriptor of its channel.

    A spare returns, too, once it is to begin: as the next worker, with a spare of its own. It ends with the guardian.
    Must be called before anything has begun a thread or a loop.
    """
    while True:
        try:
            spare = os.fork()
        except OSError:  # the machine is short of processes: no spare, and the guardian executes the next worker
            os.close(spare_fd)
            return channel_fd
        if spare:
            os.close(spare_fd)
            return channel_fd
        os.close(channel_fd)
        _show(WORKING, WAITING)
        channel_fd, spare_fd = spare_fd, _begun(spare_fd)
        os.setpgid(0, 0)
        _show(WAITING, WORKING)


def _begun(fd: int) -> int:
    """Wait until the spare at ``fd`` is to begin; return the descriptor for its own spare. Exits with the guardian."""
    channel = Channel.of(fd)
    channel.post(protocol.spare(os.getpid()))
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    try:
        while True:
            poller.poll()
            received = channel.receive()
            if received is not None and shapes.check(protocol.SPARE, received[0]):
                channel.detach()
                return received[1][0]
    except (EOFError, ValueError, IndexError):
        os._exit(DONE)


def _show(old: bytes, new: bytes) -> None:
    """Replace a word of this process' command line, where the kernel reads it."""
    fields = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()
    start, end = int(fields[ARG_START]), int(fields[ARG_END])
    if start and (at := ctypes.string_at(start, end - start).find(old)) >= 0:
        ctypes.memmove(start + at, new, len(new))
