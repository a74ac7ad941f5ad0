"""What the service manager hears of the daemon (sd_notify(3)): from its main process, the only one it listens to.

The words are the worker's. The watchdog is the guardian's own: it is fed with each cycle that a worker completes.
"""

from __future__ import annotations

from highlanderd.lean import socket

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Mapping

WATCHED = 0.7
"""Of a lease. The last renewal is up to 2/10 older than the last cycle, and others wait for 1.05 of a lease from it: a
daemon that is frozen as a whole is killed, its children with it, before anybody else can lead."""


class Service:
    """The way to the service manager; where there is none, nothing is said."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        patience = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._patience = int(patience) if ours and patience.isdecimal() else 0
        """Microseconds of the unit; 0 where no watchdog is wanted. They are never exceeded."""
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

    def cycled(self, lease: float) -> None:
        """Show that a worker has completed a cycle: from now on the next is due within 7/10 of ``lease`` seconds."""
        self._owe(min(self._patience, int(WATCHED * lease * 1e6)))

    def spare(self) -> None:
        """Give the next worker the unit's own time: there is none now, or it ends and shows no more cycles."""
        if self._owed != self._patience:
            self._owe(self._patience)

    def _owe(self, within: int) -> None:
        if self._patience:
            self.tell("WATCHDOG=1" if within == self._owed else f"WATCHDOG_USEC={within}\nWATCHDOG=1")
            self._owed = within


MOST_UNSENT = 16  # words that are kept for a service manager that is restarting
