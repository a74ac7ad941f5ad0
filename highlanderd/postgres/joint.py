"""Joint connections: each holds the locks of many programs, after many sessions were lost at once.

To open a session costs the server many times what it costs to take a lock. When many programs with a lease at stake
wait for a connection, the first that comes is for up to ``AT_ONCE`` of them, the most urgent first, and so are the next
ones. For each program it is its session: it takes the lock back and renews there (``joint_renewal.py``), and it
releases there. It stays so until its term is over. A joint connection holds no lock of a program that is not its
member, begins no term, and carries no statement that waits for a row or for the history, which others may have locked.

A program leaves it when its term is over, and when its own row makes trouble: it has its lock freed there, and seeks a
connection of its own, as each program does that is not one of many. What concerns all, such as an answer in doubt, ends
the connection, and each of them seeks another one. Two things may be for the row of a single program: where the server
has refused a statement, each seeks a connection of its own; where it has ended one that took too long, there is no time
for so many, and connections are for few programs each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import ceil
from typing import Final, Protocol

from highlanderd.core.lease import Lease
from highlanderd.postgres.connection import RECONNECT_PAUSE, Client, Connection
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import Query, Reply
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import connecting
from highlanderd.postgres.turn_batch import AT_ONCE
from highlanderd.structs import replace
from highlanderd.system.linux import boottime

MANY: Final = 4
"""Programs with a lease at stake that wait for a connection. Fewer have one each at once."""
FEW: Final = 8
"""Programs that share a connection in the lease after a statement that took too long."""


class JointClient(Client):
    """The session of a program, which may have its lock held on a joint connection."""

    @property
    @abstractmethod
    def joinable(self) -> bool:
        """Whether it waits for a connection, and one that it has in common with others would do."""

    @abstractmethod
    def join(self, joint: JointConnection) -> None:
        """Use this connection from now on."""

    @abstractmethod
    def parted(self, why: str, pause: float) -> None:
        """Do without: the connection has ended. Seek another one ``pause`` seconds later."""


class JointPool(Protocol):
    """What is needed of the pool."""

    server: Server
    ledger: Ledger

    def lost(self, connection: Connection, why: str) -> None:
        """Note that a session was lost."""


class JointConnection:
    """One connection, and the programs whose session it is."""

    def __init__(self, group: JointConnections, connection: Connection) -> None:
        self._group, self.connection = group, connection
        self._members: dict[JointClient, None] = {}
        self._asked = boottime()
        connection.wire.assign(self)
        self.ask(lambda _replies, _sent: None, ("begin_session", connecting.BEGIN_SESSION, (group.name,)))

    @property
    def room(self) -> int:
        """How many programs more it may have; none while an answer is late."""
        prompt = self.connection.wire.idle or boottime() < self._asked + self.connection.lease.together_within
        return max(self._group.most - len(self._members), 0) if prompt else 0

    def admit(self, member: JointClient) -> None:
        """Be the session of this program."""
        self._members[member] = None
        member.join(self)

    def leave(self, member: JointClient, unlock: Sequence[Query]) -> None:
        """Be that no more; ``unlock`` frees its lock, if that is held. Without members the connection ends."""
        self._members.pop(member, None)
        if not self._members:
            self.give_up("no program needs it any more")
        elif unlock:
            self.ask(lambda replies, _sent: self.note_unlocked(replies), *unlock)

    def note_unlocked(self, replies: Sequence[Reply]) -> bool:
        """Return whether a lock was freed beyond doubt. If not, the connection ends, and all of its locks with it."""
        freed = all(reply.error is None and {"t"}.issuperset(reply.rows[0]) for reply in replies)
        if not freed:
            self.give_up("it could not free the lock of a program")
        return freed

    def ask(self, answered: Callable[[list[Reply], float], object], *queries: Query) -> None:
        """Send queries, and call ``answered`` with the replies and the moment of sending. If it ends, nobody is called.

        That moment is of CLOCK_BOOTTIME, in seconds. What ``answered`` raises ends the connection.
        """
        connection, sent = self.connection, boottime()
        self._asked = sent
        asks = [
            (self._group.pool.ledger.statement(name, sql, connection.version), values) for name, sql, values in queries
        ]

        def done(_: object) -> None:
            if replies.exception() is not None or not connection.wire.open:
                return
            try:
                answered(replies.result(), sent)
            except Exception as error:  # noqa: BLE001 - the ledger may hold anything, and the members must go on
                self._group.pool.server.notes.unforeseen("an answer of PostgreSQL cannot be read", error)
                self.give_up(f"an answer of PostgreSQL cannot be read: {error}")

        replies = connection.wire.ask(asks, connection.lease.answer_within)
        replies.add_done_callback(done)

    def follow(self, lease: Lease, version: int) -> None:
        """Go by what an answer says of the ledger."""
        former = self.connection
        if (former.lease, former.version) == (lease, version):
            return
        self.connection = replace(former, lease=lease, version=version)
        if former.lease != lease:
            self._group.pool.server.follow(lease.length)
            limits = "limits", connecting.LIMITS, self._group.pool.server.limits
            self.ask(lambda _replies, _sent: None, limits)

    def keep_alive(self) -> None:
        """Send something if nothing was asked for half a lease."""
        self._asked = self.connection.keep_alive(self._asked)

    def give_up(self, why: str) -> None:
        """End it: each of its programs seeks another one, after a pause."""
        self._end(why, RECONNECT_PAUSE)
        self.connection.wire.drop(why)

    def split(self, why: str) -> None:
        """End it, and have few programs share each of the next ones."""
        self._group.part(self.connection.lease)
        self.give_up(why)

    def notified(self, payload: str) -> None:
        """Ignore it: only the listener's session listens."""

    def lost(self, why: str) -> None:
        """Have each of its programs seek another one at once, unless it was given up."""
        if self._group.holds(self):
            self._group.pool.lost(self.connection, why)
            self._end(f"no session with PostgreSQL: {why}", 0.0)

    def _end(self, why: str, pause: float) -> None:
        self._group.forget(self)
        members, self._members = self._members, {}
        for member in members:
            member.parted(why, pause)


class JointConnections:
    """The joint connections of one pool."""

    def __init__(self, pool: JointPool) -> None:
        self.pool = pool
        self._open: dict[JointConnection, None] = {}
        self._few_until = 0.0
        """Until when few programs share each connection, in CLOCK_BOOTTIME seconds."""

    @property
    def most(self) -> int:
        """How many programs one connection may be for."""
        return FEW if boottime() < self._few_until else AT_ONCE

    def part(self, lease: Lease) -> None:
        """Have few programs share each connection that they seek within a lease."""
        self._few_until = boottime() + lease.length

    @property
    def name(self) -> str:
        """How sessions call themselves that belong to no single program."""
        return connecting.application_name(self.pool.server.node)

    @property
    def pids(self) -> list[int]:
        """The backends of those that are open."""
        return [joint.connection.pid for joint in self._open]

    def has(self, connection: Connection) -> bool:
        """Return whether a connection is one of these."""
        return any(joint.connection.wire is connection.wire for joint in self._open)

    def holds(self, joint: JointConnection) -> bool:
        """Return whether it is one of these."""
        return joint in self._open

    def forget(self, joint: JointConnection) -> None:
        """Note that it has ended."""
        self._open.pop(joint, None)

    def needed(self, waiting: int) -> int:
        """Return how many connections to open at once for so many that wait: two, because one may hang."""
        return max(2, ceil(waiting / self.most))

    def admit(self, waiting: Sequence[JointClient], connection: Connection | None) -> Sequence[JointClient]:
        """Have programs share what is open, and a new connection if there is one; return those who do.

        ``waiting`` is all that wait, in the order in which they are to be served: too few share no new connection.
        """
        rest = iter(waiting)
        admitted = [member for joint in tuple(self._open) for member in _fill(joint, rest)]
        if connection is not None and len(waiting) - len(admitted) >= MANY:
            joint = JointConnection(self, connection)
            self._open[joint] = None
            admitted += _fill(joint, rest)
        return admitted


def _fill(joint: JointConnection, waiting: Iterable[JointClient]) -> list[JointClient]:
    members = list(islice(waiting, joint.room))
    for member in members:
        joint.admit(member)
    return members
