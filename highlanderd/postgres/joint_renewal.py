"""What programs ask of a joint connection: to take their locks back, and to renew, in one statement for many.

For each program the outcome is its own, as if it had asked alone. Its row is renewed and its lock held; or the lock is
another session's (a former one of its own is ended, then); or its row is another's, or its lease too long; or nothing
is known, because another transaction has locked its row. That may be a late statement of a former session, so who has
only come asks once more. Then it leaves, and asks on a connection of its own, where it holds up nobody. A lock that was
granted to a program which is not renewed is free again when the answer comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from highlanderd.core.events import Contended, Overruled
from highlanderd.core.lease import Lease
from highlanderd.postgres.joint import JointConnection
from highlanderd.postgres.lock_connection import LockConnection, terminate_old
from highlanderd.postgres.replies import Query, Reply, document
from highlanderd.postgres.sql import dialect
from highlanderd.postgres.sql.joint import HOLD_MANY
from highlanderd.postgres.turn_batch import TurnBatch


class JointRenewer(Protocol):
    """What renews the term of one program."""

    def held(self, one: JointRenewal, lengths: Sequence[str | None], sent: float) -> None:
        """Post that the term was prolonged, and note that the lock is held. ``lengths`` is as RENEW returns it."""

    def row_locked(self, one: JointRenewal) -> None:
        """Have it ask again, or leave the connection: another transaction has locked its row."""

    def unmatched(self, asked: Lease) -> None:
        """Post why no row was changed that nobody has locked."""

    def note_row_locked(self, sent: float) -> None:
        """Note that what was asked at ``sent`` has waited for another transaction."""


class JointRenewal(Struct, frozen=True):
    """A renewal on a joint connection."""

    renewer: JointRenewer
    line: LockConnection
    joint: JointConnection
    epoch: int
    lease: Lease
    number: int
    """The session's, when it asked."""
    granted: bool
    """Whether the connection holds its lock already."""

    @property
    def stands(self) -> bool:
        """Whether the machine still waits for the session that has asked."""
        return self.line.joint is self.joint and self.line.knows(self.number)


class JointRenewals:
    """Collects renewals on joint connections until the loop's next turn."""

    def __init__(self) -> None:
        self._batch = TurnBatch[JointRenewal](_alike, _hold)

    def join(self, one: JointRenewal) -> None:
        """Have a term renewed together with the others of its connection."""
        self._batch.join(one)


def _alike(one: JointRenewal) -> tuple[JointConnection, Lease, str]:
    return one.joint, one.lease, one.line.lock.instance


def _hold(joined: Sequence[JointRenewal]) -> None:
    if those := [one for one in joined if one.stands]:
        those[0].joint.ask(lambda replies, sent: _answered(those, replies[0], sent), _query(those))


def _query(those: Sequence[JointRenewal]) -> Query:
    locks = [one.line.lock for one in those]
    pairs = [lock.advisory.pair for lock in locks]
    values = (
        [lock.lock_id for lock in locks],
        [one.epoch for one in those],
        locks[0].instance,
        those[0].lease.length,
        those[0].joint.connection.identified,
        [lock.name_lock for lock in locks],
        [first for first, _ in pairs],
        [second for _, second in pairs],
        [int(one.granted) for one in those],
    )
    return "hold_many", HOLD_MANY, values


def _answered(those: Sequence[JointRenewal], reply: Reply, sent: float) -> None:
    if reply.sqlstate in dialect.UNDEFINED:
        for one in those:
            _tell_overruled(one)
    elif reply.acknowledged and reply.rows and reply.rows[0][-1] == "t":
        _share_out(those, reply.rows[0], sent)
    else:
        _doubt(those, reply, sent)


def _tell_overruled(one: JointRenewal) -> None:
    if one.stands:
        one.line.post(Overruled())


def _doubt(those: Sequence[JointRenewal], reply: Reply, sent: float) -> None:
    """What is in doubt costs the connection: whatever it has locked is free then.

    What the server refuses, or ends because it takes too long, may be the row of one of them. A table that another
    transaction has locked keeps all of them waiting, wherever they ask.
    """
    joint, why = those[0].joint, f"the renewal of many was not acknowledged: {reply.doubt}"
    if reply.sqlstate == dialect.LOCK_NOT_AVAILABLE:
        for one in those:
            one.renewer.note_row_locked(sent)
        joint.give_up("the renewal waited for another transaction, which holds a lock on the ledger")
    elif reply.sqlstate == dialect.QUERY_CANCELED:
        joint.split(why)
    else:
        for one in those if reply.error is not None else ():
            one.line.stay_apart()
        joint.give_up(why)


def _share_out(those: Sequence[JointRenewal], row: Sequence[str | None], sent: float) -> None:
    *lengths, granted, renewed, ours, _freed = row
    locked, prolonged, visible = _ids(granted), _ids(renewed), _ids(ours)
    taken: list[JointRenewal] = []
    for one in those:
        lock_id = one.line.lock.lock_id
        if not one.stands:
            _forsake(one, held=lock_id in prolonged)
        elif lock_id in prolonged:
            one.renewer.held(one, lengths, sent)
        elif lock_id not in locked:
            taken.append(one)
        elif lock_id in visible and one.lease.length <= one.joint.connection.lease.length:
            one.renewer.row_locked(one)
        else:
            one.renewer.unmatched(one.lease)
    if taken:
        _end_former(taken)


def _forsake(one: JointRenewal, *, held: bool) -> None:
    """Free what was granted to a program that has left meanwhile. What it held before, it has freed."""
    if held and not one.granted:
        one.joint.ask(lambda replies, _sent: one.joint.note_unlocked(replies), one.line.unlock_one)


def _end_former(those: Sequence[JointRenewal]) -> None:
    """End former sessions of programs whose locks are taken. Posts Contended to each."""

    def ended(_replies: list[Reply], _sent: float) -> None:
        for one in those:
            if one.stands:
                one.line.post(Contended())

    those[0].joint.ask(ended, terminate_old([(one.line, one.epoch) for one in those]))


def _ids(text: str | None) -> frozenset[int]:
    found = document(text)
    return frozenset(found) if isinstance(found, list) else frozenset()
