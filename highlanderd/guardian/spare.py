"""The spare: a process that has imported all that a worker needs, and waits to become the next one.

To import it all takes half a second and more on a busy machine, and leases run meanwhile. So each worker forks a spare
before it begins to work, and shares its memory with it. The first spare is forked by the process that then becomes the
guardian: it had to import most of it in order to check the configuration. When the worker dies, its spare becomes a
child of the guardian (a subreaper), begins at once, and forks the next spare. A spare is not used when the installed
code has changed since it was imported, or when its predecessor has failed to begin: a new process is then executed.
A renewal makes a spare of the installed code, by executing it below the worker.
"""

from __future__ import annotations

import os

from highlanderd.guardian import messages, protocol, shapes
from highlanderd.guardian.channel import Channel, channel_pair
from highlanderd.system import linux, proctree
from highlanderd.system.stdlib import signal

DESCRIPTOR = "HIGHLANDER_SPARE_FD"
"""The environment variable that gives a worker the channel of the spare that it is to fork, and a rehearsal its own
channel; see ``worker/spare.py``."""
START_WITHIN = 30.0  # seconds until a worker's first ping: imports from a cold disk, a large configuration
BEGIN_WITHIN = 10.0  # seconds until that of one that has imported all
PACKAGE = os.path.abspath(__file__).rsplit("/", 2)[0]


class Spare:
    """What the guardian knows of one spare: the channel that will be the next worker's, and the spare's pid.

    ``code`` is what ``installed()`` returned when the spare's code was imported.
    """

    def __init__(self, code: int | None, ours: Channel, theirs: Channel | None, pid: int | None = None) -> None:
        self._code, self._ours, self._theirs, self._pid = code, ours, theirs, pid
        self._living, self.within = "SR", BEGIN_WITHIN
        """States of its process in which it can begin, and how long that may take."""

    @classmethod
    def to_fork(cls, code: int | None) -> Spare:
        """Return one that a worker is to fork. Raises OSError when no channel can be made."""
        return cls(code, *channel_pair())

    @classmethod
    def forked_before(cls, words: str) -> Spare:
        """Return the one that this process forked before it became the guardian: ``FD,PID,CODE``."""
        fd, pid, code = map(int, words.split(","))
        os.set_inheritable(fd, False)
        spare = cls(code, Channel.of(fd), None, pid)
        spare._living, spare.within = "SRD", START_WITHIN  # it still imports: D is a wait for the disk
        return spare

    def lend(self) -> int:
        """Return the descriptor of its end of the channel, for the process that forks it. Call ``lent()`` then."""
        return -1 if self._theirs is None else self._theirs.fileno()

    def lent(self) -> None:
        """Close the guardian's copy of that descriptor, so that the spare's death is seen."""
        if self._theirs is not None:
            self._theirs.close()
            self._theirs = None

    @property
    def pid(self) -> int | None:
        """Its pid; None while it is not forked, and when it is dead."""
        try:
            while self._ours.fileno() >= 0 and (received := self._ours.receive()) is not None:
                if shapes.check(protocol.GUARDIAN, received[0]):
                    self._pid = received[0]["pid"]
        except (EOFError, ValueError):
            self._pid = None
        return self._pid

    def begins(self) -> tuple[int, Channel, Spare] | None:
        """Have it begin as the worker; return its pid, its channel and its own spare. None when it cannot be used.

        Raises OSError when no channel can be made.
        """
        pid = self.pid
        if pid is None or proctree.parent(pid) != os.getpid() or proctree.state(pid) not in self._living:
            return None
        if self._code is None or installed() != self._code:
            return None
        following = Spare.to_fork(self._code)
        if not self._ours.send(messages.begin(), [following.lend()]):
            following.dismiss()
            return None
        following.lent()
        return pid, self._ours, following

    def dismiss(self, worker: int | None = None) -> None:
        """Have it end. It does when its channel closes, but not while it is stopped, so it is killed as well.

        Only a child of the guardian's or of ``worker`` is killed: any other process with its pid is not the spare.
        """
        pid = self.pid
        self.lent()
        self._ours.close()
        if pid is not None and proctree.parent(pid) in (os.getpid(), worker):
            linux.send(pid, signal.SIGKILL)  # the worker may have reaped it by now


def installed() -> int | None:
    """Return a number that changes when files of this package do, or when packages in the same directory come or go.

    None while it cannot be told, because files are being replaced.
    """
    try:
        facts = [os.stat(os.path.dirname(PACKAGE)).st_mtime_ns]
        for directory, below, files in os.walk(PACKAGE):
            below[:] = sorted(set(below) - {"__pycache__"})
            for name in sorted(files):
                found = os.stat(f"{directory}/{name}")
                facts += [found.st_mtime_ns, found.st_size, found.st_ino]
    except OSError:
        return None
    return hash(tuple(facts))
