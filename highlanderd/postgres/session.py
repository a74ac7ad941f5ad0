"""One program's session: look, take over, renew, release, and take the lock back after a loss.

Theory of operation
-------------------
The machine of a program (``core/machine.py``) decides what is to be asked. A session asks it, one request at a time,
and posts how it ended as one event. The program's task is the only one that asks; the events go into its inbox.

A session outlives its connections. ``LockConnection`` seeks one, uses it until it is lost, and seeks the next one. Each
connection has a number, which Attached carries. ``note_known`` says which number the machine knows. Between a loss and
the moment in which the machine reads of it, the machine still asks the lost session. Such a request is dropped, because
it counts only while the known number is the present one. No event is missing then: Detached is in the inbox.

The life of a term, with the event that each request ends with:

    connection delivered                                                    Attached
    look         one SELECT on the ledger, or a part of another session's   Looked
    watched      a survey shows more than a renewal, or none for a while    LookAdvised
    write_settled  the ceiling was waited out on this server                Settled, Refused
    take_over    close lapsed terms, take both locks, change the row        Granted, Refused
    renew        on a session that holds the lock, or on another one's      Renewed, LeaseRefused, Overruled
    connection lost                                                         Detached
    connection delivered                                                    Attached
    renew        on a session that does not: takes the lock back, too       as above, or Contended
    joined       what is delivered is one session for many programs         Attached
    release      row, lock, notification, history                           Unlocked

The advisory lock keeps two nodes of one server apart while both are connected; the row says who leads when they are
not. A takeover takes two locks: of the lock id, and of the program's name, because two nodes may be configured with
different lock keys for one program. The name is asked for in a statement of its own before the takeover, so that the
takeover's snapshot contains every row that was written under that name.

Looks come in batches (``look_batch.py``) while they show that another node leads: programs whose looks are due together
are asked for in one statement on one of their sessions. Nothing is claimed because of that. When it shows anything
else, and after a notification, each session looks for itself, and finds out on the way whether it is still of use.

So do renewals (``renewal_batch.py``) while they change nothing but the time. One statement renews all that are due, on
the session of one of the programs, and for each of the others only while its own session holds the lock, as the server
sees it. It can only succeed: in any other case each session renews for itself. What it asks anyway, so that neither end
takes it for dead, is ``keep_alive``.

When many sessions are lost at once, the next one is for many programs (``joint.py``). Whatever a program asks there is
its own affair, and so is the end of its lock; its machine notices no difference. It leaves with the end of its term, or
when its own row makes trouble.

A program that is led elsewhere is watched from then on (``watch.py``): it need not look again before a survey shows
anything but renewals. Each look brings along since when surveys have shown the row's version.

Every statement changes one row or none, and is committed by its own Sync. A sequence may break off after each of them,
and leaves something safe behind: the release writes the row before it gives the lock up, and a lock without a row to
match it leads nowhere.

What is in doubt is never a success. A lease is trusted from the moment its request was *sent*, because the server can
only have written it later. A request is in doubt when

* no answer came within ``Lease.answer_within``: the connection is dropped, the statement is never cancelled;
* the answer is an error, or carries a warning about the commit, as when the wait for a standby was cancelled;
* the answer to a takeover does not say that one row was changed.

A renewal, reattachment or release in doubt costs the session, and the next session finds out what the ledger holds. A
takeover in doubt gives its locks back and posts Refused: the next look shows the row if it was written after all. An
answer that cannot be read costs the session as well, because the machine must learn the end of each question. A renewal
that changes no row is not in doubt: another node has the term (Overruled), or the lease is too long (LeaseRefused).

The end of a connection is posted once, as Detached: by ``lost``, or by ``disconnect`` when we drop it ourselves. After
a loss the pool is asked at once for another connection; after a drop, after a pause, because what was wrong may still
be wrong. A row lock or an advisory lock that another session holds for a whole lease is no error of this session:
``Hindrance`` raises an alarm that names the other one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from msgspec.structs import asdict

from highlanderd.core.effects import Release
from highlanderd.core.events import Event, LookAdvised, Looked, Refused, Settled
from highlanderd.core.key import AdvisoryLock, name_lock
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Glimpse, Row, ServerIdentity
from highlanderd.core.placement import Peers
from highlanderd.core.schedule import Change
from highlanderd.core.verdict import Claim, Settle
from highlanderd.postgres import ledger
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.hindrance import Hindrance
from highlanderd.postgres.ledger import LedgerView
from highlanderd.postgres.lock_connection import LockConnection, ProgramLock
from highlanderd.postgres.look_batch import HISTORY_REFUSED, Columns, LookBatch
from highlanderd.postgres.pool import RENEWALS_FIRST, Pool
from highlanderd.postgres.renewal import Renewal
from highlanderd.postgres.renewal_batch import RenewalBatch
from highlanderd.postgres.replies import Query, Reply
from highlanderd.postgres.sql import leading, scheduling
from highlanderd.postgres.takeover import Takeover
from highlanderd.structs import replace
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)


class Session(LockConnection):
    """What a program asks of PostgreSQL. Each request returns at once; its end is posted as an event."""

    def __init__(
        self,
        pool: Pool,
        *,
        program: str,
        lock_id: int,
        advisory: AdvisoryLock,
        node: str,
        instance: str,
        keeperless: Callable[[], bool],
        post: Callable[[Event], None],
        on_alarm: Callable[[str], None] = log.warning,
        peers: Callable[[], Peers] = Peers,
        looks: LookBatch | None = None,
        renewals: RenewalBatch | None = None,
    ) -> None:
        """Make a session without a connection.

        ``keeperless`` returns whether this node has no keeper for the program: only then its death is certain.
        ``peers`` returns the other nodes that wait for the program. Sessions with the same ``looks`` look
        together, and those with the same ``renewals`` renew together.
        ``post`` is called with each event, and must do no more than queue it. ``on_alarm`` is called with each sentence
        that an operator must read.
        """
        lock = ProgramLock(program, lock_id, advisory, name_lock(pool.ledger.namespace, program), node, instance)
        super().__init__(pool, lock, post=post, on_alarm=on_alarm)
        self._keeperless, self._peers, self._looks = keeperless, peers, looks or LookBatch()
        hindrance = Hindrance(pool.listener, lock, on_alarm)
        self._takeover = Takeover(self, hindrance)
        self._renewal = Renewal(self, hindrance, renewals or RenewalBatch())
        self._history = True
        """Whether the next look reads the history; another session may keep it from being read."""
        self._led_elsewhere: int | None = None
        """The number of the session whose latest look has shown that another node leads; None after a hint."""
        self._glimpse: Glimpse | None = None
        """What surveys had shown when the latest look was sent."""
        self._version: tuple[int, int] | None = None
        """Epoch and renewal of the row as the latest look has shown it."""
        self._unmoved_since = 0.0
        """When this version was seen first."""

    def look(self) -> None:
        """See what the ledger shows. Posts Looked."""
        if self._led_elsewhere != self.number:
            self.look_alone()
        elif self.knows(self.number):
            self._looks.join(self)

    def look_alone(self) -> None:
        """Do so on this session. Posts Looked."""
        self.note_glimpse()
        name, sql = ("look", leading.LOOK) if self._history else ("look_bare", leading.LOOK_WITHOUT_HISTORY)
        self.ask(self._looked, (name, sql, (self.lock.lock_id, self.lock.program, self.lock.node)))

    @property
    def glimpse(self) -> Glimpse | None:
        """What surveys have shown of the row so far; None for nothing."""
        return self.pool.listener.glimpse(self.lock.lock_id)

    def note_glimpse(self) -> None:
        """Note that: what is sent from now on is executed later."""
        self._glimpse = self.glimpse

    @property
    def watched_id(self) -> int:
        """The lock id, for surveys."""
        return self.lock.lock_id

    def advise(self) -> None:
        """Have the program look. Posts LookAdvised."""
        if self.connected:
            self.post(LookAdvised())

    def close(self) -> None:
        """Leave."""
        self.pool.listener.watch.dismiss(self)
        super().close()

    def _hinted(self) -> None:
        """What is notified is looked at on this session: the row may be free now."""
        self._led_elsewhere = None
        super()._hinted()

    def _looked(self, replies: list[Reply], _sent: float) -> None:
        arrived, [reply] = boottime(), replies
        if reply.sqlstate in HISTORY_REFUSED and self._history:
            self._history = False
            self.look_alone()
            return
        self._history = True
        if reply.error is not None or not reply.rows:
            self.disconnect(f"cannot read the ledger: {reply.error.text if reply.error else 'its meta row is gone'}")
            return
        view = ledger.look(reply.rows, self.lock.lock_id)
        if self.connection is not None and view.backend != self.connection.pid:
            self.refuse("the session's backend has changed: a connection pooler stands between; give a direct dsn")
            return
        self._seen(view, arrived)

    def take_look(self, number: int, rows: list[Columns] | None, arrived: float) -> None:
        """Take what another session has read for this one, if it shows no more than that another node leads.

        On anything else this session looks itself: a term begins with a look on the session that is to hold its lock.
        """
        if self.connection is None or not self.knows(number):
            return
        try:
            view = ledger.look(rows, self.lock.lock_id) if rows else None
            if view is not None and self._is_led_elsewhere(view):
                self._seen(view, arrived)
                return
        except Exception as error:  # noqa: BLE001 - the ledger may hold anything, and others wait for their answers
            self.cannot_read(error)
        else:
            self.look_alone()

    def _is_led_elsewhere(self, view: LedgerView) -> bool:
        row = view.observation.row
        led = row is not None and not row.released and not row.ended_ago and row.instance != self.lock.instance
        return led and view.observation.suspension is None

    def _seen(self, view: LedgerView, arrived: float) -> None:
        connection = self.connection
        if connection is None:
            return
        self._led_elsewhere = self.number if self._is_led_elsewhere(view) else None
        meta, row, memory = view.observation.meta, view.observation.row, self.pool.server.memory
        memory.learn_epoch(max(meta.floor, row.epoch if row else 0))
        try:
            self.follow(meta.lease, view.version, view.compatible_from)
        except Unfit as unfit:
            self.refuse(str(unfit))
            return
        if self.connection is not None and self.connection.version != connection.version:
            self.look()  # what the former schema's statement read may lack what counts now
            return
        promised = Lease(0.0 if memory.promise is None else memory.promise.ceiling)
        self._note_version(row, arrived)
        seen, watched = replace(view.observation, promised=promised), self._watched(view, arrived)
        self.post(Looked(seen, arrived, self._keeperless(), self._peers(), self._glimpse, watched))

    def _note_version(self, row: Row | None, arrived: float) -> None:
        version, glimpse = None if row is None else row.version, self._glimpse
        if version != self._version:
            seen_before = glimpse is not None and glimpse.version == version
            self._version, self._unmoved_since = version, glimpse.at if glimpse and seen_before else arrived

    def _watched(self, view: LedgerView, arrived: float) -> bool:
        """Return whether the program need not look again before surveys show more than renewals of another node."""
        watch, row = self.pool.listener.watch, view.observation.row
        led = row is not None and self._is_led_elsewhere(view) and not self._is_silent(row, arrived)
        if led and watch.admit(self, view.observation, arrived):
            return True
        watch.dismiss(self)
        return False

    def _is_silent(self, row: Row, arrived: float) -> bool:
        """Return whether half of the row's lease has passed without a renewal."""
        return arrived >= self._unmoved_since + row.trusted_for / 2

    def write_settled(self, settle: Settle) -> None:
        """Write that the ceiling was waited out for this server and ledger. Posts Settled, or Refused on an error."""
        generation = max(settle.generation, self.pool.server.memory.generation)
        values = (settle.system, settle.timeline, settle.place, generation)
        self.ask(lambda replies, _sent: self._settled(replies[0]), ("settle", leading.SETTLE, values))

    def _settled(self, reply: Reply) -> None:
        """Post the outcome. An error is tried again at the pace of looks: what is wrong mends itself slowly."""
        if reply.error is None or self.connection is None:
            self.post(Settled())
        else:
            pause = self.connection.lease.renew_every
            self.post(Refused(pause, f"cannot write that the ledger is settled: {reply.error.text}"))

    def write_timetable(self, change: Change) -> None:
        """Write what becomes of scheduled times, if nobody else has written since. Posts Settled, or Refused."""
        values = (self.lock.lock_id, self.lock.program, change.words, change.latest)
        if change.before is None:
            query: Query = "first_timetable", scheduling.FIRST_TIMETABLE, values
        else:
            skipped = json.dumps([asdict(one) for one in change.skipped])
            judged = (change.before.version, skipped, self.lock.node)
            query = "change_timetable", scheduling.CHANGE_TIMETABLE, (*values, *judged)
        self.ask(lambda replies, _sent: self._planned(change, replies[0]), query)

    def _planned(self, change: Change, reply: Reply) -> None:
        if reply.error is None or self.connection is None:
            self.post(Settled(change.skipped if reply.affected else ()))
        else:
            self.post(Refused(self.connection.lease.renew_every, f"cannot write the schedule: {reply.error.text}"))

    def close_terms(self, claim: Claim) -> None:
        """Close terms that are over, and begin none. Posts Settled."""
        self._takeover.close(claim)

    def unsettle(self, server: ServerIdentity) -> None:
        """Make all nodes wait once more, because what this ledger holds has gone back. Posts nothing."""
        self.say("unsettle", leading.UNSETTLE, server.system, server.timeline)

    def take_over(self, claim: Claim) -> bool:
        """Try to begin the claimed term, once the terms that lapsed are closed. Posts Granted or Refused.

        Return whether a child may be prepared meanwhile: not where something else comes first.
        """
        if self.pool.late:
            self.post(Refused(self.pool.server.lease.answer_within, RENEWALS_FIRST))
            return False
        self._takeover.ask(claim)
        return True

    def renew(self, epoch: int, lease: Lease) -> None:
        """Prolong the term under ``lease``; a session that holds no lock takes it back in the same statement.

        Posts Renewed, LeaseRefused, Overruled or Contended; Detached when the answer leaves a doubt.
        """
        self._renewal.ask(epoch, lease)

    def release(self, ending: Release) -> None:
        """End the term: the row, then the lock, then the notification, each committed by itself.

        Posts Unlocked when the row is released or was overtaken; Detached when the answer leaves a doubt.
        """
        self._renewal.release(ending)
