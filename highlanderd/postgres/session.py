"""One program's lock connection: look, take over, renew, release, and take the lock back after a loss.

It performs what the machine asks, one request at a time, and tells how it ended. What is in doubt is never told as
success: an answer that did not come, or came with a warning, costs the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from highlanderd.core.lease import Claim, Settle
from highlanderd.core.words import (
    Attached,
    Cause,
    Contended,
    Detached,
    Event,
    Granted,
    Looked,
    Notified,
    Overruled,
    Refused,
    Renewed,
    Reservation,
    Settled,
    Unlocked,
)
from highlanderd.linux import boottime
from highlanderd.postgres import ledger
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.server import Hello
from highlanderd.postgres.wire import Reply, Value

log = logging.getLogger(__name__)

REFUSED_RETRY: Final = 0.2
"""Seconds until a lock that another session holds is tried again."""
RECONNECT_PAUSE: Final = 0.2
"""Seconds before a session that we dropped ourselves is replaced: the reason may still be there."""
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
        self._pool, self._book = pool, pool.book
        self._program, self._lock_id, self._node, self._instance = program, lock_id, node, instance
        self._keeperless, self._tell = keeperless, tell
        self._hello: Hello | None = None
        self._number = 0
        self._closed = False
        self._asked = 0.0
        self.believed: int | None = None
        """The session that the machine has heard of; what it asks of an earlier one is not for the present one."""
        self._granted = False
        self._former: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        self._unhint = pool.listener.hint(lock_id, self._hinted)
        self._blocked_since: float | None = None
        self._outrun = 0
        """How often in a row a takeover was granted the lock and changed no row."""
        self.urgency = inf
        """When the lease that hangs on a connection ends; told by the program."""
        self.on_alarm: Callable[[str], None] = log.warning

    @property
    def connected(self) -> bool:
        """Whether there is a session at the moment."""
        return self._hello is not None

    def open(self) -> None:
        """Begin to seek a connection, and never stop until ``close``."""
        self._pool.seek(self)

    def close(self) -> None:
        """Leave; the connection ends, and with it whatever lock it held."""
        self._closed = True
        self._unhint()
        self._pool.forget(self)
        if self._hello is not None:
            self._hello.wire.on_lost = lambda _: None
            self._hello.wire.drop("closed")
            self._hello = None

    def deliver(self, hello: Hello) -> None:
        """Take over a verified connection."""
        self._hello, self._granted = hello, False
        self._number += 1
        self._former.append((hello.pid, hello.started))
        hello.wire.on_lost = self._lost
        self._say(hello, "name", NAME, f"highlanderd/{self._node}/{self._program}"[:63])
        self._tell(Attached(self._number))

    def keep_alive(self) -> None:
        """Say something if nothing was asked for half a lease."""
        if self._hello is not None and boottime() - self._asked > self._hello.lease.length / 2:
            self._say(self._hello, "keep_alive", KEEP_ALIVE)

    def _say(self, hello: Hello, name: str, sql: str, *values: Value) -> None:
        """Ask something whose answer does not matter."""
        self._asked = boottime()
        future = hello.wire.ask([(self._book.statement(name, sql), values)], hello.lease.answer_within)
        future.add_done_callback(lambda done: done.exception())

    def _hinted(self) -> None:
        if self._hello is not None:
            self._tell(Notified())

    def _lost(self, why: str) -> None:
        self._hello, self._granted = None, False
        self._pool.lost(why)
        self._tell(Detached(f"no session with PostgreSQL: {why}"))
        self._pool.seek(self)

    def disconnect(self, why: str) -> None:
        """Drop the session, and seek another one a little later: what was wrong with it may still be wrong."""
        if self._hello is None or self.believed != self._number:
            return
        hello, self._hello, self._granted = self._hello, None, False
        hello.wire.on_lost = lambda _: None
        hello.wire.drop(why)
        self._tell(Detached(why))
        asyncio.get_running_loop().call_later(RECONNECT_PAUSE, self._seek_again)

    def _seek_again(self) -> None:
        if self._hello is None and not self._closed:
            self._pool.seek(self)

    def refuse(self, why: str) -> None:
        """Drop the session because its server must not be used, and tell an operator."""
        self.on_alarm(f"{self._program}: {why}")
        self.disconnect(why)

    # ------------------------------------------------------------------------------------------------------ asking

    def _ask(self, answer: Answer, *asks: tuple[str, str, Sequence[Value]]) -> None:
        """Send, remember when, and hand the replies to ``answer`` with that moment; a loss tells itself.

        What was meant for a session that is gone is dropped: its Detached is on the way to the machine.
        """
        hello = self._hello
        if hello is None or self.believed != self._number:
            return
        sent = self._asked = boottime()
        statements = [(self._book.statement(name, sql), values) for name, sql, values in asks]
        future = hello.wire.ask(statements, hello.lease.answer_within)

        def done(replies: asyncio.Future[list[Reply]]) -> None:
            if replies.exception() is None and self._hello is hello:
                answer(replies.result(), sent)

        future.add_done_callback(done)

    def look(self) -> None:
        """See what the ledger shows. Tells Looked."""
        self._ask(self._looked, ("look", ledger.LOOK, (self._lock_id, self._program)))

    def _looked(self, replies: list[Reply], _sent: float) -> None:
        arrived, [reply] = boottime(), replies
        if reply.error is not None or not reply.rows:
            self.disconnect(f"cannot read the ledger: {reply.error.text if reply.error else 'its meta row is gone'}")
            return
        if self._hello is not None and reply.rows[0][-1] != str(self._hello.pid):
            self.refuse("the session's backend has changed: a connection pooler stands between; give a direct dsn")
            return
        sight = ledger.sight(reply.rows, self._lock_id)
        if self._hello is not None and sight.meta.lease != self._hello.lease:
            self._pool.server.follow(sight.meta.lease)
            self.disconnect(f"connecting anew for the ledger's lease of {sight.meta.lease.length:g} s")
            return
        self._tell(Looked(sight, arrived, self._keeperless()))

    def write_settled(self, settle: Settle) -> None:
        """Write that a whole lease was waited out for this server. Tells Settled, or Refused on an error."""
        values = (settle.system, settle.timeline)
        self._ask(lambda replies, _sent: self._settled(replies[0]), ("settle", ledger.SETTLE, values))

    def _settled(self, reply: Reply) -> None:
        """A refusal is tried again at the pace of looks: what is wrong will not mend itself within a round trip."""
        if reply.error is None or self._hello is None:
            self._tell(Settled())
        else:
            pause = self._hello.lease.renew_every
            self._tell(Refused(pause, f"cannot write that the ledger is settled: {reply.error.text}"))

    # -------------------------------------------------------------------------------------------------- taking over

    def take_over(self, claim: Claim) -> None:
        """Try to begin the claimed term. Tells Granted or Refused."""
        hello = self._hello
        started = hello.started if hello is not None else 0
        common = (self._lock_id, claim.system, claim.timeline, claim.lease.length, claim.epoch)
        values: tuple[Value, ...] = (*common, self._program, self._node, self._instance, started)
        name, sql = "first_take_over", ledger.FIRST_TAKE_OVER
        if claim.judged is not None:
            row = claim.judged
            name, sql = "take_over", ledger.TAKE_OVER
            values = (*values, row.epoch, row.renewal, row.system, row.timeline)
        asks: list[tuple[str, str, Sequence[Value]]] = [(name, sql, values)]
        if claim.judged is not None and claim.judged.instance == self._instance and not claim.judged.released:
            asks.insert(0, self._terminate_old(claim.judged.epoch))  # an earlier worker's session may hold the lock
        self._ask(lambda replies, sent: self._taken(claim, replies[-1], sent), *asks)
        if self._blocked_since is not None and hello is not None:
            self._watch_blockers(hello, claim)

    def _taken(self, claim: Claim, reply: Reply, sent: float) -> None:
        granted, taken = (reply.rows[0][0] == "t", reply.rows[0][1] == "1") if reply.rows else (False, False)
        if granted and taken and reply.acknowledged:
            self._granted, self._blocked_since, self._outrun = True, None, 0
            self._tell(Granted(claim.epoch, claim.lease, sent))
            return
        if reply.sqlstate == ledger.LOCK_NOT_AVAILABLE:
            self._blocked_since = self._blocked_since or sent
        refused = self._refusal(claim, reply, granted)
        self._ask(lambda _replies, _sent: self._tell(refused), ("unlock", ledger.UNLOCK, ()))

    def _refusal(self, claim: Claim, reply: Reply, granted: bool) -> Refused:
        """Whether somebody was faster, holds the lock, or the server would not."""
        if reply.sqlstate != ledger.LOCK_NOT_AVAILABLE:
            self._blocked_since = None
        if reply.sqlstate == ledger.LOCK_NOT_AVAILABLE:
            return Refused(REFUSED_RETRY, "a transaction of the last leader's child still holds the ledger's row")
        if reply.error is not None:
            return Refused(claim.lease.renew_every, f"cannot take over: {reply.error.text}")
        if not granted:
            return Refused(REFUSED_RETRY, "another session holds the advisory lock")
        self._outrun += 1  # once is a race; more often the answer itself is in doubt, and a pause is due
        why = (
            "somebody else was faster" if reply.acknowledged else f"the takeover was not acknowledged: {_doubt(reply)}"
        )
        return Refused(0 if self._outrun == 1 else REFUSED_RETRY, why)

    def _watch_blockers(self, hello: Hello, claim: Claim) -> None:
        """Children's transactions may hold a takeover up; after a whole lease of that an operator must look.

        Asked half-way through its lock timeout: only a backend that already waits is blocked by somebody.
        """
        since = self._blocked_since
        if since is not None and boottime() - since > claim.lease.length:
            asyncio.get_running_loop().call_later(claim.lease.renew_every / 2, self._ask_blockers, hello.pid)

    def _ask_blockers(self, pid: int) -> None:
        task = asyncio.ensure_future(self._name_blockers(pid))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _name_blockers(self, pid: int) -> None:
        blockers = await self._pool.listener.blockers(pid)
        if blockers:
            self.on_alarm(f"{self._program}: the takeover is held up by {blockers}, which called assert_leader")

    # ------------------------------------------------------------------------------------------ renewing, releasing

    def renew(self, epoch: int) -> None:
        """Prolong the term; a session that holds no lock takes it back in the same statement.

        Tells Renewed, Overruled or Contended; Detached when the answer leaves a doubt.
        """
        ours = (self._lock_id, epoch, self._instance)
        if self._granted:
            self._ask(self._renewed, ("renew", ledger.RENEW, ours))
            return
        started = self._hello.started if self._hello is not None else 0
        reattach = ("reattach", ledger.REATTACH, (*ours, started))
        self._ask(lambda replies, sent: self._reattached(ours, replies[0], sent), reattach)

    def _renewed(self, replies: list[Reply], sent: float) -> None:
        [reply] = replies
        if reply.sqlstate in ledger.UNDEFINED or (reply.error is None and reply.affected == 0):
            self._tell(Overruled())
        elif reply.acknowledged and reply.affected == 1:
            self._tell(Renewed(sent))
        else:
            self.disconnect(f"the renewal was not acknowledged: {_doubt(reply)}")

    def _reattached(self, ours: tuple[int, int, str], reply: Reply, sent: float) -> None:
        if reply.sqlstate in ledger.UNDEFINED:
            self._tell(Overruled())
            return
        if not reply.acknowledged or not reply.rows:
            self.disconnect(f"the reattachment was not acknowledged: {_doubt(reply)}")
            return
        granted, renewed = reply.rows[0][0] == "t", reply.rows[0][1] == "1"
        if not granted:
            self._ask(lambda _replies, _sent: self._tell(Contended()), self._terminate_old(ours[1]))
        elif renewed:
            self._granted = True
            self._tell(Renewed(sent))
        else:
            self._tell(Overruled())

    def _terminate_old(self, epoch: int) -> tuple[str, str, Sequence[Value]]:
        """Ask for the end of former sessions of this term: the row's, and those that this worker remembers."""
        pids, starts = [pid for pid, _ in self._former], [start for _, start in self._former]
        ours: tuple[Value, ...] = (self._lock_id, epoch, self._instance)
        return "terminate_old", ledger.TERMINATE_OLD, (*ours, pids, starts)

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
            ("release", ledger.RELEASE, (self._lock_id, epoch, self._instance, cause.value, node, seconds)),
            ("unlock", ledger.UNLOCK, ()),
            ("notify", ledger.NOTIFY, (self._book.channel, str(self._lock_id))),
            ("prune", ledger.PRUNE, (self._lock_id,)),
        )

    def _released(self, release: Reply, unlock: Reply) -> None:
        if release.acknowledged and unlock.error is None:
            self._tell(Unlocked())
        else:
            self.disconnect(f"the release was not acknowledged: {_doubt(release)}")


KEEP_ALIVE: Final = "SELECT 1"
NAME: Final = "SELECT set_config('application_name', $1::text, false)"


def _doubt(reply: Reply) -> str:
    """Say why a reply does not count."""
    if reply.error is not None:
        return reply.error.text
    return reply.warnings[0].text if reply.warnings else "it did not say that one row was changed"
