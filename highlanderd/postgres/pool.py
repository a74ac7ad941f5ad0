"""The pool of one DSN: paced connections, the most urgent client first, and the one session that listens.

A program keeps its connection for as long as it can. The pool never recycles, ages or lends a connection.

Theory of operation
-------------------
Clients are the sessions of the programs, and the listener. A client that has no connection calls ``request`` and waits.
The pool opens a connection, hands it over by ``deliver``, and forgets about it. The client says ``lost`` when that
connection has ended, and requests another one. Clients are served by urgency: the listener first, because it wakes the
others, then the leader whose lease ends first, then the candidates.

What the pool believes of the server is one state (``outage.py``): Untried and Up, when connections are opened in
parallel; Suspected and Down, when probes go out one after the other.

While the server is Up, as many attempts run at the same time as ``Server.parallel`` says: a TLS handshake costs the
server's cores, and a thousand clients at once would make all of them late. Each attempt that fails then halves that
number, and each success adds one: a server that is too slow for so many goes on with those that were given up, and
serves none in time.

While it is Suspected or Down, one probe begins at a time, for the most urgent client. The next one begins 200 ms later
(or a tenth of ``renew_every``, with longer leases) whether or not the one before it has ended, because a broken network
answers nothing. At most ten are under way; fewer where the server has shown that it is slow, and no client has a lease
at stake. Each is bounded to a fifth of the lease, so the oldest ends when the eleventh may begin. A probe that begins
while another one hangs goes to the next address of the DSN. When all clients have a probe under way, the most urgent
one with a lease at stake gets another: what its first attempt has sent may be lost, and the kernel repeats that only
after a second.

Probes are a second apart when quicker ones save nothing: when the server itself said no (a wrong password mends itself
rarely), and after five seconds of outage in which no client has a lease at stake.

The first success ends the outage. All others who wait get an attempt at once, even those whose probe still hangs: a
connection serves any client that still waits when it comes, and what comes too late is closed. A failure of an attempt
that began before a later success tells of the past, and changes nothing.

When many clients with a lease at stake wait, each connection that comes is for many of them (``joint.py``), and no more
are opened than they need.

Renewals come before all that would make a busy node lead more: while they are late, no client without a lease gets an
attempt, whatever the state, and sessions refuse takeovers. Otherwise a machine that is too slow for its programs would
take on one after the other, until the leases of all of them run out.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from heapq import nsmallest
from math import inf
from typing import Final

from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.afterwards import Afterwards
from highlanderd.postgres.connection import Client, Connection
from highlanderd.postgres.joint import MANY, JointClient, JointConnections
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.outage import PROBES, Down, ServerState, Suspected, Untried, Up, pause
from highlanderd.postgres.replies import ConnectFailed, RefusedServer, WireLost
from highlanderd.postgres.server import Server
from highlanderd.postgres.warm import WarmConnections
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

LATE_BELOW: Final = 0.6
"""Of a lease: what is left until SIGKILL when a renewal was due a tenth of the lease ago, and is not acknowledged."""
LATE_SHARE: Final = 0.1
"""Of the leases of this node. A few that are late have a trouble of their own: a row that somebody has locked."""
FEW: Final = 5
"""Leases. So few of them make no node too busy."""
AT_ONCE_AT_MOST: Final = 16
"""Attempts at the same time, whatever the server."""
AT_ONCE_AT_LEAST: Final = 2
"""Attempts at the same time: one may hang."""
RENEWALS_FIRST: Final = "this node leads no more programs for now: renewals of those that it leads are late"


class Pool:
    """Connections to one server for many clients. ``run`` does the work; the other methods return at once."""

    def __init__(self, server: Server, ledger: Ledger, listener: Listener) -> None:
        self.server, self.ledger, self.listener = server, ledger, listener
        self.warm = WarmConnections(self)
        self.joints = JointConnections(self)
        self.afterwards = Afterwards()
        self.state: ServerState = Untried()
        self._clients: dict[Client, int] = {}
        """The clients that wait for a connection, and the number of the attempt for each; 0 for none yet."""
        self._served: set[Client] = set()
        """The clients that were given a connection. They may have lost it again."""
        self.late = False
        """Whether renewals are late, as the latest review has shown: this node leads as much as it can."""
        self._at_once = AT_ONCE_AT_MOST
        """How many attempts at the same time are not too many for the server, as far as it has shown."""
        self._under_way = 0
        self._attempts = 0
        """How many attempts were begun in all, which is the number of the latest."""
        self._answered = 0
        """The latest attempt that had begun when one succeeded: failures up to it tell of the past."""
        self._wake = asyncio.Event()
        self._back = asyncio.Event()
        """Set when an outage ends: the next question to the hosts is due at once."""
        self._next_probe = 0.0
        self._said: set[tuple[int, str]] = set()
        """The log lines of this outage: with several hosts the reasons take turns."""

    @property
    def connected(self) -> bool:
        """Whether the latest attempt to connect succeeded."""
        return isinstance(self.state, Up | Suspected)

    @property
    def last_error(self) -> str:
        """Why there is no connection; empty while there may be one."""
        return self.state.last_error

    def absence(self, otherwise: str) -> WireLost:
        """Return what those are told who need a connection; ``otherwise`` while there may be one."""
        refused = isinstance(self.state, Down) and self.state.refused
        return (RefusedServer if refused else WireLost)(self.last_error or otherwise)

    @property
    def pressed(self) -> bool:
        """Whether a client with a lease at stake waits for a connection."""
        return any(map(_with_lease, self._clients))

    def review(self) -> None:
        """See whether renewals are late. To be called several times a lease."""
        now = boottime()
        ends = [end for client in self._served | self._clients.keys() if now < (end := client.urgency) < inf]
        in_time = now + LATE_BELOW * self.server.lease.length
        late = sum(end < in_time for end in ends)
        before, self.late = self.late, late > max(FEW, LATE_SHARE * len(ends))
        self.server.notes.warn("late", [RENEWALS_FIRST] if self.late else [])
        if before and not self.late:
            self._wake.set()

    def request(self, client: Client) -> None:
        """Ask for a connection. It comes by ``deliver``, once, as soon as there is one."""
        self._clients.setdefault(client, 0)
        self._wake.set()

    def forget(self, client: Client) -> None:
        """Withdraw a client: nothing is delivered to it any more, not even what is under way."""
        self._clients.pop(client, None)
        self._served.discard(client)

    def pass_on(self, former: Client, client: Client) -> None:
        """Note that one client's connection is the other one's from now on, which needs none from here."""
        self.forget(former)
        self._clients.pop(client, None)
        self._served.add(client)

    async def run(self) -> None:
        """Open connections until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.listener.run(self))
            group.create_task(self._keep_alive())
            group.create_task(self._ask_hosts())
            while True:
                self._wake.clear()
                pause = self._launch(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    async def _keep_alive(self) -> None:
        """Keep all connections from idling away: a program that is stopped asks nothing, and keeps its connection."""
        while True:
            await asyncio.sleep(self.server.lease.renew_every)
            for client in tuple(self._served):
                try:
                    client.keep_alive()
                except Exception as error:  # noqa: BLE001 - the others are to be kept alive all the same
                    self.server.notes.unforeseen("a session cannot be kept alive", error)

    async def _ask_hosts(self) -> None:
        """Ask every host for its timeline twice a lease, and after each outage: a standby may have been promoted.

        A node that takes over on a server waits for 1.05 of a lease first; a slow answer comes before that.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._back.clear()
            begun = loop.time()
            try:
                await self.server.ask_hosts()
            except Exception as error:  # noqa: BLE001 - it is asked again, and no worker ends for it
                self.server.notes.unforeseen("cannot ask the hosts of postgres.dsn", error)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(begun + self.server.lease.length / 2):
                    await self._back.wait()

    def _launch(self, group: asyncio.TaskGroup) -> float | None:
        """Start what may be started now. Return the seconds until something else may, or None for an event."""
        state = self.state
        if isinstance(state, Suspected | Down):
            return self._probe(group, state)
        waiting = self._join()
        more = min(self.server.parallel, self._at_once) - self._dialling
        if waiting >= MANY:
            more = min(more, self.joints.needed(waiting) - self._under_way)
        for client in self._unattended(max(more, 0)):
            self._start(group, client)
        return None

    def _join(self, connection: Connection | None = None) -> int:
        """Have many that wait with a lease at stake share connections, and return how many still wait."""
        waiting = [client for client in self._clients if isinstance(client, JointClient) and client.joinable]
        admitted = self.joints.admit(sorted(waiting, key=_urgency), connection) if len(waiting) >= MANY else ()
        for client in admitted:
            del self._clients[client]
            self._served.add(client)
        return len(waiting) - len(admitted)

    def _probe(self, group: asyncio.TaskGroup, state: Suspected | Down) -> float | None:
        """Start a probe if one is due. Return the seconds until the next one, or None for an event."""
        if self._under_way >= (PROBES if self.pressed else min(PROBES, self._at_once)):
            return None
        now = asyncio.get_running_loop().time()
        if now >= self._next_probe:
            if self._under_way:  # the last probe hangs: the next one shall not hang at the same address
                self.server.turns.move_on()
            for client in self._unattended(1) or self._hanging():
                self._start(group, client)
            self._next_probe = now + pause(state, now, self.server.lease, lease_at_stake=self.pressed)
        return max(self._next_probe - now, 0.001) if self._unattended(1) or self._hanging() else None

    def _hanging(self) -> list[Client]:
        """Return the most urgent client with a lease at stake, which gets another attempt while its first one hangs."""
        return nsmallest(1, filter(_with_lease, self._clients), key=_urgency)

    def _unattended(self, count: int) -> list[Client]:
        """Return so many of the clients for which no attempt is under way, the most urgent first."""
        idle = (client for client, attempt in self._clients.items() if not attempt)
        return nsmallest(count, (client for client in idle if not self.late or client.urgency < inf), key=_urgency)

    @property
    def _dialling(self) -> int:
        return sum(attempt > 0 for attempt in self._clients.values())

    def _start(self, group: asyncio.TaskGroup, client: Client) -> None:
        self._under_way += 1
        self._attempts += 1
        self._clients[client] = self._attempts
        group.create_task(self._open(client, self._attempts))

    async def _open(self, client: Client, attempt: int) -> None:
        try:
            connection = await self.server.open()
        except (ConnectFailed, Unfit) as failure:
            if isinstance(self.state, Untried | Up):
                self._at_once = max(self._at_once // 2, AT_ONCE_AT_LEAST)
            if attempt > self._answered:
                self._note_failure(str(failure), refused=isinstance(failure, Unfit))
            self._hand_over(client, attempt, None)
        except Exception as error:  # noqa: BLE001 - the worker outlives what nobody has foreseen
            self.server.notes.unforeseen("cannot connect", error)
            self._note_failure(f"cannot connect: {error!r}", refused=True)
            self._hand_over(client, attempt, None)
        else:
            self._hand_over(client, attempt, connection)
            self._note_success()
        finally:
            self._under_way -= 1
            self._wake.set()

    def _hand_over(self, client: Client, attempt: int, connection: Connection | None) -> None:
        """Serve the client if it still waits. Close a connection that no client wants; replace a dead one."""
        if connection is not None and connection.wire.open and self._may_join(client):
            self._join(connection)
        joint = connection is not None and self.joints.has(connection)
        if connection is not None and not joint and client in self._clients and connection.wire.open:
            del self._clients[client]
            self._served.add(client)
            self._deliver(client, connection)
        elif self._clients.get(client) == attempt:
            self._clients[client] = 0
        elif connection is not None and not joint:
            connection.wire.drop("no client waits for it any more")

    def _may_join(self, client: Client) -> bool:
        return client not in self._clients or (isinstance(client, JointClient) and client.joinable)

    def _deliver(self, client: Client, connection: Connection) -> None:
        try:
            client.deliver(connection)
        except Exception as error:  # noqa: BLE001 - one client's trouble ends with its connection
            self.server.notes.unforeseen("a session cannot be used", error)
            connection.wire.drop(f"it cannot be used: {error!r}")

    def _note_failure(self, why: str, *, refused: bool) -> None:
        alone = self._under_way == 1 or not self.server.has_many_hosts
        # While another attempt is under way elsewhere, a standby that this one met says nothing about the primary.
        self.state = Down(self._suspect(), why, refused and alone)
        level = logging.WARNING if alone or not refused else logging.INFO
        if (level, why) not in self._said:
            self._said.add((level, why))
            log.log(level, "postgres %s: %s", self.server.address, why)

    def _note_success(self) -> None:
        self._answered = self._attempts
        self._at_once = min(self._at_once + 1, AT_ONCE_AT_MOST)
        if isinstance(self.state, Suspected | Down):  # no client waits for the end of a probe that hangs elsewhere
            self._clients = dict.fromkeys(self._clients, 0)
            self._back.set()
        if not self.connected:
            log.info("postgres %s: connected, version %s", self.server.address, self.server.version)
        self.state = Up()
        self._said.clear()

    def lost(self, connection: Connection, why: str) -> None:
        """Note that a session was lost: probes, one after the other, find out whether the server is."""
        log.debug("postgres %s: session lost: %s", self.server.address, why)
        if connection.wire.silent:
            self.server.turns.note_silence(connection.opened, asyncio.get_running_loop().time())
        since = self._suspect()
        if not isinstance(self.state, Down):
            self.state = Suspected(since)

    def _suspect(self) -> float:
        """Return since when the server is in doubt. If the doubt begins now, a probe is due at once."""
        if isinstance(self.state, Suspected | Down):
            return self.state.since
        self._next_probe = asyncio.get_running_loop().time()
        return self._next_probe


def _urgency(client: Client) -> float:
    return client.urgency


def _with_lease(client: Client) -> bool:
    return boottime() < client.urgency < inf
