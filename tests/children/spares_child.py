"""Stands for a guardian with its first two workers: each writes into its channel, and the second one follows the first.

Prints the pids of both as they arrived, one a line.
"""

from __future__ import annotations

import os
import select
import signal

from highlanderd.guardian import messages
from highlanderd.guardian.channel import Channel
from highlanderd.guardian.spare import Spare, installed
from highlanderd.system import linux
from highlanderd.worker.spare import forked_ahead


def work(channel: Channel) -> None:
    """Be a worker that says who it is."""
    channel.post(messages.spare(os.getpid()))
    signal.pause()


def received(channel: Channel) -> int:
    """Return the pid that the worker has written."""
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLIN)
    while True:
        poller.poll()
        if (found := channel.receive()) is not None:
            return int(found[0]["pid"])


def forked(spare: Spare) -> tuple[int, Channel, Spare]:
    """Have the spare begin once it was forked."""
    while spare.pid is None:
        select.select([], [], [], 0.01)
    begun = spare.begins()
    assert begun is not None
    return begun


def guard(spare: Spare) -> None:
    """Have two workers begin, one after the other."""
    linux.become_subreaper()
    for _ in range(2):
        pid, channel, spare = forked(spare)
        print(received(channel), flush=True)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        channel.close()
    spare.dismiss()


if __name__ == "__main__":
    descriptor, options = forked_ahead(installed(), lambda: None)
    if descriptor is None:
        guard(Spare.forked_before(options[1]))
    else:
        work(Channel.of(descriptor))
