"""A worker's spare: the process that it forks before it begins to work, and that becomes the next worker.

``guardian/spare.py`` says why. Both share the memory of all that was imported. The spare of a renewal is executed: it
is a rehearsal (``rehearsal.py``) that has loaded everything.
"""

from __future__ import annotations

import gc
import itertools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from highlanderd.errors import DONE
from highlanderd.guardian import messages, protocol, shapes, starting
from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.guardian.worker import confine
from highlanderd.listeners import library
from highlanderd.system import command_line, linux

IMPORTED_AFTER: Final = 2.0
"""Seconds after which the first spare imports what its worker has not imported yet: the programs have begun by then."""


def own_command() -> list[str]:
    """Return the command that started this daemon, without what makes a process a worker or a rehearsal.

    The guardian executes it again for a worker that is not a spare.
    """
    argv = sys.orig_argv
    own = itertools.takewhile(lambda word: word not in ("--worker", "--check"), argv[1:])
    return [sys.executable, *own]


def forked_ahead(code: int | None, prepare: Callable[[], None]) -> tuple[int | None, tuple[str, ...]]:
    """Fork the first spare, in the process that is about to become the guardian. The spare calls ``prepare``.

    Return the guardian's options that say so; in the spare, once it is to begin as the worker, the descriptor of its
    channel. ``code`` is ``guardian.spare.installed()`` from before the first import.
    """
    if code is None:  # files are being replaced right now
        return None, ()
    ours, theirs = channel_pair()
    pid = _forked()
    if pid is None:  # the guardian executes the first worker
        return None, ()
    if pid:
        theirs.close()
        os.set_inheritable(ours.fileno(), True)
        return None, ("--spare", f"{ours.detach()},{pid},{code}")
    ours.detach()  # or its end would close whatever has that number by then
    confine(theirs.fileno())
    _reset_signals()
    starting.fill_standard_descriptors(keep_input=False)
    starting.raise_file_limit()
    prepare()
    gc.freeze()
    return with_spare(*_waited(theirs)), ()


def load_while_wanted(place: str, handover_fd: int) -> None:
    """Confine this process, and have it end with the worker that has executed it: while it loads, it might hang.

    ``place`` is that of ``executed_ahead()``, which lets it outlive the worker.
    """
    channel_fd, log_fd = map(int, place.split(","))
    confine(channel_fd, log_fd, handover_fd)
    for fd in (channel_fd, log_fd, handover_fd):
        os.set_inheritable(fd, False)
    linux.die_with_parent()
    poller = select.poll()
    poller.register(channel_fd, 0)
    if poller.poll(0):  # the worker was dead before
        os._exit(DONE)


def executed_ahead(place: str) -> int:
    """Wait as a spare of the installed code, in a process that loads it; return its channel's descriptor in the worker.

    ``place`` is ``CHANNEL,LOG``: the descriptors of the channel, and of the log. Its standard error is the log once it
    has loaded everything; who has ordered the renewal reads what it says before.
    """
    channel_fd, log_fd = map(int, place.split(","))
    library.bring()
    gc.freeze()
    sys.stderr.flush()
    os.dup2(log_fd, sys.stderr.fileno())
    os.close(log_fd)
    linux.outlive_parent()
    channel = Channel.of(channel_fd)
    channel.post(messages.loaded(os.getpid()))
    return with_spare(*_waited(channel))


def _reset_signals() -> None:
    """Treat signals as an executed Python does, whatever the one that started this process has ignored."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTOU}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def with_spare(channel_fd: int, spare_fd: int) -> int:
    """Fork the spare, which waits at ``spare_fd``, and return in the worker: the descriptor of its channel.

    A spare returns, too, once it is to begin: as the next worker, with a spare of its own. It ends with the guardian.
    Where none can be forked, the guardian executes the next worker. Must be called before a loop has begun.
    """
    while True:
        spare = _forked()
        if spare != 0:
            os.close(spare_fd)
            return channel_fd
        os.close(channel_fd)
        channel = Channel.of(spare_fd)
        channel.post(messages.spare(os.getpid()))
        channel_fd, spare_fd = _waited(channel)
        os.setpgid(0, 0)


def _forked() -> int | None:
    """Fork, and return as ``os.fork`` does; None when the machine is short of processes, or while another thread runs.

    Such a thread is a question to the user database that has no answer yet. It may hold a lock, which stays held in a
    fork: that could never ask again.
    """
    try:
        return None if threading.active_count() > 1 else os.fork()
    except OSError:
        return None


def _waited(channel: Channel) -> tuple[int, int]:
    """Wait until this spare is to begin; return the descriptors of its channel and for its own spare.

    Exits when the other end of the channel is closed: it is not needed, or the guardian is dead.
    """
    command_line.show([*own_command(), "--spare"])
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    try:
        while True:
            if not poller.poll(None if library.imported() else 1000 * IMPORTED_AFTER):
                library.bring()
                gc.freeze()
                continue
            received = channel.receive()
            if received is not None and shapes.check(protocol.SPARE, received[0]):
                command_line.show([*own_command(), "--worker"])
                return channel.detach(), received[1][0]
    except (EOFError, ValueError, IndexError, ImportError):
        os._exit(DONE)
