"""A worker's spare: the process that it forks before it begins to work, and that becomes the next worker.

``guardian/spare.py`` says why. Both share the memory of all that was imported.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import sys
from pathlib import Path

from highlanderd.errors import DONE
from highlanderd.guardian import messages, protocol, shapes, starting
from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.guardian.worker import confine

PR_SET_MM, PR_SET_MM_MAP = 35, 14
MEMORY_MAP: tuple[int | str, ...] = (26, 27, 45, 46, 47, "brk", 28, "arg_start", "arg_end", 50, 51)
"""What ``struct prctl_mm_map`` begins with: fields of /proc/PID/stat, but for what changes here. See prctl(2)."""
NO_FILE = 2**32 - 1
_shown: list[ctypes.Array[ctypes.c_char]] = []
"""What the kernel reads, kept alive."""


def own_command() -> list[str]:
    """Return the command that started this daemon, without what makes a process a worker.

    The guardian executes it again for a worker that is not a spare.
    """
    argv = sys.orig_argv
    return [sys.executable, *argv[1 : argv.index("--worker") if "--worker" in argv else None]]


def forked_ahead(code: int | None) -> tuple[int | None, tuple[str, ...]]:
    """Fork the first spare, in the process that is about to become the guardian.

    Return the guardian's options that say so; in the spare, once it is to begin as the worker, the descriptor of its
    channel. ``code`` is ``guardian.spare.installed()`` from before the first import.
    """
    if code is None:  # files are being replaced right now
        return None, ()
    ours, theirs = channel_pair()
    try:
        pid = os.fork()
    except OSError:  # the machine is short of processes: the guardian executes the first worker
        return None, ()
    if pid:
        theirs.close()
        os.set_inheritable(ours.fileno(), True)
        return None, ("--spare", f"{ours.detach()},{pid},{code}")
    fd = theirs.detach()
    confine(fd)
    _reset_signals()
    starting.fill_standard_descriptors(keep_input=False)
    starting.raise_file_limit()
    return with_spare(*_waited(fd)), ()


def _reset_signals() -> None:
    """Treat signals as an executed Python does, whatever the one that started this process has ignored."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTOU}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
        channel_fd, spare_fd = _waited(spare_fd, told=False)
        os.setpgid(0, 0)


def _waited(fd: int, told: bool = True) -> tuple[int, int]:
    """Wait at ``fd`` until this spare is to begin; return it, and the descriptor for its own spare.

    Exits with the guardian. ``told``: the guardian knows its pid.
    """
    _show("--spare")
    channel = Channel.of(fd)
    if not told:
        channel.post(messages.spare(os.getpid()))
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    try:
        while True:
            poller.poll()
            received = channel.receive()
            if received is not None and shapes.check(protocol.SPARE, received[0]):
                _show("--worker")
                return channel.detach(), received[1][0]
    except (EOFError, ValueError, IndexError):
        os._exit(DONE)


def _show(role: str) -> None:
    """Show in ``ps`` and ``pgrep -f`` what this process is. A kernel without checkpoint and restore shows no change."""
    words = b"".join(os.fsencode(word) + b"\0" for word in (*own_command(), role))
    text = ctypes.create_string_buffer(words, len(words))
    libc, start = ctypes.CDLL(None), ctypes.addressof(text)
    libc.sbrk.restype = ctypes.c_void_p
    fields = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()
    own: dict[int | str, int] = {"brk": libc.sbrk(0), "arg_start": start, "arg_end": start + len(words)}
    addresses = [own[field] if field in own else int(fields[int(field) - 3]) for field in MEMORY_MAP]
    mapping = struct.pack("@11QQII", *addresses, 0, 0, NO_FILE)
    if libc.prctl(PR_SET_MM, PR_SET_MM_MAP, mapping, len(mapping), 0) == 0:
        _shown[:] = [text]
