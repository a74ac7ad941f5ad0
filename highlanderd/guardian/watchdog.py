"""Messages to the service manager (sd_notify(3)), which accepts them from the main process only: the guardian.

The worker writes them. The watchdog is the guardian's own: each cycle that a worker completes is a sign of life.
"""

from __future__ import annotations

from highlanderd.system.stdlib import socket

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Mapping

WATCHED = 0.7
"""Of a lease: the longest time between two cycles of a worker that is not frozen."""
OVERDUE = 0.08
"""Of a lease: after the deadline of a tree that no process has begun to kill. Deadlines are at 9/10 of a lease,
others may lead after 1.05, and systemd's timers are up to 0.25 s late: a daemon that is frozen as a whole is
killed in between."""
SOONEST = 0.1
"""Seconds: this process runs again, so keepers perhaps do, too, and kill by themselves."""


class ServiceNotifier:
    """The socket of the service manager; where there is none, nothing is sent."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        patience = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._patience = int(patience) if ours and patience.isdecimal() else 0
        """Microseconds that the unit allows; 0 where no watchdog is wanted."""
        self._rhythm = self._patience
        """Microseconds from one sign of life to the next, unless a deadline comes first."""
        self._owed = self._patience
        """Microseconds within which the service manager expects the next sign of life."""
        self._shown = ""
        """The line that the service's status shows."""
        self._unsent: list[bytes] = []

    def send(self, words: str) -> None:
        """Send lines of NAME=VALUE, in order: now or, when the queue is full, together with the next ones."""
        if not self._address:
            return
        message = words.encode(errors="replace")
        if words.startswith("STATUS="):
            self._shown = words.removeprefix("STATUS=")
        self._unsent = [*(each for each in self._unsent if each != message), message]  # no second sign of life
        try:
            self._send_all()
        except OSError:
            del self._unsent[:-MOST_UNSENT]

    def show(self, line: str) -> None:
        """Show a line in the service's status; not twice in a row."""
        if line != self._shown:
            self.send(f"STATUS={line}")

    def _send_all(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            while self._unsent:
                connection.sendto(self._unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
                del self._unsent[0]
        finally:
            connection.close()

    @property
    def watches(self) -> bool:
        """Whether it wants signs of life."""
        return self._patience > 0

    def cycled(self, lease: float, left: float) -> None:
        """Send a sign of life: a worker has completed a cycle, and the next is due within 7/10 of ``lease`` seconds.

        ``left``: seconds until a tree is overdue. If the daemon is frozen until then, it has to be killed.
        """
        self._rhythm = min(self._patience, int(WATCHED * lease * 1e6))
        self._owe(left)

    def expect_no_cycles(self, left: float) -> None:
        """Allow the unit's own time until the next cycle: no worker runs, or it is about to end."""
        if self._rhythm != self._patience:
            self._rhythm = self._patience
            self._owe(left)

    @property
    def shortened(self) -> bool:
        """Whether less time than usual was promised, for a deadline comes first. ``lengthen()`` undoes that."""
        return self._owed < self._rhythm

    def lengthen(self, left: float) -> None:
        """Promise the next sign of life later, if more time is left than was promised."""
        if self._within(left) > self._owed:
            self._owe(left)

    def _within(self, left: float) -> int:
        return int(min(max(left, SOONEST) * 1e6, self._rhythm))

    def _owe(self, left: float) -> None:
        if self._patience:
            within = self._within(left)
            self.send("WATCHDOG=1" if within == self._owed else f"WATCHDOG_USEC={within}\nWATCHDOG=1")
            self._owed = within


MOST_UNSENT = 16  # messages that are kept for a service manager that is restarting
