"""Begin a term: close the terms that have lapsed, then take the locks and change the row in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from highlanderd.core.events import Granted, Refused, Settled, Suspended
from highlanderd.core.observation import Row, ServerIdentity
from highlanderd.core.states import HANDED_OVER, LAPSED
from highlanderd.core.verdict import Claim
from highlanderd.postgres import ledger
from highlanderd.postgres.hindrance import Hindrance
from highlanderd.postgres.lock_connection import LockConnection
from highlanderd.postgres.replies import Query, Reply, Value
from highlanderd.postgres.sql import dialect, leading, scheduling, sharing

_FIRST: Final = (("first_take_over", leading.FIRST_TAKE_OVER), ("first_take_over_for", leading.FIRST_TAKE_OVER_FOR))
_LATER: Final = (("take_over", leading.TAKE_OVER), ("take_over_for", leading.TAKE_OVER_FOR))
"""The statement for a program that runs all the time, and the one for a scheduled time."""

REFUSED_RETRY: Final = 0.2
"""Seconds until a lock that another session holds is tried again."""
ROW_LOCKED: Final = "another transaction holds a lock on the ledger's row"
"""Why a takeover was refused that had to wait for another transaction."""


class Takeover:
    """Tries to begin terms. Posts Granted or Refused."""

    def __init__(self, connection: LockConnection, hindrance: Hindrance) -> None:
        self._line, self._lock, self._hindrance = connection, connection.lock, hindrance
        self._outrun = 0
        """How often in a row a takeover was granted the lock and changed no row."""

    def ask(self, claim: Claim) -> None:
        """Try to begin the claimed term."""
        connection, row = self._line.connection, claim.judged
        queries: list[Query] = [self._close(one, claim.server) for one in claim.closing]
        if row is not None and row.instance == self._lock.instance and not row.released:
            queries.insert(0, self._line.terminate_old(row.epoch))  # an earlier worker's session may hold the lock
        queries += [("name_lock", leading.NAME_LOCK, (self._lock.name_lock,)), self._take(claim)]
        queries += [("suspension", sharing.SUSPENSION, (self._lock.lock_id, self._lock.node))] if self._shares else []
        named = len(queries) - 2 - self._shares
        self._line.ask(lambda replies, sent: self._taken(claim, replies[named:], sent), *queries)
        if connection is not None:
            self._hindrance.watch(connection.pid, claim.lengths.pace)

    def close(self, claim: Claim) -> None:
        """Close the terms that the claim found to be over, and have the history say so. Posts Settled."""
        queries: list[Query] = []
        for row in claim.closing:
            lapsed = "lapsed", scheduling.LAPSED, (row.lock_id, row.epoch)
            queries += [self._close(row, claim.server), lapsed]

        def closed(replies: list[Reply], _sent: float) -> None:
            unwritten = [reply.error.text for reply in replies[1::2] if reply.error is not None]
            about = f"{self._lock.program}: the history cannot be written: {{}}"
            self._line.pool.server.notes.warn(f"lapsed {self._lock.program}", map(about.format, unwritten))
            self._line.post(Settled())

        self._line.ask(closed, *queries)

    @property
    def _shares(self) -> bool:
        """Whether the ledger holds orders that keep programs from being led."""
        return self._line.connection is not None and self._line.connection.version >= dialect.SHARED

    def _take(self, claim: Claim) -> Query:
        connection, lock, server, row = self._line.connection, self._lock, claim.server, claim.judged
        moment = 0 if connection is None else connection.identified
        values: tuple[Value, ...] = (lock.lock_id, server.system, server.timeline, claim.lengths.trusted.length)
        values = (*values, claim.epoch, lock.program, lock.node, lock.instance, moment, lock.name_lock, server.place)
        values += lock.advisory.pair
        time: tuple[Value, ...] = () if claim.run is None else (claim.run.at, claim.run.after)
        if row is None:
            name, sql = _FIRST[claim.run is not None]
            return name, sql, (*values, *time)
        renewal = row.renewal + (row in claim.closing)
        name, sql = _LATER[claim.run is not None]
        return name, sql, (*values, row.epoch, renewal, row.system, row.timeline, *time)

    @staticmethod
    def _close(row: Row, server: ServerIdentity) -> Query:
        """Return the query that closes a term which was waited out: nothing new can rest on its epoch then."""
        version = (row.lock_id, row.epoch, row.renewal, row.system, row.timeline)
        return "close", leading.CLOSE, (*version, server.system, server.timeline, server.place)

    def _taken(self, claim: Claim, replies: Sequence[Reply], sent: float) -> None:
        name, reply, *then = replies
        named, locked, count, *former = reply.rows[0] if reply.rows else (None, None, None)
        if count == "1" and reply.acknowledged:
            self._suspend(then)
            self._granted(claim, name, sent, former)
            return
        if reply.sqlstate in dialect.BLOCKED:
            self._hindrance.note_row_locked(sent)
        elif reply.error is None:
            self._hindrance.note_row_free()
        refused = self._refusal(claim, reply, locked == "t", named == "t")
        self._line.ask(lambda _replies, _sent: self._line.post(refused), ("unlock", leading.UNLOCK, ()))

    def _suspend(self, replies: Sequence[Reply]) -> None:
        """Post the order that was written while the takeover was under way: no child is started then.

        The takeover may have begun before the order and ended after it, and the client that gave the order has looked
        for a leader in between. This was asked after the takeover was committed, so that one of both sees the other.
        """
        for reply in replies:
            if reply.error is not None or not reply.rows:
                self._line.disconnect("cannot read whether the program is stopped everywhere")
            elif (found := ledger.suspension(reply.rows[0][0])) is not None:
                self._line.post(Suspended(found))

    def _granted(self, claim: Claim, name: Reply, sent: float, former: Sequence[str | None]) -> None:
        if not name.rows or name.rows[0][0] != "t":
            self._line.disconnect(
                "the lock on the program's name was granted too late to see whether another node leads it"
            )
            return
        self._line.note_granted(True)
        self._hindrance.note_row_free()
        self._outrun = 0
        scheduled = None if claim.run is None else claim.run.at
        self._line.post(Granted(claim.epoch, claim.lengths, sent, scheduled))
        if claim.judged is not None and claim.judged.reason in HANDED_OVER:
            word = f"{sharing.LED}{self._lock.lock_id}"
            self._line.say("notify", leading.NOTIFY, self._line.pool.ledger.channel, word)
        put_off = partial(self._write_history, claim, former)
        self._line.pool.afterwards.call(put_off, claim.lengths.pace.history_within)

    def _write_history(self, claim: Claim, former: Sequence[str | None]) -> None:
        """Write that a term has begun, and which ones are over: later, so that its child waits for none of it.

        ``former`` is when the former term began and ended. Whatever becomes of the history, the term has begun.
        """
        for other in claim.closing:
            if other.lock_id != self._lock.lock_id:
                self._write(("lapsed", scheduling.LAPSED, (other.lock_id, other.epoch)))
        row, begun = claim.judged, (self._lock.lock_id, claim.epoch)
        if row is None or not former:
            self._write(("begin_terms", leading.BEGIN_TERMS, [[one] for one in begun]))
            return
        cause = LAPSED if row in claim.closing else row.reason or None
        values = (*begun, row.epoch, row.program, row.node, *former, cause)
        self._write(("succeed_term", leading.SUCCEED_TERM, values))

    def _write(self, query: Query) -> None:
        """Write into the history now, or else later, when nothing keeps it out any more."""
        later = partial(self._line.pool.listener.note_unwritten, query)

        def answered(replies: list[Reply], _sent: float) -> None:
            if replies[0].error is not None:
                later()

        self._line.ask(answered, query, unanswered=later)

    def _refusal(self, claim: Claim, reply: Reply, locked: bool, named: bool) -> Refused:
        """Return why the term did not begin: another node was faster, a lock was taken, or the server refused."""
        if reply.sqlstate in dialect.BLOCKED:
            return Refused(REFUSED_RETRY, ROW_LOCKED)
        if reply.error is not None:
            return Refused(claim.lengths.pace.renew_every, f"cannot take over: {reply.error.text}")
        if not (named and locked):
            holders = self._hindrance.note_lock_taken(claim.lengths.pace)
            which = ("" if named else " on the program's name") + (f": {holders}" if holders else "")
            return Refused(REFUSED_RETRY, f"another session holds the advisory lock{which}")
        self._outrun += 1  # once is a race; more often the answer itself is in doubt, and a pause is due
        why = (
            "another session was faster" if reply.acknowledged else f"the takeover was not acknowledged: {reply.doubt}"
        )
        return Refused(0 if self._outrun == 1 else REFUSED_RETRY, why)
