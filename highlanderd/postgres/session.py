"""One program's lock connection: look, take over, renew, release, and take the lock back after a loss.

It performs what the machine asks, one request at a time, and tells how it ended. What is in doubt is never told as
success: an answer that did not come, or came with a warning, costs the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from math import inf
from typing import Final

from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Event,
    Granted,
    LeaseRefused,
    Looked,
    Notified,
    Overruled,
    Refused,
    Renewed,
    Settled,
    Unlocked,
)
from highlanderd.core.key import name_lock
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Row, ServerIdentity
from highlanderd.core.states import Cause, Reservation
from highlanderd.core.verdict import Claim, Settle
from highlanderd.postgres import ledger, statements
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.fitness import refuse_newer
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.server import RECONNECT_PAUSE, Connection
from highlanderd.postgres.wire import Reply, Statement, Value
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

REFUSED_RETRY: Final = 0.2
"""Seconds until a lock that another session holds is tried again."""
ROW_LOCKED: Final = "another transaction holds a lock on the ledger's row"
"""Why a takeover was refused that had to wait for somebody else's transaction."""
REMEMBERED: Final = 8
"""Former backends of this program that may still hold its lock, if their network died."""

Answer = Callable[[list[Reply], float], None]


class Session:
    """The lock connection of one program. Its events go to ``tell``; they are never told from within a call."""

    def __init__(
        self,
        pool: Pool,
        *,
        program: str,
        lock_id: int,
        node: str,
        instance: str,
        keeperless: Callable[[], bool],
        tell: Callable[[Event], None],
    ) -> None:
        self._pool, self._ledger = pool, pool.ledger
        self._program, self._lock_id, self._node, self._instance = program, lock_id, node, instance
        self._name_lock = name_lock(pool.ledger.namespace, program)
        self._keeperless, self._tell = keeperless, tell
        self._connection: Connection | None = None
        self._number = 0
        self._closed = False
        self._asked = 0.0
        self.believed: int | None = None
        """The session that the machine has heard of; what it asks of an earlier one is not for the present one."""
        self._granted = False
        self._former: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        self._unhint = pool.listener.hint(lock_id, self._hinted)
        self._blocked_since: float | None = None
        self._shut_out_since = self._shut_out_at = -inf
        """When a takeover found a lock taken for the first time, and for the last time."""
        self._history = True
        """Whether a look may read the history; somebody may be keeping it from being read."""
        self._outrun = 0
        """How often in a row a takeover was granted the lock and changed no row."""
        self.urgency = inf
        """When the lease that hangs on a connection ends; told by the program."""
        self.on_alarm: Callable[[str], None] = log.warning

    @property
    def connected(self) -> bool:
        """Whether there is a session at the moment."""
        return self._connection is not None

    def open(self) -> None:
        """Begin to seek a connection, and never stop until ``close``."""
        self._pool.request(self)

    def close(self) -> None:
        """Leave; the connection ends, and with it whatever lock it held."""
        self._closed = True
        self._unhint()
        self._pool.forget(self)
        if self._connection is not None:
            self._connection.wire.on_lost = lambda _: None
            self._connection.wire.drop("closed")
            self._connection = None

    def deliver(self, connection: Connection) -> None:
        """Take over a verified connection."""
        self._connection, self._granted = connection, False
        self._number += 1
        self._former.append((connection.pid, connection.started))
        connection.wire.on_lost = self._lost
        self._say(connection, "name", NAME, f"{statements.SESSIONS}{self._node}/{self._program}"[:63])
        self._tell(Attached(self._number))

    def keep_alive(self) -> None:
        """Say something if nothing was asked for half a lease."""
        if self._connection is not None and boottime() - self._asked > self._connection.lease.length / 2:
            self._say(self._connection, "keep_alive", KEEP_ALIVE)

    def _say(self, connection: Connection, name: str, sql: str, *values: Value) -> None:
        """Ask something whose answer does not matter."""
        self._asked = boottime()
        future = connection.wire.ask([(self._statement(name, sql), values)], connection.lease.answer_within)
        future.add_done_callback(lambda done: done.exception())

    def _statement(self, name: str, sql: str) -> Statement:
        """Return a statement for the schema as this session has last seen it."""
        return self._ledger.statement(
            name, sql, self._connection.version if self._connection is not None else statements.VERSION
        )

    def _hinted(self) -> None:
        if self._connection is not None:
            self._tell(Notified())

    def _lost(self, why: str) -> None:
        self._connection, self._granted = None, False
        self._pool.lost(why)
        self._tell(Detached(f"no session with PostgreSQL: {why}"))
        self._pool.request(self)

    def disconnect(self, why: str, pause: float = RECONNECT_PAUSE) -> None:
        """Drop the session, and seek another one ``pause`` seconds later: what was wrong with it may still be wrong."""
        if self._connection is None or self.believed != self._number:
            return
        connection, self._connection, self._granted = self._connection, None, False
        connection.wire.on_lost = lambda _: None
        connection.wire.drop(why)
        self._tell(Detached(why))
        asyncio.get_running_loop().call_later(pause, self._request_again)

    def _request_again(self) -> None:
        if self._connection is None and not self._closed:
            self._pool.request(self)

    def refuse(self, why: str) -> None:
        """Drop the session because its server must not be used, and tell an operator."""
        self.on_alarm(f"{self._program}: {why}")
        self.disconnect(why, self._pool.server.lease.renew_every)

    # ------------------------------------------------------------------------------------------------------ asking

    def _ask(self, answer: Answer, *asks: tuple[str, str, Sequence[Value]]) -> None:
        """Send, remember when, and hand the replies to ``answer`` with that moment; a loss tells itself.

        What was meant for a session that is gone is dropped: its Detached is on the way to the machine.
        """
        connection = self._connection
        if connection is None or self.believed != self._number:
            return
        sent = self._asked = boottime()
        worded = [(self._statement(name, sql), values) for name, sql, values in asks]
        future = connection.wire.ask(worded, connection.lease.answer_within)

        def done(replies: asyncio.Future[list[Reply]]) -> None:
            if (
                replies.exception() is not None
                or self._connection is None
                or self._connection.wire is not connection.wire
            ):
                return
            try:
                answer(replies.result(), sent)
            except Exception as error:  # noqa: BLE001 - whatever it was, the machine must hear of an end to its question
                self._pool.server.note_unforeseen(f"{self._program}: an answer of PostgreSQL cannot be read", error)
                self.refuse(f"an answer of PostgreSQL cannot be read: {error}")

        future.add_done_callback(done)

    def _follow(self, lease: Lease, version: int, compatible_from: int) -> None:
        """Go by what an answer says of the ledger. Raises Unfit when this daemon is too old for it."""
        refuse_newer(compatible_from)
        connection, version = self._connection, min(version, statements.VERSION)
        if connection is None or (connection.lease, connection.version) == (lease, version):
            return
        if lease != connection.lease:
            self._pool.server.follow(lease.length)
            self._say(connection, "limits", statements.LIMITS, *self._pool.server.limits)
        self._connection = replace(connection, lease=lease, version=version)

    def look(self) -> None:
        """See what the ledger shows. Tells Looked."""
        name, sql = ("look", statements.LOOK) if self._history else ("look_bare", statements.LOOK_WITHOUT_HISTORY)
        self._ask(self._looked, (name, sql, (self._lock_id, self._program)))

    def _looked(self, replies: list[Reply], _sent: float) -> None:
        arrived, [reply] = boottime(), replies
        if reply.sqlstate in HISTORY_REFUSED and self._history:
            self._history = False
            self.look()
            return
        self._history = True
        if reply.error is not None or not reply.rows:
            self.disconnect(f"cannot read the ledger: {reply.error.text if reply.error else 'its meta row is gone'}")
            return
        look = ledger.look(reply.rows, self._lock_id)
        if self._connection is None:
            return
        if look.backend != self._connection.pid:
            self.refuse("the session's backend has changed: a connection pooler stands between; give a direct dsn")
            return
        known = self._connection.version
        self._pool.server.memory.learn_epoch(
            max(look.observation.meta.floor, look.observation.row.epoch if look.observation.row else 0)
        )
        try:
            self._follow(look.observation.meta.lease, look.version, look.compatible_from)
        except Unfit as unfit:
            self.refuse(str(unfit))
            return
        if self._connection.version != known:
            self.look()  # what the former schema's statement read may lack what counts now
        else:
            promise = self._pool.server.memory.promise
            promised = Lease(0.0 if promise is None else promise.ceiling)
            self._tell(Looked(replace(look.observation, promised=promised), arrived, self._keeperless()))

    def write_settled(self, settle: Settle) -> None:
        """Write that the ceiling was waited out for this server and ledger. Tells Settled, or Refused on an error."""
        generation = max(settle.generation, self._pool.server.memory.generation)
        values = (settle.system, settle.timeline, settle.place, generation)
        self._ask(lambda replies, _sent: self._settled(replies[0]), ("settle", statements.SETTLE, values))

    def unsettle(self, server: ServerIdentity) -> None:
        """Have everybody wait once more: what this ledger holds has gone back. Nobody waits for the answer."""
        if self._connection is not None:
            self._say(self._connection, "unsettle", statements.UNSETTLE, server.system, server.timeline)

    def _settled(self, reply: Reply) -> None:
        """A refusal is tried again at the pace of looks: what is wrong will not mend itself within a round trip."""
        if reply.error is None or self._connection is None:
            self._tell(Settled())
        else:
            pause = self._connection.lease.renew_every
            self._tell(Refused(pause, f"cannot write that the ledger is settled: {reply.error.text}"))

    # -------------------------------------------------------------------------------------------------- taking over

    def take_over(self, claim: Claim) -> None:
        """Try to begin the claimed term, once the terms that lapsed are closed. Tells Granted or Refused."""
        connection = self._connection
        started = connection.started if connection is not None else 0
        server, lease = claim.server, claim.lengths.trusted.length
        values: tuple[Value, ...] = (self._lock_id, server.system, server.timeline, lease, claim.epoch)
        values = (*values, self._program, self._node, self._instance, started, self._name_lock, server.place)
        name, sql, row = "first_take_over", statements.FIRST_TAKE_OVER, claim.judged
        if row is not None:
            name, sql = "take_over", statements.TAKE_OVER
            renewal = row.renewal + (row in claim.closing)
            values = (*values, row.epoch, renewal, row.system, row.timeline)
        asks: list[tuple[str, str, Sequence[Value]]] = [self._close(one, server) for one in claim.closing]
        if row is not None and row.instance == self._instance and not row.released:
            asks.insert(0, self._terminate_old(row.epoch))  # an earlier worker's session may hold the lock
        asks += [("name_lock", statements.NAME, (self._name_lock,)), (name, sql, values)]
        self._ask(lambda replies, sent: self._taken(claim, replies[-2], replies[-1], sent), *asks)
        if self._blocked_since is not None and connection is not None:
            self._watch_blockers(connection, claim.lengths.pace)

    def _close(self, row: Row, server: ServerIdentity) -> tuple[str, str, Sequence[Value]]:
        """Ask that a term which was waited out is closed, so that nothing new can rest on its epoch."""
        version = (row.lock_id, row.epoch, row.renewal, row.system, row.timeline)
        return "close", statements.CLOSE, (*version, server.system, server.timeline, server.place)

    def _taken(self, claim: Claim, name: Reply, reply: Reply, sent: float) -> None:
        named, locked, count = reply.rows[0] if reply.rows else (None, None, None)
        if count == "1" and reply.acknowledged:
            if not name.rows or name.rows[0][0] != "t":
                self.disconnect("the program's name was granted too late to know who else leads it")
                return
            self._granted, self._blocked_since, self._outrun = True, None, 0
            self._tell(Granted(claim.epoch, claim.lengths, sent))
            self._begin_history(claim.epoch)
            return
        if reply.sqlstate in statements.BLOCKED:
            self._blocked_since = self._blocked_since or sent
        elif reply.error is None:
            self._blocked_since = None
        refused = self._refusal(claim, reply, locked == "t", named == "t")
        self._ask(lambda _replies, _sent: self._tell(refused), ("unlock", statements.UNLOCK, ()))

    def _refusal(self, claim: Claim, reply: Reply, locked: bool, named: bool) -> Refused:
        """Whether somebody was faster, holds the lock, or the server would not."""
        if reply.sqlstate in statements.BLOCKED:
            return Refused(REFUSED_RETRY, ROW_LOCKED)
        if reply.error is not None:
            return Refused(claim.lengths.pace.renew_every, f"cannot take over: {reply.error.text}")
        if not (named and locked):
            self._shut_out(claim.lengths.pace)
        if not named:
            return Refused(REFUSED_RETRY, "another session holds the advisory lock on the program's name")
        if not locked:
            return Refused(REFUSED_RETRY, "another session holds the advisory lock")
        self._outrun += 1  # once is a race; more often the answer itself is in doubt, and a pause is due
        why = (
            "somebody else was faster" if reply.acknowledged else f"the takeover was not acknowledged: {_doubt(reply)}"
        )
        return Refused(0 if self._outrun == 1 else REFUSED_RETRY, why)

    def _begin_history(self, epoch: int) -> None:
        """Write the term into the history; whatever becomes of that, the term has begun."""
        if self._connection is not None:
            self._say(self._connection, "begin_term", statements.BEGIN_TERM, self._lock_id, epoch)

    def _watch_blockers(self, connection: Connection, pace: Lease) -> None:
        """Transactions may hold a takeover or a renewal up; after a whole lease of that an operator must look.

        Asked half-way through its lock timeout: only a backend that already waits is blocked by somebody.
        """
        since = self._blocked_since
        if since is not None and boottime() - since > pace.length:
            asyncio.get_running_loop().call_later(pace.renew_every / 2, self._ask_blockers, connection.pid)

    def _ask_blockers(self, pid: int) -> None:
        _in_passing(self._name_blockers(pid))

    async def _name_blockers(self, pid: int) -> None:
        blockers = await self._pool.listener.blockers(pid)
        if blockers:
            self.on_alarm(f"{self._program}: held up by {blockers}, which holds a lock on the ledger: end that")

    def _shut_out(self, pace: Lease) -> None:
        """Nobody leads, and a lock is not free: once in each lease of that an operator must know who holds it."""
        now = boottime()
        if now - self._shut_out_at > pace.length:  # what was before is another story
            self._shut_out_since = now
        self._shut_out_at = now
        if now - self._shut_out_since > pace.length:
            self._shut_out_since = now
            _in_passing(self._name_holders())

    async def _name_holders(self) -> None:
        holders = await self._pool.listener.holders(self._lock_id, self._name_lock)
        if holders:
            self.on_alarm(
                f"{self._program}: nobody leads, for its advisory lock is held by {holders}: end that session; if it "
                "should not be there, REVOKE CONNECT ON DATABASE ... FROM PUBLIC"
            )

    # ------------------------------------------------------------------------------------------ renewing, releasing

    def renew(self, epoch: int, lease: Lease) -> None:
        """Prolong the term under ``lease``; a session that holds no lock takes it back in the same statement.

        Tells Renewed, Curtailed, Overruled or Contended; Detached when the answer leaves a doubt.
        """
        values: tuple[Value, ...] = (self._lock_id, epoch, self._instance, lease.length)
        if self._granted:
            self._ask(lambda replies, sent: self._renewed(lease, replies[0], sent), ("renew", statements.RENEW, values))
        else:
            started = self._connection.started if self._connection is not None else 0
            reattach = ("reattach", statements.REATTACH, (*values, started, self._name_lock))
            self._ask(lambda replies, sent: self._reattached(epoch, lease, replies[0], sent), reattach)
        if self._blocked_since is not None and self._connection is not None:
            self._watch_blockers(self._connection, self._connection.lease)

    def _renewed(self, asked: Lease, reply: Reply, sent: float) -> None:
        if reply.acknowledged and reply.rows:
            self._prolonged(asked, reply.rows[0], sent)
        elif reply.sqlstate in statements.UNDEFINED or (reply.error is None and not reply.rows):
            self._unmatched(asked)
        else:
            self._doubted("renewal", reply, sent)

    def _prolonged(self, asked: Lease, values: Sequence[str | None], sent: float) -> None:
        """The row is renewed; a ledger that is not for daemons of this version any more ends our trust by the clock."""
        self._blocked_since = None
        written = ledger.written(values, asked)
        try:
            self._follow(written.lengths.pace, written.version, written.compatible_from)
        except Unfit as unfit:
            self.refuse(str(unfit))
        else:
            self._tell(Renewed(sent, written.lengths))

    def _unmatched(self, asked: Lease) -> None:
        """No row was changed: it is not ours, or the ledger promises no lease as long as the one that was asked for."""
        pace = asked if self._connection is None else self._connection.lease
        self._tell(LeaseRefused(pace) if asked.length > pace.length else Overruled())

    def _doubted(self, what: str, reply: Reply, sent: float) -> None:
        if reply.sqlstate in statements.BLOCKED:
            self._blocked_since = self._blocked_since or sent
            self.disconnect(f"the {what} waited for another transaction, which holds a lock on the ledger's row")
        else:
            self.disconnect(f"the {what} was not acknowledged: {_doubt(reply)}")

    def _reattached(self, epoch: int, asked: Lease, reply: Reply, sent: float) -> None:
        if reply.sqlstate in statements.UNDEFINED:
            self._tell(Overruled())
            return
        if not reply.acknowledged or not reply.rows:
            self._doubted("reattachment", reply, sent)
            return
        *lengths, granted, renewed = reply.rows[0]
        if granted != "t":
            self._ask(lambda _replies, _sent: self._tell(Contended()), self._terminate_old(epoch))
        elif renewed == "1":
            self._granted = True
            self._prolonged(asked, lengths, sent)
            self._begin_history(epoch)  # the session that should have written it may have been lost before
        else:
            self._unmatched(asked)

    def _terminate_old(self, epoch: int) -> tuple[str, str, Sequence[Value]]:
        """Ask for the end of former sessions of this term: the row's, and those that this worker remembers."""
        pids, starts = [pid for pid, _ in self._former], [start for _, start in self._former]
        ours: tuple[Value, ...] = (self._lock_id, epoch, self._instance)
        return "terminate_old", statements.TERMINATE_OLD, (*ours, pids, starts)

    def release(self, epoch: int, cause: Cause, reservation: Reservation | None) -> None:
        """End the term: the row, then the lock, then the notification, each committed by itself.

        Tells Unlocked when the row is released or was overtaken; Detached when the answer leaves a doubt.
        """
        node, seconds = (None, None) if reservation is None else (reservation.node, reservation.seconds)
        # A former session that missed its client's death would keep the lock from the next leader.
        first = [] if self._granted else [self._terminate_old(epoch)]
        self._granted = False
        self._ask(
            lambda replies, _sent: self._released(*replies[len(first) : len(first) + 2]),
            *first,
            ("release", statements.RELEASE, (self._lock_id, epoch, self._instance, cause.value, node, seconds)),
            ("unlock", statements.UNLOCK, ()),
            ("notify", statements.NOTIFY, (self._ledger.channel, str(self._lock_id))),
            ("end_term", statements.END_TERM, (self._lock_id, epoch, cause.value)),
        )

    def _released(self, release: Reply, unlock: Reply) -> None:
        if release.acknowledged and unlock.error is None:
            self._pool.listener.prune(self._lock_id)
            self._tell(Unlocked())
        else:
            self.disconnect(f"the release was not acknowledged: {_doubt(release)}")


KEEP_ALIVE: Final = "SELECT 1"
NAME: Final = "SELECT set_config('application_name', $1::text, false)"

HISTORY_REFUSED: Final = statements.BLOCKED | statements.UNDEFINED | {statements.INSUFFICIENT_PRIVILEGE}
"""SQLSTATEs after which a look is repeated without the history."""


def _in_passing(question: Coroutine[None, None, None]) -> None:
    """Have it asked and told about; a loss of the session ends it without a word."""
    asyncio.ensure_future(question).add_done_callback(lambda done: done.cancelled() or done.exception())


def _doubt(reply: Reply) -> str:
    """Say why a reply does not count."""
    if reply.error is not None:
        return reply.error.text
    return reply.warnings[0].text if reply.warnings else "it did not say that one row was changed"
