"""The connection that a program's lock is held on: seek one, ask on it, lose it, seek the next one.

``session.py`` says what is asked, and what the answers mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from msgspec import Struct

from highlanderd.core.events import Attached, Detached, Event, Notified
from highlanderd.core.key import AdvisoryLock
from highlanderd.core.lease import Lease
from highlanderd.postgres.connection import RECONNECT_PAUSE, Connection
from highlanderd.postgres.fitness import refuse_newer
from highlanderd.postgres.joint import JointClient, JointConnection
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.replies import Query, Reply, Statement, Value
from highlanderd.postgres.sql import connecting, dialect, leading
from highlanderd.postgres.sql.joint import UNLOCK_ONE
from highlanderd.structs import replace
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

REMEMBERED: Final = 8
"""Former backends of this program that may still hold its lock, if their network died."""

Answered = Callable[[list[Reply], float], None]
"""Called with the replies, and the CLOCK_BOOTTIME moment at which the queries were sent."""


class ProgramLock(Struct, frozen=True):
    """The lock of one program, and the node that asks for it."""

    program: str
    lock_id: int
    advisory: AdvisoryLock
    name_lock: int
    """The lock id of the program's name, which two different lock keys for one program have in common."""
    node: str
    instance: str


class Seeking(Struct, frozen=True):
    """There is no connection. The pool was asked for one, or will be after a pause."""


class Connected(Struct, frozen=True):
    """There is a connection."""

    connection: Connection
    granted: bool = False
    """Whether its backend holds the lock."""


class Sharing(Struct, frozen=True):
    """There is a connection that others use, too. It carries looks, and never a lock."""

    connection: Connection


class Joined(Struct, frozen=True):
    """There is a connection that holds the locks of others, too."""

    joint: JointConnection
    granted: bool = False
    """Whether it holds the lock of this program."""

    @property
    def connection(self) -> Connection:
        """The connection."""
        return self.joint.connection


_Delivered = Connected | Joined | Sharing


class Closed(Struct, frozen=True):
    """The program has left: there will be no other connection."""


class LockConnection(JointClient):
    """The present connection of one program, and the search for the next one."""

    def __init__(
        self, pool: Pool, lock: ProgramLock, *, post: Callable[[Event], None], on_alarm: Callable[[str], None]
    ) -> None:
        """Make one without a connection. ``post`` is called with each event, and must do no more than queue it."""
        self.pool, self.lock, self.post, self.on_alarm = pool, lock, post, on_alarm
        self.state: Seeking | Connected | Joined | Sharing | Closed = Seeking()
        self._lease_end = inf
        self._known: int | None = None
        """The number of the session that the machine knows of; None once it knows of the loss."""
        self.number = 0
        """The number of the latest session."""
        self._asked = 0.0
        self._apart = False
        """Whether the next connection is to be its own, because it has left one that was not."""
        self._former: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        self._end_hints = pool.listener.hint(lock.lock_id, self._hinted)

    @property
    def connection(self) -> Connection | None:
        """The present connection."""
        return self.state.connection if isinstance(self.state, _Delivered) else None

    @property
    def own(self) -> Connection | None:
        """The present connection, if it is no other program's, too."""
        return self.state.connection if isinstance(self.state, Connected) else None

    @property
    def joint(self) -> JointConnection | None:
        """The present connection, if it holds the locks of others, too."""
        return self.state.joint if isinstance(self.state, Joined) else None

    @property
    def undivided(self) -> bool:
        """Whether the present connection is no other program's, too."""
        return self.own is not None

    @property
    def connected(self) -> bool:
        """Whether there is a session at the moment."""
        return isinstance(self.state, _Delivered)

    @property
    def schema(self) -> int:
        """The version of the ledger's schema as this session has last seen it; 0 without a connection."""
        return 0 if self.connection is None else self.connection.version

    @property
    def granted(self) -> bool:
        """Whether the present session holds the lock."""
        return isinstance(self.state, Connected | Joined) and self.state.granted

    @property
    def urgency(self) -> float:
        """When the lease that hangs on a connection ends, in CLOCK_BOOTTIME seconds; infinity for no lease."""
        return self._lease_end

    def note_stake(self, lease_end: float) -> None:
        """Note when the lease that hangs on a connection ends, in CLOCK_BOOTTIME seconds; infinity for no lease."""
        self._lease_end = lease_end
        if lease_end == inf and isinstance(self.state, Joined):
            self._leave("its term is over: it seeks a connection of its own")
            self._seek()

    def note_known(self, number: int | None) -> None:
        """Note which session the machine knows of: ``number`` is from Attached, and None stands for Detached."""
        self._known = number

    def knows(self, number: int) -> bool:
        """Return whether that session is the present one as far as the machine knows."""
        return self._known == number == self.number

    def note_granted(self, granted: bool) -> None:
        """Note whether the present session holds the lock."""
        if isinstance(self.state, Connected | Joined):
            self.state = replace(self.state, granted=granted)

    # ------------------------------------------------------------------------------------------- coming and going

    def open(self) -> None:
        """Begin to seek a connection, and never stop until ``close``."""
        self._seek()

    def _seek(self) -> None:
        self.pool.request(self)

    def close(self) -> None:
        """Leave. The connection ends, and with it each lock that it held."""
        connection, joint, unlock = self.own, self.joint, self.unlocking
        self.state = Closed()
        self._end_hints()
        self.pool.forget(self)
        if joint is not None:
            joint.leave(self, unlock)
        if connection is not None:
            connection.wire.drop("closed")

    def deliver(self, connection: Connection) -> None:
        """Use a verified connection from now on. Posts Attached."""
        self._begin(connection)
        self._attach()

    @property
    def joinable(self) -> bool:
        """Whether it waits for a connection, for the sake of a lease, and one in common with others would do."""
        return self._lease_end < inf and isinstance(self.state, Seeking) and not self._apart

    def join(self, joint: JointConnection) -> None:
        """Use a joint connection from now on. Posts Attached."""
        self.state = Joined(joint)
        self._former.append((joint.connection.pid, joint.connection.identified))
        self._attach()

    def _leave(self, why: str) -> None:
        """Leave the joint connection, and have the lock freed there. Posts Detached."""
        joint, unlock = self.joint, self.unlocking
        self.state = Seeking()
        if joint is not None:
            joint.leave(self, unlock)
        self.post(Detached(why))

    def parted(self, why: str, pause: float) -> None:
        """Seek another connection ``pause`` seconds later: the joint one has ended. Posts Detached."""
        self.state = Seeking()
        self.post(Detached(why))
        self._seek_later(pause)

    def stay_apart(self) -> None:
        """Have the next connection be this program's own."""
        self._apart = True

    def _begin(self, connection: Connection) -> None:
        self.state, self._apart = Connected(connection), False
        self._former.append((connection.pid, connection.identified))
        connection.wire.assign(self)
        name = connecting.application_name(f"{self.lock.node}/{self.lock.program}")
        self.say("begin_session", connecting.BEGIN_SESSION, name)

    def _attach(self) -> None:
        self.number += 1
        self.post(Attached(self.number))

    def notified(self, payload: str) -> None:
        """Ignore it: only the listener's session listens."""

    def lost(self, why: str) -> None:
        """Seek another connection at once. Posts Detached. A session that was dropped here is no loss."""
        connection = self.own
        if connection is None:
            return
        self.state = Seeking()
        self.pool.lost(connection, why)
        self.post(Detached(f"no session with PostgreSQL: {why}"))
        self._seek()

    def disconnect(self, why: str, pause: float = RECONNECT_PAUSE) -> None:
        """Drop the session, and seek another one ``pause`` seconds later: what was wrong may still be wrong.

        A joint one is left to the others, and the next one is this program's own.
        """
        if self.connection is None or not self.knows(self.number):
            return
        if self.joint is not None:
            self._apart = True
            self._leave(why)
        else:
            connection, self.state = self.own, Seeking()
            if connection is not None:
                connection.wire.drop(why)
            self.post(Detached(why))
        self._seek_later(pause)

    def _seek_later(self, pause: float) -> None:
        asyncio.get_running_loop().call_later(pause, self._request_again)

    def _request_again(self) -> None:
        if isinstance(self.state, Seeking):
            self._seek()

    def refuse(self, why: str) -> None:
        """Drop the session because its server must not be used, and raise an alarm."""
        self.on_alarm(f"{self.lock.program}: {why}")
        self.disconnect(why, self.pool.server.lease.renew_every)

    def _hinted(self) -> None:
        if self.connected:
            self.post(Notified())

    # ------------------------------------------------------------------------------------------------------ asking

    def keep_alive(self) -> None:
        """Send something if nothing was asked for half a lease."""
        if (connection := self.own) is not None:
            self._asked = connection.keep_alive(self._asked)
        elif (joint := self.joint) is not None:
            joint.keep_alive()

    def say(self, name: str, sql: str, *values: Value) -> None:
        """Send a query whose answer does not matter, if there is a session."""
        connection = self.connection
        if connection is not None:
            self._asked = boottime()
            connection.say(self._statement(name, sql), values)

    def ask(
        self,
        answered: Answered,
        *queries: Query,
        unanswered: Callable[[], None] = lambda: None,
        due_since: float | None = None,
    ) -> None:
        """Send queries, and call ``answered`` with the replies, or ``unanswered`` when the connection ends first.

        A query that was meant for an earlier session is dropped: its Detached is on the way to the machine.
        ``due_since`` is when another session was asked the same for this one, in CLOCK_BOOTTIME seconds: the time that
        the answer may take runs from then on.
        """
        connection = self.connection
        if connection is None or not self.knows(self.number):
            unanswered()
            return
        sent = self._asked = boottime()
        asks = [(self._statement(name, sql), values) for name, sql, values in queries]
        lease = connection.lease
        passed = 0.0 if due_since is None else min(sent - due_since, lease.together_within)
        future = connection.wire.ask(asks, lease.answer_within - passed)

        def done(replies: asyncio.Future[list[Reply]]) -> None:
            if (
                replies.exception() is not None
                or self.connection is None
                or self.connection.wire is not connection.wire
            ):
                unanswered()
                return
            try:
                answered(replies.result(), sent)
            except Exception as error:  # noqa: BLE001 - whatever it was, the machine must learn that its question has ended
                self.cannot_read(error)

        future.add_done_callback(done)

    def cannot_read(self, error: Exception) -> None:
        """Drop the session and raise an alarm: what the ledger holds cannot be read."""
        why = "an answer of PostgreSQL cannot be read"
        self.pool.server.notes.unforeseen(f"{self.lock.program}: {why}", error)
        self.refuse(f"{why}: {error}")

    def _statement(self, name: str, sql: str) -> Statement:
        """Return a statement for the schema as this session has last seen it."""
        version = dialect.VERSION if self.connection is None else self.connection.version
        return self.pool.ledger.statement(name, sql, version)

    def follow(self, lease: Lease, version: int, compatible_from: int) -> None:
        """Go by what an answer says of the ledger. Raises Unfit when this daemon is too old for it."""
        refuse_newer(compatible_from)
        state, version = self.state, min(version, dialect.VERSION)
        if isinstance(state, Joined):
            state.joint.follow(lease, version)
        if not isinstance(state, Connected):
            return
        if lease != state.connection.lease:
            self.pool.server.follow(lease.length)
            self.say("limits", connecting.LIMITS, *self.pool.server.limits)
        self.state = replace(state, connection=replace(state.connection, lease=lease, version=version))

    @property
    def unlocking(self) -> list[Query]:
        """The query that frees the lock here: it may be the only one of this connection, or not even be held."""
        if not isinstance(self.state, Joined):
            return [("unlock", leading.UNLOCK, ())]
        return [self.unlock_one] if self.state.granted else []

    @property
    def unlock_one(self) -> Query:
        """The query that frees the lock of this program, among others."""
        return "unlock_one", UNLOCK_ONE, (self.lock.lock_id, *self.lock.advisory.pair, self.lock.name_lock)

    def terminate_old(self, epoch: int) -> Query:
        """Return the query that ends former sessions of this term."""
        return terminate_old([(self, epoch)])

    @property
    def former(self) -> Sequence[tuple[int, int]]:
        """The backends of its former sessions, and when they identified themselves, as this worker remembers them."""
        return self._former


def terminate_old(terms: Sequence[tuple[LockConnection, int]]) -> Query:
    """Return the query that ends former sessions of these terms of one pool, each with its epoch.

    It ends those of the rows, and those that this worker remembers, but for joint ones that live on for others.
    """
    lines = [line for line, _ in terms]
    former = {backend for line in lines for backend in line.former}
    values: tuple[Value, ...] = (
        [line.lock.lock_id for line in lines],
        [epoch for _, epoch in terms],
        lines[0].lock.instance,
        [pid for pid, _ in former],
        [moment for _, moment in former],
        lines[0].pool.joints.pids,
    )
    return "terminate_old", leading.TERMINATE_OLD, values
