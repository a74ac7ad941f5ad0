"""A program's session that shares warm connections while it waits, and has one of its own to lead.

For the machine there is one session all the time. While it shares, its looks go out with those of all others
(``look_batch.py``), and the machine hears what they show. Nothing that takes a lock is asked on a shared connection.
Before a takeover, and before each write whose outcome the machine hears, the session takes a warm connection as its
own, and the machine looks again, on that one. ``Refused`` says so, at once when a connection was free. So each term
begins as it does without sharing: with a look on the connection that is to hold the lock.

A session takes one of its own sooner where a takeover is near: at a hint, and once a leader has been silent for half a
lease. It gives it back when a look shows that another node leads in good time, or when it had no use for it. It closes
one on which it has asked for a lock: the row of a term names the backend that began it, and a program whose lock is
kept from it ends its former backends (``terminate_old``). None of them may be another program's session by then.

What leads has a stake, and shares nothing: a session with a stake that is lost seeks the next one as urgently as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final

from highlanderd.core.events import Detached, Notified, Refused
from highlanderd.core.lease import Lease
from highlanderd.core.schedule import Change
from highlanderd.core.verdict import Claim, Settle
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.fitness import refuse_newer
from highlanderd.postgres.ledger import LedgerView, look
from highlanderd.postgres.lock_connection import Closed, Seeking, Sharing
from highlanderd.postgres.look_batch import Columns, look_together
from highlanderd.postgres.session import Session
from highlanderd.postgres.sql import dialect
from highlanderd.postgres.wire import Wire
from highlanderd.system.linux import boottime

TAKES_OWN: Final = "takes a connection of its own"
WAITS_FOR_OWN: Final = "waits for a connection of its own"


class SharingSession(Session):
    """A session that has a connection of its own only while it leads, or may soon."""

    def __init__(self, *words: Any, **keys: Any) -> None:
        """Make one without a connection, as any session is made."""
        super().__init__(*words, **keys)
        self._warm = self.pool.warm
        self._own_until = 0.0
        """Until when a connection of its own is worth keeping, in CLOCK_BOOTTIME seconds."""
        self._tried: Wire | None = None
        """The latest connection on which a lock was asked for."""

    # -------------------------------------------------------------------------------------------- coming and going

    def _seek(self) -> None:
        if self._lease_end < inf:
            super()._seek()
        else:
            self._warm.join(self)
            self._warm.hurry()

    def note_stake(self, lease_end: float) -> None:
        """Share nothing from the moment on in which a lease hangs on the connection."""
        began, ended = self._lease_end == inf > lease_end, self._lease_end < inf == lease_end
        super().note_stake(lease_end)
        if began:
            self._warm.leave(self)
            self.part(TAKES_OWN)
            if isinstance(self.state, Seeking):
                self._seek()
        elif ended and not isinstance(self.state, Closed):
            self._warm.join(self)

    def close(self) -> None:
        """Leave. A connection of its own ends; what others share does not."""
        self._warm.leave(self)
        super().close()

    def share(self, connection: Connection) -> None:
        """Look through this connection, unless there is one of its own. Posts Attached if there was none."""
        match self.state:
            case Sharing():
                self.state = Sharing(connection)
            case Seeking() if self._lease_end == inf:
                self.pool.forget(self)
                self.state = Sharing(connection)
                self._attach()

    def part(self, why: str) -> None:
        """Post Detached if a connection was shared: there is none any more."""
        if isinstance(self.state, Sharing):
            self.state = Seeking()
            self.post(Detached(f"no session with PostgreSQL: {why}"))

    def deliver(self, connection: Connection) -> None:
        """Use a connection as its own. Posts Attached, or a hint where the machine has its session already."""
        self._keep_own(connection.lease)
        if isinstance(self.state, Sharing):
            self._begin(connection)
            self.post(Notified())
        else:
            super().deliver(connection)

    def keep_alive(self) -> None:
        """Give the connection back if this program had no use for it; else keep it from idling away."""
        own = self.own
        if own is not None and boottime() > max(self._own_until, self._asked + own.lease.answer_within):
            self._give_back()  # what was asked was answered, and the answer was read
        super().keep_alive()

    def _give_back(self) -> None:
        """Share again, if nothing hangs on the connection, nothing is under way on it, and there is one to share."""
        own, shared = self.own, self._warm.shared
        if own is None or shared is None or self.granted or self._lease_end < inf or not own.wire.idle:
            return
        self.state = Sharing(shared)
        if own.wire is self._tried:
            self._warm.forgo(self)
            self.pool.forget(self)
            own.wire.drop("not needed any more")
        else:
            self._former.pop()
            self._warm.take_back(self, own)

    def _keep_own(self, lease: Lease) -> None:
        self._own_until = boottime() + lease.renew_every

    def _take_own(self) -> bool:
        """Return whether there is a connection of its own now: a warm one becomes it, if one is free."""
        if isinstance(self.state, Sharing):
            self._keep_own(self.state.connection.lease)
            if (connection := self._warm.take(self)) is not None:
                self._begin(connection)
        return self.own is not None

    # ----------------------------------------------------------------------------------------------------- looking

    def look(self) -> None:
        """See what the ledger shows, together with others unless a takeover may be near. Posts Looked."""
        if boottime() >= self._own_until:
            self._give_back()  # the machine asks one question at a time: none is under way
        near = boottime() < self._own_until and self._take_own()
        if near or not isinstance(self.state, Sharing):
            self.look_alone()
        elif self.knows(self.number):
            self._looks.join(self)

    def look_alone(self) -> None:
        """Do so by itself; on a shared connection in the words that serve many. Posts Looked."""
        if isinstance(self.state, Sharing):
            look_together([(self, self.number)])
        else:
            super().look_alone()

    def _hinted(self) -> None:
        self._keep_own(self.pool.server.lease)
        super()._hinted()

    def take_look(self, number: int, rows: list[Columns] | None, arrived: float) -> None:
        """Take what was read for this program, whatever it shows."""
        if not isinstance(self.state, Sharing):
            super().take_look(number, rows, arrived)
        elif not self.knows(number):
            return
        elif rows is None:
            self._looks.join(self)  # the connection was lost, and there is another one
        elif not rows:
            self.disconnect("cannot read the ledger", self.state.connection.lease.renew_every)
        else:
            try:
                self._seen(look(rows, self.lock.lock_id), arrived)
            except Exception as error:  # noqa: BLE001 - the ledger may hold anything, and others wait for their answers
                self.cannot_read(error)

    def _seen(self, view: LedgerView, arrived: float) -> None:
        super()._seen(view, arrived)
        row = view.observation.row
        if not self._is_led_elsewhere(view) or row is None:
            return
        if self._is_silent(row, arrived):
            self._expect(view.observation.meta.lease)
        else:
            self._own_until = 0.0
            self._warm.forgo(self)
            self._give_back()

    def _expect(self, lease: Lease) -> None:
        """Have a connection of its own before the leader's lease is over."""
        self._keep_own(lease)
        if isinstance(self.state, Sharing) and self._warm.expect(self) and not self._take_own():
            self._warm.want(self)

    def follow(self, lease: Lease, version: int, compatible_from: int) -> None:
        """Go by what an answer says of the ledger, for all who share. Raises Unfit when this daemon is too old."""
        if isinstance(self.state, Sharing):
            refuse_newer(compatible_from)
            self._warm.follow(lease, min(version, dialect.VERSION))
        else:
            super().follow(lease, version, compatible_from)

    # ------------------------------------------------------------------------------------------------------ asking

    def _owns(self) -> bool:
        """Return whether what follows can be asked. If not, a connection is taken, and Refused has the machine look."""
        if not isinstance(self.state, Sharing):
            if self.own is not None:
                self._keep_own(self.own.lease)
            return True
        pause = self.state.connection.lease.renew_every
        if not self.knows(self.number):
            return False  # meant for a session that was lost: its Detached is on the way
        if self._take_own():
            self.post(Refused(0, TAKES_OWN))
        else:
            self._warm.want(self)
            trouble = self.pool.last_error
            self.post(Refused(pause, f"{WAITS_FOR_OWN}: {trouble}" if trouble else WAITS_FOR_OWN))
        return False

    def take_over(self, claim: Claim) -> bool:
        """Try to begin the claimed term, on a connection of its own. Posts Granted or Refused."""
        if not self._owns():
            return False
        self._note_tried()
        return super().take_over(claim)

    def renew(self, epoch: int, lease: Lease) -> None:
        """Prolong the term under ``lease``, or take its lock back."""
        self._note_tried()
        super().renew(epoch, lease)

    def _note_tried(self) -> None:
        self._tried = None if self.own is None else self.own.wire

    def write_settled(self, settle: Settle) -> None:
        """Write that the ceiling was waited out, on a connection of its own. Posts Settled or Refused."""
        if self._owns():
            super().write_settled(settle)

    def write_timetable(self, change: Change) -> None:
        """Write what becomes of scheduled times, on a connection of its own. Posts Settled or Refused."""
        if self._owns():
            super().write_timetable(change)

    def close_terms(self, claim: Claim) -> None:
        """Close terms that are over, on a connection of its own. Posts Settled or Refused."""
        if self._owns():
            super().close_terms(claim)


SESSIONS: Final[Mapping[str, type[Session]]] = {"own": Session, "shared": SharingSession}
"""What a program has, by the key ``standby_connections``."""
