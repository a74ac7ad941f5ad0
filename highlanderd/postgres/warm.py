"""Warm connections: the few that waiting programs of one pool share, ready to become one program's own.

The first of them carries the looks of all who share; the others are free. A program that is to take over takes a free
one, and it is that program's own from then on: a lock is never taken on a connection that is shared. What was taken is
replaced. A program that finds none free has the next one that comes, in the order of asking. It may give back a
connection on which it has asked for no lock.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from highlanderd.core.lease import Lease
from highlanderd.postgres.connection import Client, Connection
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import Statement, Value
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import connecting, leading
from highlanderd.structs import replace
from highlanderd.system.linux import boottime

WARM: Final = 4
"""Connections that are kept open while programs wait: one for looks, and three for takeovers at the same moment."""
AHEAD: Final = 128
"""Programs with a silent leader that take a connection before they may take over: a lost host may have led hundreds,
and each other node that waits for them opens as many."""
PAUSE: Final = 0.25
"""Seconds after which what was taken is replaced: to open a connection costs a core some milliseconds, which the child
that is started now can use."""


class Sharer(Client, Protocol):
    """The session of a program that leads nothing here."""

    def share(self, connection: Connection) -> None:
        """Look through this connection from now on, unless there is one of its own."""

    def part(self, why: str) -> None:
        """Note that nothing is shared any more."""


class ConnectionPool(Protocol):
    """What is needed of the pool."""

    server: Server
    ledger: Ledger

    def request(self, client: WarmConnection) -> None:
        """Ask for a connection."""

    def forget(self, client: WarmConnection) -> None:
        """Withdraw a client."""

    def pass_on(self, former: Client, client: Client) -> None:
        """Note that one client's connection is the other one's from now on."""

    def lost(self, connection: Connection, why: str) -> None:
        """Note that a session was lost."""


class WarmConnection:
    """A client of the pool that has a connection for a program that needs one."""

    urgency = float("inf")

    def __init__(self, group: WarmConnections) -> None:
        self._group = group
        self.connection: Connection | None = None
        """None while it is being opened, and at its end."""
        self._asked = boottime()

    def deliver(self, connection: Connection) -> None:
        """Have a connection for the group. A first look makes it warm: the server plans for each session anew."""
        self.connection = connection
        connection.wire.assign(self)
        self.say("begin_session", connecting.BEGIN_SESSION, self._group.name)
        self.say("look", leading.LOOK, 0, "", self._group.pool.server.node)
        self._group.arrived(self)

    def take_back(self, connection: Connection) -> None:
        """Have a connection that was a program's own."""
        self.connection = connection
        connection.wire.assign(self)
        self.say("begin_session", connecting.BEGIN_SESSION, self._group.name)
        self._group.arrived(self)

    def release(self) -> Connection | None:
        """Return the connection, which another client has from now on."""
        connection, self.connection = self.connection, None
        return connection

    def close(self) -> None:
        """End the connection, which is no loss."""
        connection = self.release()
        self._group.pool.forget(self)
        if connection is not None:
            connection.wire.drop("not needed any more")

    def notified(self, payload: str) -> None:
        """Ignore it: only the listener's session listens."""

    def lost(self, why: str) -> None:
        """Have another one opened, if it was not closed here."""
        connection = self.release()
        if connection is not None:
            self._group.lost(self, connection, why)

    def keep_alive(self) -> None:
        """Send something if nothing was said here for half a lease."""
        self._group.trim()
        if self.connection is not None:
            self._asked = self.connection.keep_alive(self._asked)

    def say(self, name: str, sql: str, *values: Value) -> None:
        """Send a query whose answer does not matter."""
        if self.connection is not None:
            self._asked = boottime()
            self.connection.say(self._group.statement(name, sql, self.connection), values)


class WarmConnections:
    """The warm connections of one pool, and who shares them. Without sharers there are none."""

    def __init__(self, pool: ConnectionPool, pause: float = PAUSE) -> None:
        self.pool, self._pause = pool, pause
        self._refill_due = False
        self._free: dict[WarmConnection, None] = {}
        """The open ones, the first of which carries looks."""
        self._coming: set[WarmConnection] = set()
        self._sharers: dict[Sharer, None] = {}
        self._wanting: dict[Sharer, None] = {}
        """Who has the next one as its own, in order."""
        self._expecting: set[Sharer] = set()
        """Who may need one soon, because its leader is silent; also those that have it."""

    @property
    def name(self) -> str:
        """How sessions call themselves that belong to no program."""
        return connecting.application_name(self.pool.server.node)

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._free)

    @property
    def shared(self) -> Connection | None:
        """The connection that carries the looks of all who share."""
        return next((one.connection for one in self._free), None)

    def join(self, sharer: Sharer) -> None:
        """Share from now on, if there is something to share."""
        self._sharers[sharer] = None
        if (connection := self.shared) is not None:
            sharer.share(connection)
        self._refill_later()

    def hurry(self) -> None:
        """Have something to share as soon as possible."""
        if not self._free and not self._coming:
            self._open()

    def leave(self, sharer: Sharer) -> None:
        """Share nothing any more."""
        self._sharers.pop(sharer, None)
        self.forgo(sharer)

    def take(self, sharer: Sharer) -> Connection | None:
        """Return a free connection, which is this program's own from now on; None when only the shared one is left."""
        if len(self._free) < 2:
            return None
        warm = next(reversed(self._free))
        del self._free[warm]
        self._wanting.pop(sharer, None)
        self.pool.pass_on(warm, sharer)
        self._refill_later()
        return warm.release()

    def want(self, sharer: Sharer) -> None:
        """Deliver the next connection that comes to this program."""
        self._wanting[sharer] = None
        while len(self._coming) < len(self._wanting):
            self._open()

    def expect(self, sharer: Sharer) -> bool:
        """Return whether this program may take one for a takeover that may come: that is so for a few at a time."""
        if len(self._expecting) < AHEAD:
            self._expecting.add(sharer)
        return sharer in self._expecting

    def forgo(self, sharer: Sharer) -> None:
        """Note that this program needs none of its own."""
        self._wanting.pop(sharer, None)
        self._expecting.discard(sharer)

    def take_back(self, sharer: Sharer, connection: Connection) -> None:
        """Make a program's own connection, on which it has asked for no lock, a warm one."""
        self.forgo(sharer)
        warm = WarmConnection(self)
        self.pool.pass_on(sharer, warm)
        warm.take_back(connection)

    def follow(self, lease: Lease, version: int) -> None:
        """Go by what a look says of the ledger."""
        for warm in self._free:
            connection = warm.connection
            if connection is None or (connection.lease, connection.version) == (lease, version):
                continue
            warm.connection = replace(connection, lease=lease, version=version)
            if connection.lease != lease:
                self.pool.server.follow(lease.length)
                warm.say("limits", connecting.LIMITS, *self.pool.server.limits)
            self._share()

    def arrived(self, warm: WarmConnection) -> None:
        """Have a connection: the first is shared, the next ones go to who wants one."""
        self._coming.discard(warm)
        self._free[warm] = None
        if len(self._free) == 1:
            self._share()
        elif self._wanting:
            sharer = next(iter(self._wanting))
            if (connection := self.take(sharer)) is not None:
                sharer.deliver(connection)
        self._refill_later()

    def lost(self, warm: WarmConnection, connection: Connection, why: str) -> None:
        """Do without a connection: another one carries the looks, if there is one."""
        self._free.pop(warm, None)
        self._coming.discard(warm)
        self.pool.forget(warm)
        self.pool.lost(connection, why)
        if self.shared is not None:
            self._share()
        else:
            for sharer in tuple(self._sharers):
                sharer.part(why)
            if self._sharers:
                self.hurry()
        self._refill_later()

    def statement(self, name: str, sql: str, connection: Connection) -> Statement:
        """Return a statement for the schema as this connection has last seen it."""
        return self.pool.ledger.statement(name, sql, connection.version)

    def _share(self) -> None:
        if (connection := self.shared) is not None:
            for sharer in tuple(self._sharers):
                sharer.share(connection)

    @property
    def _needed(self) -> int:
        return (WARM if self._sharers else 0) + len(self._wanting)

    def _refill_later(self) -> None:
        if not self._refill_due:
            self._refill_due = True
            asyncio.get_running_loop().call_later(self._pause, self._refill)

    def _refill(self) -> None:
        self._refill_due = False
        while len(self._free) + len(self._coming) < self._needed:
            self._open()

    def _open(self) -> None:
        warm = WarmConnection(self)
        self._coming.add(warm)
        self.pool.request(warm)

    def trim(self) -> None:
        """Close what is open beyond the need: many programs may have had one of their own for a moment."""
        while len(self._free) > self._needed:
            warm = next(reversed(self._free))
            del self._free[warm]
            warm.close()
