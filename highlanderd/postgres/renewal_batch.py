"""Renewals that are due at the same moment, in one statement.

The moments of renewals lie on a grid, so that many are due together: the session of one of these programs asks for all.
It is a program's session, and not the one that listens, because it may be lost with its question: then one program
takes its lock back, where otherwise all would go without notifications and surveys.

Only a renewal that changes nothing but the time joins: under the ledger's lease, by a session that holds the lock. And
nothing but success is concluded from the answer. A term is renewed if its row is ours, says that it was written on this
server under this lease and which session holds the lock, is locked by no other transaction, and if the lock is held. As
long as all of this holds, it makes no difference which session has asked. Each program that was not renewed, for
whatever reason, asks on its own session at once, as if it had never joined. So it does when no answer has come within
``Lease.together_within``. The statement may be executed all the same, and late: that does no harm, because what it
prolongs, if anything, is a term whose leader trusts it for less.

Each session that joins is asked for once: it posts one event, asks itself, or was lost in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from highlanderd.core.events import Renewed
from highlanderd.core.lease import Lease, Lengths
from highlanderd.postgres import ledger
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.joint_renewal import JointRenewal, JointRenewals
from highlanderd.postgres.lock_connection import LockConnection
from highlanderd.postgres.replies import Query, Reply, document
from highlanderd.postgres.sql import leading
from highlanderd.postgres.sql.dialect import VERSION
from highlanderd.postgres.turn_batch import TurnBatch
from highlanderd.system.linux import boottime


class Renewer(Protocol):
    """What renews the term of one program."""

    def alone(self, one: Renewable, due_since: float | None = None) -> None:
        """Ask on its own session, if that is still there.

        ``due_since`` is when another session was asked, in CLOCK_BOOTTIME seconds.
        """

    def prolonged(self, one: Renewable, renewed: Renewed) -> None:
        """Post that the term was renewed, if its own session is still there."""


class Renewable(Struct, frozen=True):
    """A renewal that changes nothing but the time: of this epoch, under the lease of its connection."""

    renewer: Renewer
    line: LockConnection
    epoch: int
    connection: Connection
    number: int
    """The session's, when it joined."""

    @property
    def stands(self) -> bool:
        """Whether the machine still waits for the session that has joined."""
        return self.line.own is not None and self.line.knows(self.number)


class RenewalBatch:
    """Collects renewals until the loop's next turn."""

    def __init__(self) -> None:
        self._batch, self._joint = TurnBatch[Renewable](_alike, _renew_those), JointRenewals()

    def join(self, one: Renewable) -> None:
        """Have a term renewed together with the others that are to be renewed now."""
        self._batch.join(one)

    def join_joint(self, one: JointRenewal) -> None:
        """Have a term renewed, and perhaps its lock taken back, together with the others of its joint connection."""
        self._joint.join(one)


def _alike(one: Renewable) -> tuple[int, Lease, str]:
    """Return what those that one statement renews have in common."""
    return one.connection.version, one.connection.lease, one.line.lock.instance


def _renew_those(joined: Sequence[Renewable]) -> None:
    those = [one for one in joined if one.stands]
    if len(those) == 1:
        those[0].renewer.alone(those[0])
    elif those:
        version, lease, _ = _alike(those[0])
        _SharedRenewal(those, version, lease)


class _SharedRenewal:
    """One statement for many, asked on the session of the first."""

    def __init__(self, those: Sequence[Renewable], version: int, lease: Lease) -> None:
        """Ask. All are under the same schema and lease."""
        self._waiting, self._version, self._lease = those, version, lease
        self._sent = boottime()
        self._timer = asyncio.get_running_loop().call_later(lease.together_within, self._give_up)
        those[0].line.ask(self._answered, _query(those, lease), unanswered=self._give_up)

    def _leave(self) -> Sequence[Renewable]:
        """Return who still waits, and have nobody wait any more."""
        self._timer.cancel()
        waiting, self._waiting = self._waiting, ()
        return waiting

    def _give_up(self) -> None:
        for one in self._leave():
            one.renewer.alone(one, self._sent)

    def _answered(self, replies: list[Reply], sent: float) -> None:
        prolonged = _prolonged(replies[0], self._version, self._lease)
        renewed = Renewed(sent, Lengths(self._lease, self._lease, self._lease))
        for one in self._leave():
            if one.line.lock.lock_id in prolonged:
                one.renewer.prolonged(one, renewed)
            else:
                one.renewer.alone(one, self._sent)


def _query(those: Sequence[Renewable], lease: Lease) -> Query:
    locks = [one.line.lock for one in those]
    pairs = [lock.advisory.pair for lock in locks]
    values = (
        [lock.lock_id for lock in locks],
        [one.epoch for one in those],
        locks[0].instance,
        lease.length,
        [one.connection.pid for one in those],
        [one.connection.identified for one in those],
        [first for first, _ in pairs],
        [second for _, second in pairs],
    )
    return "renew_many", leading.RENEW_MANY, values


def _prolonged(reply: Reply, version: int, lease: Lease) -> frozenset[int]:
    """Return the lock ids that were renewed beyond doubt: none once the ledger wants anything else than before."""
    if not reply.acknowledged or not reply.rows:
        return frozenset()
    *values, renewed = reply.rows[0]
    if not _unchanged(values, version, lease):
        return frozenset()
    found = document(renewed)
    return frozenset(found) if isinstance(found, list) else frozenset()


def _unchanged(values: Sequence[str | None], version: int, lease: Lease) -> bool:
    try:
        answer = ledger.written(values, lease)
    except ValueError:  # who asks alone says what cannot be read
        return False
    usable = min(answer.version, VERSION) == version and answer.compatible_from <= VERSION
    return usable and answer.lengths == Lengths(lease, lease, lease)
