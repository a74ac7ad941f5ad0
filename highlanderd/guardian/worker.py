"""The guardian's side of the worker: one process at a time, its sign of life, and when to start the next.

A worker is started only after the last one was reaped: two would command the same children.
"""

from __future__ import annotations

import os

from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.system import linux
from highlanderd.system.stdlib import signal

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

START_WITHIN = 30.0  # seconds from its fork to its first ping: imports from a cold disk, a large configuration
FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 5.0  # seconds; the first restart comes at once
GOOD_LIFE = 10.0  # seconds of life after which a death is a first one again
END_WITHIN = 2.0  # seconds from its "done", or from the end of its channel, to its own end


class Worker:
    """At most one worker process, and the rhythm in which it is replaced. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, argv: list[str], node: str) -> None:
        self._argv, self._node = argv, node
        self.pid: int | None = None
        self.channel: Channel | None = None
        self.lease: float | None = None
        """As told with its last ping; None until it is ready."""
        self.next_start = 0.0
        self.failed_starts = 0
        """How many in a row have ended before they were ready."""
        self._backoff = 0.0
        self._since = 0.0
        self._owed_by = 0.0
        self._condemned = False

    def start(self, now: float) -> None:
        """Fork and execute it with its end of a new channel. Raises OSError when there is no room for a process."""
        self.lease, self._condemned = None, False
        self._since, self._owed_by = now, now + START_WITHIN
        self.channel, theirs = channel_pair()
        try:
            self.pid = linux.fork(lambda: self._become(theirs.fileno()))
        except OSError:
            self.hang_up()
            raise
        finally:
            theirs.close()

    def _become(self, fd: int) -> int:
        os.setpgid(0, 0)  # else Ctrl-C would reach it twice, and Ctrl-Z look like a freeze
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it writes its log from the background
        linux.close_all_but(0, 1, 2, fd)
        os.set_inheritable(fd, True)
        linux.unblock_signals()
        os.execv(self._argv[0], [*self._argv, "--worker", str(fd)])  # noqa: S606 - no shell is wanted

    def pinged(self, lease: float, now: float) -> None:
        """Take a sign of life; the next is owed within 3/10 of ``lease`` seconds."""
        self.lease, self.failed_starts = lease, 0
        self._owed_by = now + 0.3 * lease

    def spare(self, now: float) -> None:
        """Give it the whole time again: the guardian was asleep itself, so the worker may have been too."""
        self._owed_by = max(self._owed_by, now + 0.3 * (self.lease or 0.0))

    def due(self) -> float:
        """When to judge it next."""
        if self.pid is None:
            return self.next_start
        return linux.NEVER if self._condemned else self._owed_by

    def end_soon(self, now: float) -> None:
        """It is done, or cannot talk any more: from now on it owes its end, and no sign of life."""
        self._owed_by = now + END_WITHIN

    def kill(self) -> None:
        """Kill it, frozen or not; reaping tells the rest."""
        if self.pid is not None and not self._condemned:
            self._condemned = True
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, now: float) -> None:
        """It was reaped: plan the next one."""
        self.pid = None
        self.hang_up()
        self.failed_starts += self.lease is None
        if self.lease is not None and now - self._since >= GOOD_LIFE:
            self._backoff = 0.0
        self.plan(now)

    def plan(self, now: float) -> None:
        """Plan the next start, each time later than the last."""
        self.next_start = now + self._backoff
        self._backoff = min(max(2 * self._backoff, FIRST_BACKOFF), LONGEST_BACKOFF)

    def tell(self, message: Message, *fds: int) -> None:
        """Post a message; ``fds`` are closed once sent, or when there is nobody to send them to."""
        if self.channel is not None:
            self.channel.post(message, fds)
        else:
            for fd in fds:
                os.close(fd)

    def say(self, text: str) -> None:
        """Say to the operator what the worker cannot."""
        linux.say(f"highlanderd on {self._node}: {text}")

    def hang_up(self) -> None:
        """Close the channel, if there is one."""
        if self.channel is not None:
            self.channel.close()
        self.channel = None
