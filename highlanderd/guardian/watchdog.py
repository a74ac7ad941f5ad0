"""What the service manager hears of the daemon (sd_notify(3)): from its main process, the only one it listens to.

The words are the worker's. The watchdog is the guardian's own: it is fed with each cycle that a worker completes.
"""

from __future__ import annotations

from highlanderd.system.stdlib import socket

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Mapping

WATCHED = 0.7
"""Of a lease: how often a worker that works completes a cycle at the very least."""
OVERDUE = 0.08
"""Of a lease: after the deadline of a tree that nobody has begun to kill. Deadlines are at 9/10 of a lease, others may
lead after 1.05, and systemd's timers are up to 0.25 s late: a daemon that is frozen as a whole is killed in between."""
SOONEST = 0.1
"""Seconds: we are awake, so keepers may be waking up as well, and kill by themselves."""


class ServiceNotifier:
    """The way to the service manager; where there is none, nothing is said."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        patience = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._patience = int(patience) if ours and patience.isdecimal() else 0
        """Microseconds of the unit; 0 where no watchdog is wanted. They are never exceeded."""
        self._rhythm = self._patience
        """Microseconds from one sign of life to the next, as far as no deadline comes first."""
        self._owed = self._patience
        """Microseconds within which the service manager expects the next sign of life now."""
        self._unsent: list[bytes] = []

    def tell(self, words: str) -> None:
        """Pass on words, lines of NAME=VALUE, in order: now or, when its queue is full, with the next ones."""
        if not self._address:
            return
        told = words.encode(errors="replace")
        self._unsent = [*(each for each in self._unsent if each != told), told]  # signs of life do not push out others
        try:
            self._send()
        except OSError:
            del self._unsent[:-MOST_UNSENT]

    def _send(self) -> None:
        way = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            while self._unsent:
                way.sendto(self._unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
                del self._unsent[0]
        finally:
            way.close()

    def cycled(self, lease: float, left: float) -> None:
        """Show that a worker has completed a cycle: the next is due within 7/10 of ``lease`` seconds.

        ``left``: seconds until a tree is overdue; frozen until then, the daemon has to be killed with it.
        """
        self._rhythm = min(self._patience, int(WATCHED * lease * 1e6))
        self._owe(left)

    def spare(self, left: float) -> None:
        """Give the next worker the unit's own time: there is none now, or it ends and shows no more cycles."""
        if self._rhythm != self._patience:
            self._rhythm = self._patience
            self._owe(left)

    @property
    def pressed(self) -> bool:
        """Whether a deadline comes before the next sign of life would be due. Once it is met, say so: ``relieve()``."""
        return self._owed < self._rhythm

    def relieve(self, left: float) -> None:
        """Owe the next sign of life later, when there is more time left than there was."""
        if self._within(left) > self._owed:
            self._owe(left)

    def _within(self, left: float) -> int:
        return int(min(max(left, SOONEST) * 1e6, self._rhythm))

    def _owe(self, left: float) -> None:
        if self._patience:
            within = self._within(left)
            self.tell("WATCHDOG=1" if within == self._owed else f"WATCHDOG_USEC={within}\nWATCHDOG=1")
            self._owed = within


MOST_UNSENT = 16  # words that are kept for a service manager that is restarting
