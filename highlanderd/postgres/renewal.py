"""Prolong a term, together with others or alone, take its lock back on another session, and end it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from highlanderd.core.effects import Release
from highlanderd.core.events import Contended, LeaseRefused, Overruled, Renewed, Unlocked
from highlanderd.core.lease import Lease
from highlanderd.core.states import Cause
from highlanderd.core.terms import exit_of
from highlanderd.postgres import ledger
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.hindrance import Hindrance
from highlanderd.postgres.joint import JointConnection
from highlanderd.postgres.joint_renewal import JointRenewal
from highlanderd.postgres.lock_connection import LockConnection
from highlanderd.postgres.renewal_batch import Renewable, RenewalBatch
from highlanderd.postgres.replies import Query, Reply, Value
from highlanderd.postgres.sql import connecting, dialect, leading

LED_ON: Final = frozenset({Cause.RESTARTED, Cause.CHANGED})
"""Causes after which this node is to lead again at once."""


class Renewal:
    """Prolongs or ends a term that has begun, on this session or on an earlier one."""

    def __init__(self, connection: LockConnection, hindrance: Hindrance, together: RenewalBatch) -> None:
        self._line, self._lock, self._hindrance = connection, connection.lock, hindrance
        self._together = together
        self._asked_again = False
        """Whether its row was locked when it last asked for its lock on a joint connection."""

    def ask(self, epoch: int, lease: Lease) -> None:
        """Prolong the term under ``lease``. A session without the lock takes it back in the same statement.

        Posts Renewed, LeaseRefused, Overruled or Contended; Detached when the answer leaves a doubt.
        """
        line, connection = self._line, self._line.connection
        if (joint := line.joint) is not None:
            self._together.join_joint(JointRenewal(self, line, joint, epoch, lease, line.number, line.granted))
            self._hindrance.watch(joint.connection.pid, joint.connection.lease)
        elif connection is not None and line.granted and lease == connection.lease and line.knows(line.number):
            self._together.join(Renewable(self, line, epoch, connection, line.number))
        else:
            self._ask_alone(epoch, lease)

    def alone(self, one: Renewable, due_since: float | None = None) -> None:
        """Ask on its own session what was to be asked together with others, unless that session is lost.

        ``due_since`` is when another session was asked, in CLOCK_BOOTTIME seconds. Posts as ``ask`` does.
        """
        if one.stands:
            self._ask_alone(one.epoch, one.connection.lease, due_since)

    def prolonged(self, one: Renewable, renewed: Renewed) -> None:
        """Post that another session's statement has prolonged the term, unless its own session is lost."""
        if one.stands:
            self._hindrance.note_row_free()
            self._line.post(renewed)
            self._line.keep_alive()

    def held(self, one: JointRenewal, lengths: Sequence[str | None], sent: float) -> None:
        """Note that the joint connection holds the lock, and has prolonged the term. Posts Renewed."""
        self._asked_again = False
        if not one.granted:  # else a release that was sent meanwhile may free it
            self._line.note_granted(True)
        self._prolonged(one.lease, lengths, sent)
        if not one.granted:
            self._line.pool.listener.note_begun(self._lock.lock_id, one.epoch)

    def row_locked(self, one: JointRenewal) -> None:
        """Ask once more if it has only joined: Contended says so. Else leave the joint connection."""
        again, self._asked_again = not (one.granted or self._asked_again), not one.granted
        if again:
            self._line.post(Contended())
        else:
            self._line.disconnect("another transaction has locked its row", 0.0)

    def note_row_locked(self, sent: float) -> None:
        """Note that what was asked at ``sent`` has waited for another transaction."""
        self._hindrance.note_row_locked(sent)

    def _ask_alone(self, epoch: int, lease: Lease, due_since: float | None = None) -> None:
        connection = self._line.connection
        values: tuple[Value, ...] = (self._lock.lock_id, epoch, self._lock.instance, lease.length)
        if self._line.granted:
            renew = ("renew", leading.RENEW, values)
            self._line.ask(lambda replies, sent: self._renewed(lease, replies[0], sent), renew, due_since=due_since)
        else:
            moment = 0 if connection is None else connection.identified
            values = (*values, moment, self._lock.name_lock, *self._lock.advisory.pair)
            reattach = ("reattach", leading.REATTACH, values)
            self._line.ask(lambda replies, sent: self._reattached(epoch, lease, replies[0], sent), reattach)
        if connection is not None:
            self._hindrance.watch(connection.pid, connection.lease)

    def _renewed(self, asked: Lease, reply: Reply, sent: float) -> None:
        if reply.acknowledged and reply.rows:
            self._prolonged(asked, reply.rows[0], sent)
        elif reply.sqlstate in dialect.UNDEFINED or (reply.error is None and not reply.rows):
            self.unmatched(asked)
        else:
            self._doubted("renewal", reply, sent)

    def _reattached(self, epoch: int, asked: Lease, reply: Reply, sent: float) -> None:
        if reply.sqlstate in dialect.UNDEFINED:
            self._line.post(Overruled())
            return
        if not reply.acknowledged or not reply.rows:
            self._doubted("reattachment", reply, sent)
            return
        *lengths, granted, renewed = reply.rows[0]
        if granted != "t":
            self._line.ask(lambda _replies, _sent: self._line.post(Contended()), self._line.terminate_old(epoch))
        elif renewed == "1":
            self._line.note_granted(True)
            self._prolonged(asked, lengths, sent)
            # The session that should have written the history may have been lost before it did.
            self._line.pool.listener.note_begun(self._lock.lock_id, epoch)
        else:
            self.unmatched(asked)

    def _prolonged(self, asked: Lease, values: Sequence[str | None], sent: float) -> None:
        """Post Renewed, unless the ledger is no longer for daemons as old as this one."""
        self._hindrance.note_row_free()
        written = ledger.written(values, asked)
        try:
            self._line.follow(written.lengths.pace, written.version, written.compatible_from)
        except Unfit as unfit:
            self._line.refuse(str(unfit))
        else:
            self._line.post(Renewed(sent, written.lengths))

    def unmatched(self, asked: Lease) -> None:
        """Post why no row was changed: another term has it, or the ledger promises no lease as long as ``asked``."""
        pace = asked if self._line.connection is None else self._line.connection.lease
        self._line.post(LeaseRefused(pace) if asked.length > pace.length else Overruled())

    def _doubted(self, what: str, reply: Reply, sent: float) -> None:
        if reply.sqlstate in dialect.BLOCKED:
            self._hindrance.note_row_locked(sent)
            self._line.disconnect(f"the {what} waited for another transaction, which holds a lock on the ledger's row")
        else:
            self._line.disconnect(f"the {what} was not acknowledged: {reply.doubt}")

    def release(self, ending: Release) -> None:
        """End the term: the row, then the lock, then the notification, each committed by itself.

        The history is written once the takeover elsewhere is over, which needs the same server. Posts Unlocked then, if
        the row is released or was overtaken; Detached when the answer leaves a doubt.
        """
        lock, epoch, cause, reservation = self._lock, ending.epoch, ending.cause, ending.reservation
        node, seconds = (None, None) if reservation is None else (reservation.node, reservation.seconds)
        # A former session that missed its client's death would keep the lock from the next leader.
        first, unlock = [] if self._line.granted else [self._line.terminate_old(epoch)], self._line.unlocking
        name, sql = ("release", leading.RELEASE)
        if self._line.joint is not None:
            name, sql = "release_at_once", leading.RELEASE_AT_ONCE
        self._line.note_granted(False)
        self._line.ask(
            lambda replies, _sent: self._released(ending, *replies[len(first) : -1]),
            *first,
            (name, sql, (lock.lock_id, epoch, lock.instance, cause.value, node, seconds)),
            *unlock,
            ("notify", leading.NOTIFY, (self._line.pool.ledger.channel, str(lock.lock_id))),
        )

    def _released(self, ending: Release, release: Reply, *unlock: Reply) -> None:
        joint = self._line.joint
        if joint is not None and not joint.note_unlocked(unlock):
            return  # its end was told to each of its programs
        if joint is not None and self._line.granted:
            self._free(joint)
        if not release.acknowledged or any(reply.error is not None for reply in unlock):
            self._line.disconnect(f"the release was not acknowledged: {release.doubt}")
        elif ending.cause in LED_ON:
            self._write_end(ending, self._line.number)
        else:
            put_off = partial(self._write_end, ending, self._line.number)
            self._line.pool.afterwards.call(put_off, self._line.pool.server.lease.history_within)

    def _free(self, joint: JointConnection) -> None:
        """Free the lock that was being taken back when its release was sent, and tell those who have waited for it."""
        unlock, channel = self._line.unlock_one, self._line.pool.ledger.channel
        self._line.note_granted(False)
        joint.ask(
            lambda replies, _sent: joint.note_unlocked(replies[:1]),
            unlock,
            ("notify", leading.NOTIFY, (channel, str(self._lock.lock_id))),
        )

    def _write_end(self, ending: Release, number: int) -> None:
        """Write the end into the history, and post Unlocked. Another session than ``number`` releases once more."""
        lock, epoch = self._lock, ending.epoch
        if not self._line.knows(number):
            return
        listener = self._line.pool.listener
        listener.prune(lock.lock_id)
        history: list[Query] = [
            ("begin_terms", leading.BEGIN_TERMS, ([lock.lock_id], [epoch])),  # its own session may have been lost
            ("end_term", leading.END_TERM, (lock.lock_id, epoch, ending.cause.value, *_told(ending))),
        ]
        if self._line.joint is None:
            self._line.ask(lambda _replies, _sent: self._line.post(Unlocked()), *history)
            return

        def written(replies: list[Reply], _sent: float) -> None:
            for reply, query in zip(replies[1:-1], history, strict=True):
                if reply.error is not None:
                    listener.note_unwritten(query)
            self._line.post(Unlocked())

        limits = "limits", connecting.LIMITS, self._line.pool.server.limits
        self._line.ask(written, ("no_waiting", connecting.NO_WAITING, ()), *history, limits)


def _told(ending: Release) -> tuple[Value, ...]:
    """Return what the history holds of the end, its cause apart: exit status and signal, the author and its words."""
    exited = (None, None) if ending.status is None else exit_of(ending.status)
    return (*exited, ending.by.name or None, ending.by.remark or None)
