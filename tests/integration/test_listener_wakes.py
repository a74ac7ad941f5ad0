"""Whom the listening session wakes when it begins: what came while nobody listened is not left until the next round."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from highlanderd.core.lease import LONGEST
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import sharing
from tests.support.postgres import Database
from tests.support.wait import until

NEXT_ROUND = LONGEST / 5 - 0.5
"""Seconds within which nobody is done who waits for the next round: one is a fifth of a lease."""


def test_who_needs_the_ledgers_facts_looks_again_as_soon_as_they_are_known(database: Database) -> None:
    """An order that was written while a worker was replaced stands for less than a fifth of a long lease."""

    async def scenario() -> None:
        ledger = Ledger("highlander", "highlander", LONGEST)
        server = Server(database.dsn, ledger, node="n1", fresh=None)
        listener, looked = Listener(server, ledger), list[bool]()

        async def look() -> None:
            looked.append(listener.shares)

        tasks = [
            asyncio.create_task(Pool(server, ledger, listener).run()),
            asyncio.create_task(listener.follow(sharing.ORDERED, look)),
        ]
        await until(lambda: listener.shares)
        await until(lambda: True in looked, within=NEXT_ROUND)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(scenario())
