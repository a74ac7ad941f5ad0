"""The process that forks keepers and loggers for the guardian, so that each of them has little memory of its own.

A guardian grows with each keeper that it has, and goes on writing to that memory. What is forked from it then keeps all
of it as it was at the fork, as memory of its own. So the guardian forks a process at its start that does nothing else,
and that one forks keepers and loggers: they share what it has.

What it forks is a child of the guardian's (CLONE_PARENT): the guardian reaps it, and finds it on the list of its
children. It has an order only when the guardian knows its pid; see ``forked.py``.

The guardian waits for it as for a fork of its own, but not for long. Where the server is stopped or dead, or the system
refuses this way, the guardian forks the process itself. A server that has not answered is killed, and another one is
begun with the next order. That shares with all its forks what the guardian has by then.
"""

from __future__ import annotations

import errno
import marshal
import os
import select

from highlanderd.guardian import messages
from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.guardian.forked import Forked
from highlanderd.guardian.waiting_fork import WaitingFork
from highlanderd.system import linux
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Sequence

    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.deadline_notes import DeadlineNotes
    from highlanderd.guardian.launch import Spec

SHORTEST_WAIT, WAIT = 0.05, 0.02  # seconds, share of a lease: for an answer, which takes a thousandth of a second


class ForkServer:
    """The server as the guardian sees it: at most one process. What it forks reads ``signals`` and writes ``notes``.

    ``nofile`` are the limits on open files that children get.
    """

    def __init__(
        self, signals: linux.Signals, notes: DeadlineNotes, nofile: tuple[int, int], poller: linux.Poller
    ) -> None:
        self.ahead = WaitingFork(self._ask, poller)
        self._signals, self._notes, self._nofile = signals, notes, nofile
        self._pid: int | None = None
        """From its fork until it is reaped."""
        self._channel: Channel | None = None
        self._within = SHORTEST_WAIT

    def follow(self, lease: float) -> None:
        """Wait by a lease of so many seconds from now on: a keeper that is frozen waits for the guardian meanwhile."""
        self._within = max(SHORTEST_WAIT, WAIT * lease)

    def begin(self) -> None:
        """Fork the server, unless one lives. Where there is no room for it, the next fork tries again."""
        if self._pid is not None:
            return
        try:
            ours, theirs = channel_pair()
        except OSError:
            return
        try:
            self._pid = linux.fork(lambda: self._serve(theirs))
            self._channel = ours
        except OSError:
            ours.close()
        finally:
            theirs.close()

    def fork(self, order: Message, spec: Spec, fds: Sequence[int]) -> tuple[int, Channel]:
        """Fork a process and give it its order; return its pid, and the guardian's end of the channel to it.

        ``fds`` stay the caller's. Raises OSError when there is no room for a process.
        """
        request = linux.memfd("request", marshal.dumps(spec))
        try:
            pid, channel = self.ahead.take() or self._ask() or self._fork()
            if not channel.send(order, [request, *fds]):  # without it that process ends
                channel.close()
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        finally:
            os.close(request)
        return pid, channel

    def _fork(self) -> tuple[int, Channel]:
        """Fork a process of the guardian's own. No other has its channel: what was forked too late gets no order."""
        ours, theirs = channel_pair()
        try:
            return linux.fork(lambda: self._become(theirs.fileno())), ours
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    def _ask(self) -> tuple[int, Channel] | None:
        """Have the server fork a process; None where it does not."""
        self.begin()
        ours, theirs = channel_pair()
        pid = self._answer(theirs)
        theirs.close()
        if pid is None:
            ours.close()
            return None
        return pid, ours

    def _answer(self, theirs: Channel) -> int | None:
        """Return the pid of the process that the server has forked, and that owns ``theirs``."""
        if self._channel is None:
            return None
        answer = None
        if self._channel.send(messages.fork(), [theirs.fileno()]):
            poller = select.poll()
            poller.register(self._channel, select.POLLIN)
            poller.poll(1000 * self._within)
            try:
                answer = self._channel.receive()
            except EOFError:
                answer = None
        if answer is None:
            self._end()
        return None if answer is None else answer[0]["pid"]

    def _end(self) -> None:
        """Kill it: it may fork no more. What it has forked too late has no order, and ends."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = None

    def pids(self) -> set[int]:
        """Return its pid, while it has one, and that of the process that it has forked ahead."""
        return self.ahead.pids() | (set() if self._pid is None else {self._pid})

    def reaped(self, pid: int) -> bool:
        """Take in the death of a child of the guardian's. Return whether it was one of these."""
        if pid != self._pid:
            return self.ahead.reaped(pid)
        self._pid = None
        self._hang_up()
        return True

    def _serve(self, channel: Channel) -> int:
        """Be the server, until the guardian is gone."""
        linux.die_with_parent()
        linux.set_name("fork server")
        linux.close_all_but(0, 1, 2, self._signals.fileno(), self._notes.fileno(), channel.fileno())
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        while True:
            poller.poll()
            try:
                received = channel.receive()
            except EOFError:
                return 0
            for fd in received[1] if received else ():
                channel.send(messages.forked(self._fork_sibling(fd)))
                os.close(fd)

    def _fork_sibling(self, fd: int) -> int | None:
        try:
            return linux.fork(lambda: self._become(fd), sibling=True)
        except OSError:
            return None

    def _become(self, fd: int) -> int:
        return Forked(fd, self._signals, self._notes, self._nofile).run()
