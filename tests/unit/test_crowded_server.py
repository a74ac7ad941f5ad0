"""A server that is slower at opening connections than clients want them: `highlanderd/postgres/pool.py`."""

from __future__ import annotations

import asyncio
from math import inf
from types import SimpleNamespace
from typing import cast

from highlanderd.core.lease import Lease
from highlanderd.postgres.connection import Client, Connection
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.notes import Notes
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.replies import ConnectFailed
from highlanderd.postgres.server import Server
from highlanderd.postgres.turns import Turns
from highlanderd.postgres.wire import Wire
from tests.support.driven_loop import DrivenLoop

LEASE = Lease(10.0)
WORK = 0.3
"""Seconds that a connection costs the server, which makes one after the other, whether or not it is still wanted."""
CLIENTS = 40


class Crowded:
    """Such a server."""

    parallel, lease, address, version, has_many_hosts = 16, LEASE, "here", "18", False

    def __init__(self) -> None:
        self.turns, self.notes = Turns(), Notes(lambda _: None)
        self.in_vain = 0
        self._busy_until = 0.0

    async def open(self) -> Connection:
        now = asyncio.get_running_loop().time()
        self._busy_until = max(self._busy_until, now) + WORK
        if self._busy_until > now + LEASE.renew_every:
            await asyncio.sleep(LEASE.renew_every)
            self.in_vain += 1
            raise ConnectFailed("no connection in time", timed_out=True)
        await asyncio.sleep(self._busy_until - now)
        wire = SimpleNamespace(open=True, drop=lambda _: None)
        return Connection(cast("Wire", wire), 1, 1, now, LEASE, 3)

    async def ask_hosts(self) -> None:
        pass


class Candidate:
    """A client without a lease at stake."""

    urgency = inf

    def __init__(self) -> None:
        self.served = asyncio.Event()

    def deliver(self, _connection: Connection) -> None:
        self.served.set()

    def keep_alive(self) -> None:
        pass


class NoListener:
    """A listener that needs no connection."""

    async def run(self, _pool: Pool) -> None:
        await asyncio.Event().wait()


def test_a_server_that_is_slow_is_asked_for_fewer_connections_at_once_and_few_are_in_vain() -> None:
    async def story() -> None:
        server = Crowded()
        pool = Pool(cast("Server", server), Ledger("highlander", "highlander", 10.0), cast("Listener", NoListener()))
        clients = [Candidate() for _ in range(CLIENTS)]
        for client in clients:
            pool.request(cast("Client", client))
        running = asyncio.create_task(pool.run())
        for client in clients:
            await client.served.wait()
        running.cancel()
        assert server.in_vain < 2 * CLIENTS

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(story())
