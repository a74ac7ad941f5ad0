"""What the fork server forks: a process that waits for the guardian's order, and becomes a keeper or a logger.

Server, guardian and forks are of one version, so an order is not checked. It is the first message on the guardian's
channel to the process; a keeper has that channel from then on.
"""

from __future__ import annotations

import marshal
import os
import select

from highlanderd.guardian.channel import Channel
from highlanderd.guardian.keeper import Keeper
from highlanderd.guardian.logger import become_logger
from highlanderd.system import linux

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message
    from highlanderd.guardian.deadline_notes import DeadlineNotes
    from highlanderd.guardian.launch import Spec


class Forked:
    """A process that has no order yet. ``nofile`` are the limits on open files that children get."""

    __slots__ = ("_channel", "_nofile", "_notes", "_signals")

    def __init__(self, fd: int, signals: linux.Signals, notes: DeadlineNotes, nofile: tuple[int, int]) -> None:
        """``fd`` is its end of the guardian's channel; nothing else that only its parent needs stays open."""
        linux.close_all_but(0, 1, 2, signals.fileno(), notes.fileno(), fd)
        self._channel, self._signals, self._notes, self._nofile = Channel.of(fd), signals, notes, nofile

    def run(self) -> int:
        """Carry out the order that comes, or end without one; return the exit code."""
        linux.set_name("forked")
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        poller.register(self._signals, select.POLLIN)
        received = None
        while received is None:
            if self._channel.fileno() not in dict(poller.poll()):
                self._signals.take()  # meant for the whole daemon: a logger would take them as its own later
                continue
            try:
                received = self._channel.receive()
            except EOFError:
                return 0
        order, (request, *fds) = received
        spec: Spec = marshal.loads(linux.read_whole(request))  # noqa: S302 - the guardian wrote it
        os.close(request)
        return HANDLERS[order["is"]](self, order, spec, fds)

    def _keep(self, order: Message, spec: Spec, fds: list[int]) -> int:
        foreground = spec.get("foreground")
        if foreground is None or foreground["group"] is None:
            os.setsid()
        else:
            os.setpgid(0, 0)  # Ctrl-C is for the child alone
        linux.become_subreaper()
        linux.set_name(f"keep {spec['program']}")
        if foreground is None:
            os.dup2(0, 1)

        def note(deadline: float, memo: bytes) -> None:
            self._notes.write(order["place"], deadline, memo)

        worker, logged = Channel.of(fds[0]), dict(zip(order["logged"], fds[1:], strict=True))
        directory, gated = order["directory"], order["gated"]
        keeper = Keeper(spec, self._signals, self._channel, worker, directory, logged, gated=gated, note=note)
        return keeper.run(self._nofile)

    def _log(self, order: Message, spec: Spec, fds: list[int]) -> int:
        report, *reads = fds
        pipes = dict(zip(order["pipes"], reads, strict=True))
        return become_logger(spec, pipes, report, self._signals, again=order["again"])


HANDLERS = {"keeper": Forked._keep, "logger": Forked._log}
