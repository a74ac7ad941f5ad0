"""The worker as the guardian sees it: one process at a time, its signs of life, and when to start the next.

A worker is started only after the last one was reaped: two would give orders to the same children.
"""

from __future__ import annotations

import os

from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.guardian.pauses import Pauses
from highlanderd.guardian.spare import DESCRIPTOR, START_WITHIN, Spare, installed
from highlanderd.system import linux, proctree
from highlanderd.system.stdlib import signal, socket

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from highlanderd.guardian.channel import Message

FIRST_PAUSE = 0.1  # seconds; the first restart comes at once
GOOD_LIFE = 10.0  # seconds of life after which a death is a first one again
KEPT = frozenset({0, 1, 2, 6, 7, 10, 19, 24})
"""The capabilities that a worker of root's keeps (linux/capability.h): CHOWN for its socket's group; DAC_OVERRIDE and
DAC_READ_SEARCH for secrets and state that belong to others; SETGID and SETUID to look at paths as a program's user;
NET_BIND_SERVICE for a low port; SYS_PTRACE to see children's processes where /proc hides those of others (hidepid);
SYS_RESOURCE for the last blocks of a full disk. The guardian starts the children."""
LOOK_AGAIN = 0.5  # seconds after SIGKILL until it is looked at again; it takes milliseconds
MOST_LISTENERS = 4
END_WITHIN = 2.0  # seconds from ``done``, or from the end of its channel, to its own end


def confine(*kept: int) -> None:
    """Make this process what a worker has to be before it reads anything; of its descriptors it keeps these."""
    os.setpgid(0, 0)  # else Ctrl-C would reach it twice, and Ctrl-Z look like a freeze
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it writes its log from the background
    linux.close_all_but(0, 1, 2, *kept)
    linux.unblock_signals()
    linux.bound_capabilities(KEPT)
    linux.forbid_new_privileges()


class Worker:
    """At most one worker process, and the rhythm in which it is replaced. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, argv: list[str], node: str, spare: Spare | None = None) -> None:
        self._argv, self._node = argv, node
        self.pid: int | None = None
        self.channel: Channel | None = None
        self.lease: float | None = None
        """As its last ping had it; None until the first one."""
        self.next_start = 0.0
        self.failed_starts = 0
        """How many workers in a row have ended before their first ping."""
        self._pauses = Pauses(FIRST_PAUSE)
        self._spare = spare
        """What the present worker has forked or executed, or will fork; the next worker while none runs."""
        self._since = 0.0
        self._kill_at = 0.0
        """When to kill it, unless a sign of life comes first."""
        self._killed = False
        self.speaks = True
        """Whether the service's status is the present worker's: not from its end to the first words of the next one."""
        self.stopped = False
        """Whether it was stopped by a signal when it got SIGKILL: no program has held it up."""
        self.lingering: set[int] = set()
        """Former workers that are dead but for threads which a disk that hangs keeps from dying: not reaped yet."""
        self._listeners: list[int] = []
        self._look_at = 0.0

    def start(self, now: float) -> None:
        """Have the spare begin, or execute a new process. Raises OSError when there is no room for one."""
        spare = None if self.failed_starts else self._spare
        within = START_WITHIN
        if spare is not None and (begun := spare.begins()) is not None:
            self.pid, self.channel, self._spare = begun
            within = spare.within
        else:
            self.dismiss_spare()
            self._execute()
        self.lease, self._killed, self.stopped = None, False, False
        self._since, self._kill_at = now, now + within

    def _execute(self) -> None:
        """Fork and execute it with its end of a new channel, and with its spare's."""
        self._spare = spare = Spare.to_fork(installed())
        self.channel, theirs = channel_pair()
        try:
            self.pid = linux.fork(lambda: self._become(theirs.fileno(), spare.lend()))
        except OSError:
            self.hang_up()
            self.dismiss_spare()
            raise
        finally:
            theirs.close()
        spare.lent()

    def _become(self, fd: int, spare: int) -> int:
        confine(fd, spare)
        os.set_inheritable(fd, True)
        os.set_inheritable(spare, True)
        environment = {**os.environ, DESCRIPTOR: str(spare)}
        os.execve(self._argv[0], [*self._argv, "--worker", str(fd)], environment)  # noqa: S606 - no shell is wanted

    @property
    def spare_pid(self) -> int | None:
        """The pid of the spare, once it is forked."""
        return None if self._spare is None else self._spare.pid

    def dismiss_spare(self) -> None:
        """Have the spare end: it is of no use, or the daemon ends."""
        if self._spare is not None:
            self._spare.dismiss(self.pid)
            self._spare = None

    def replace_spare(self, code: int, fd: int, pid: int) -> None:
        """Take a process of this code, which the worker has executed, for the spare; ``fd`` is its channel."""
        self.dismiss_spare()
        self._spare = Spare(code, Channel.of(fd), None, pid)

    def pinged(self, lease: float, now: float) -> None:
        """Take in a sign of life. The next one is due within 3/10 of ``lease`` seconds."""
        self.lease, self.failed_starts = lease, 0
        self._kill_at = now + 0.3 * lease

    def renew_time(self, now: float) -> None:
        """Renew the time for its next sign of life: the guardian was stopped itself, so perhaps the worker was, too."""
        self._kill_at = max(self._kill_at, now + 0.3 * (self.lease or 0.0))

    def judge_at(self) -> float:
        """Return when to kill it, or when to start the next one."""
        if self.pid is None:
            return self.next_start
        return self._look_at if self._killed else self._kill_at

    def end_soon(self, now: float) -> None:
        """Expect its end, and no more signs of life: it is done, or its channel is closed."""
        self._kill_at = now + END_WITHIN

    def kill(self) -> None:
        """Kill it; the rest follows when it is reaped."""
        if self.pid is not None and not self._killed:
            self._killed, self.stopped = True, proctree.state(self.pid) in ("T", "t")
            os.kill(self.pid, signal.SIGKILL)
            self._look_at = linux.boottime() + LOOK_AGAIN

    @property
    def killed(self) -> bool:
        """Whether it got SIGKILL from the guardian."""
        return self._killed

    def lingers(self, now: float) -> bool:
        """Return whether it is dead but for threads that do not die. It then counts as dead."""
        self._look_at = now + LOOK_AGAIN
        if self.pid is None or proctree.state(self.pid) != "Z":
            return False
        self.lingering.add(self.pid)
        return True

    def lend(self, listener: int) -> None:
        """Hold a listening socket of the worker's, which is to be shut when the worker counts as dead."""
        if len(self._listeners) < MOST_LISTENERS:
            self._listeners.append(listener)
        else:
            os.close(listener)

    def _shut_listeners(self) -> None:
        """Shut what a thread that does not die would keep open: the next worker listens there."""
        for fd in self._listeners:
            with_fd = socket.socket(fileno=fd)
            try:
                with_fd.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the worker has shut it
            finally:
                with_fd.close()
        self._listeners = []

    def reaped(self) -> None:
        """Take in that it is gone. Its channel may still hold what it has sent."""
        self.pid, self.speaks = None, False

    def not_started(self, now: float) -> None:
        """Take in that none could be started, and plan the next one."""
        self.failed_starts += 1
        self._plan(now)

    def ended(self, now: float, *, gave_way: bool) -> None:
        """Take in its end, once everything that it has sent is read, and plan the next one.

        One that gave way to the next one has not failed, however often it does: leases run meanwhile.
        """
        self.hang_up()
        self._shut_listeners()
        self.failed_starts += self.lease is None
        if self.lease is not None and (gave_way or now - self._since >= GOOD_LIFE):
            self._pauses = Pauses(FIRST_PAUSE)
        self._plan(now)

    def _plan(self, now: float) -> None:
        self.next_start = now + self._pauses.next()

    def send(self, message: Message, *fds: int) -> None:
        """Post a message, or drop it while no worker runs. ``fds`` are closed in any case."""
        if self.channel is not None:
            self.channel.post(message, fds)
        else:
            for fd in fds:
                os.close(fd)

    def log(self, text: str, priority: str = linux.WARNING) -> None:
        """Write a line about worker or keepers to stderr, for the operator. The journal knows whose it is."""
        linux.log(text if linux.on_journal(2, os.environ) else f"highlanderd on {self._node}: {text}", priority)

    def hang_up(self) -> None:
        """Close the channel, if there is one."""
        if self.channel is not None:
            self.channel.close()
        self.channel = None
