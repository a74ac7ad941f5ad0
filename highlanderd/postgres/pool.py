"""The pool of one DSN: paced connections, the most urgent seeker first, and the one session that listens.

A program keeps its connection for as long as it can; nothing here recycles, ages or lends it twice. While the server is
away one probe goes out every 200 ms (every second when there is no lease to save), each bounded, none waiting for the
one before it; once the server answers, the connections follow a few at a time.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from math import inf
from typing import Final, Protocol

from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.server import Connection, Server
from highlanderd.postgres.wire import ConnectFailed
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

PROBE_EVERY: Final = 0.2
"""Seconds between probes while a leader's lease may still be saved, when the lease is 10 s or shorter."""
SLOW_PROBE_EVERY: Final = 1.0
"""Seconds between probes when no lease can be saved, and to a server that said no."""
SLOW_AFTER: Final = 5.0
"""Seconds of outage until candidates, who have no lease to save, probe slowly: a wrong password mends itself rarely."""
PROBES: Final = 10
"""Probes under way at once: each ends after a fifth of a lease at the latest."""


class Client(Protocol):
    """Somebody who needs a connection."""

    @property
    def urgency(self) -> float:
        """When the lease that hangs on it ends, in CLOCK_BOOTTIME seconds; infinity when none does."""

    def deliver(self, connection: Connection) -> None:
        """Take the connection over."""

    def keep_alive(self) -> None:
        """Say something if nothing was said for half a lease: the server ends sessions that are silent for one."""


class Pool:
    """Connections to one server for many programs. ``run`` does the work; everything else only tells it."""

    def __init__(self, server: Server, ledger: Ledger) -> None:
        self.server = server
        self.ledger = ledger
        self.trouble = "not connected yet"
        self.connected = False
        self.listener = Listener(self)
        self._clients: dict[Client, int] = {}
        """Those who wait for a connection, and the number of the attempt that was begun for them; 0: none yet."""
        self._served: set[Client] = set()
        """Those who were given a connection, and may have lost it again."""
        self._under_way = 0
        self._attempts = 0
        """Begun in all: the number of the latest."""
        self._answered = 0
        """The latest attempt that had begun when one succeeded: failures up to it tell of the past."""
        self._wake = asyncio.Event()
        self._back = asyncio.Event()
        """Sessions come back after a loss: the next question to the hosts is due at once."""
        self._down_since: float | None = None
        self._next_probe = 0.0
        self._refused = False
        self._said: set[tuple[int, str]] = set()
        """What this outage was already logged for: with several hosts the reasons take turns."""

    def request(self, client: Client) -> None:
        """Ask for a connection; it comes by ``deliver``, once, whenever there is one."""
        self._clients.setdefault(client, 0)
        self._wake.set()

    def forget(self, client: Client) -> None:
        """Withdraw: nothing is delivered any more, not even what is under way."""
        self._clients.pop(client, None)
        self._served.discard(client)

    async def run(self) -> None:
        """Open connections until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.listener.run())
            group.create_task(self._keep_alive())
            group.create_task(self._ask_hosts())
            while True:
                self._wake.clear()
                pause = self._launch(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    async def _keep_alive(self) -> None:
        """Stopped programs ask nothing, and keep their connections all the same."""
        while True:
            await asyncio.sleep(self.server.lease.length / 4)
            for client in tuple(self._served):
                client.keep_alive()

    async def _ask_hosts(self) -> None:
        """Ask every host about its history twice a lease, and after each loss of a session: one may have been promoted.

        A claim on a server that nobody has asked about takes 1.05 of a lease; an answer that is slow comes before that.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._back.clear()
            begun = loop.time()
            try:
                await self.server.ask_hosts()
            except Exception as error:  # noqa: BLE001 - it is asked again, and no worker ends for it
                self.server.note_unforeseen("cannot ask the hosts of postgres.dsn", error)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(begun + self.server.lease.length / 2):
                    await self._back.wait()

    def _launch(self, group: asyncio.TaskGroup) -> float | None:
        """Start what may be started now; give the seconds until something else may, or None for an event."""
        if self._down_since is None:
            for client in self._unattended()[: max(self.server.parallel - self._dialling, 0)]:
                self._start(group, client)
            return None
        now = asyncio.get_running_loop().time()
        if self._under_way >= PROBES:
            return None
        if now >= self._next_probe:
            if self._under_way:  # the last probe hangs: the next one shall not hang beside it
                self.server.next_address()
            for client in self._unattended()[:1] or self._hanging():
                self._start(group, client)
            slow = self._refused or (now - self._down_since > SLOW_AFTER and not self._lease_to_save())
            # So spaced, the ten attempts that a dead network swallows end as fast as new ones may begin.
            quick = max(PROBE_EVERY, self.server.lease.renew_every / PROBES)
            self._next_probe = now + (SLOW_PROBE_EVERY if slow else quick)
        return max(self._next_probe - now, 0.001) if self._unattended() or self._hanging() else None

    def _hanging(self) -> list[Client]:
        """Return the most urgent client with a lease at stake: another attempt may go beside its first one.

        What it has sent may be lost, and the kernel says it again only after a second.
        """
        return sorted(filter(_with_lease, self._clients), key=_urgency)[:1]

    def _lease_to_save(self) -> bool:
        return any(map(_with_lease, self._clients))

    def _unattended(self) -> list[Client]:
        """Return those for whom no attempt is under way, the most urgent first."""
        return sorted((client for client, attempt in self._clients.items() if not attempt), key=_urgency)

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
            if attempt > self._answered:
                self._note_failure(str(failure), refused=isinstance(failure, Unfit))
            self._hand_over(client, attempt, None)
        except Exception as error:  # noqa: BLE001 - the worker outlives what nobody has foreseen
            self.server.note_unforeseen("cannot connect", error)
            self._note_failure(f"cannot connect: {error!r}", refused=True)
            self._hand_over(client, attempt, None)
        else:
            self._hand_over(client, attempt, connection)
            self._note_success()
        finally:
            self._under_way -= 1
            self._wake.set()

    def _hand_over(self, client: Client, attempt: int, connection: Connection | None) -> None:
        """Serve whoever still seeks; what nobody wants any more is closed, what is dead already is sought again."""
        if connection is not None and client in self._clients and connection.wire.open:
            del self._clients[client]
            self._served.add(client)
            client.deliver(connection)
        elif self._clients.get(client) == attempt:
            self._clients[client] = 0
        elif connection is not None:
            connection.wire.drop("nobody wants it any more")

    def _note_failure(self, why: str, *, refused: bool) -> None:
        # While another attempt is under way elsewhere, a standby that this one met says nothing about the primary.
        self._refused = refused and self._under_way == 1
        level = logging.INFO if refused and self._under_way > 1 else logging.WARNING
        if (level, why) not in self._said:
            self._said.add((level, why))
            log.log(level, "postgres %s: %s", self.server.place, why)
        if self._down_since is None:
            self._down_since = self._next_probe = asyncio.get_running_loop().time()
        self.connected, self.trouble = False, why

    def _note_success(self) -> None:
        self._answered = self._attempts
        if self._down_since is not None:  # probes may still hang at another address: nobody waits for their end
            self._clients = dict.fromkeys(self._clients, 0)
            self._back.set()
        if not self.connected:
            log.info("postgres %s: connected, version %s", self.server.place, self.server.version)
        self.connected, self.trouble, self._down_since, self._refused = True, "", None, False
        self._said.clear()

    def lost(self, why: str) -> None:
        """A session of this pool was lost: one attempt after the other finds out whether the server is."""
        log.debug("postgres %s: session lost: %s", self.server.place, why)
        if self._down_since is None:
            self._down_since = self._next_probe = asyncio.get_running_loop().time()


def _urgency(client: Client) -> float:
    return client.urgency


def _with_lease(client: Client) -> bool:
    return boottime() < client.urgency < inf
