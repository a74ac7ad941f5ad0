"""Orders for the whole cluster as they are written: without a session for a moment, and taken back when refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from highlanderd.core.lease import LONGEST
from highlanderd.core.states import Author
from highlanderd.errors import NeedsForce
from highlanderd.postgres.cluster_orders import ClusterOrders
from tests.support.memory_node import run
from tests.support.nodes import settled_ledger
from tests.support.postgres import Database
from tests.support.session import LEASE, desk
from tests.support.wait import until

DRAINS = "SELECT name, split_part(drained_by, ',', 1), drained_reason FROM highlander.node ORDER BY name"
ANN, BOB = Author("ann", "disk"), Author("bob", "fan")


async def _fine() -> None: ...


async def _refused() -> None:
    raise NeedsForce("no other node could lead beat now")


def _drained(database: Database, orders: Callable[[ClusterOrders], Awaitable[None]]) -> list[tuple[object, ...]]:
    """Return the drains that stand after these orders."""
    settled_ledger(database, LEASE)

    async def main() -> None:
        async with desk(database.dsn) as one:
            await until(lambda: one.pool.listener.shares)
            await orders(ClusterOrders(one.pool.ledger, one.pool.listener))

    run(main)
    return database.sql(DRAINS)


def test_a_drain_that_is_refused_leaves_nothing(database: Database) -> None:
    async def orders(given: ClusterOrders) -> None:
        with pytest.raises(NeedsForce):
            await given.drain("a", ANN, _refused)

    assert _drained(database, orders) == []


def test_a_drain_that_is_refused_leaves_the_one_that_stood_before(database: Database) -> None:
    async def orders(given: ClusterOrders) -> None:
        await given.drain("a", BOB, _fine)
        with pytest.raises(NeedsForce):
            await given.drain("a", ANN, _refused)

    assert _drained(database, orders) == [("a", "bob", "fan")]


def test_a_drain_that_is_refused_leaves_the_one_that_was_given_meanwhile(database: Database) -> None:
    async def orders(given: ClusterOrders) -> None:
        async def meanwhile() -> None:
            await given.drain("a", BOB, _fine)
            await _refused()

        with pytest.raises(NeedsForce):
            await given.drain("a", ANN, meanwhile)

    assert _drained(database, orders) == [("a", "bob", "fan")]


def test_an_order_waits_a_moment_for_the_next_session(database: Database) -> None:
    sessions = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = %s"

    async def main() -> None:
        async with desk(database.dsn, lease=LONGEST) as one:  # it reads the ledger each twelve seconds
            await until(lambda: one.pool.listener.shares)
            given = ClusterOrders(one.pool.ledger, one.pool.listener)
            for order in (given.drain("a", ANN, _fine), given.stop_everywhere("beat", [7], ANN)):
                database.sql(sessions, [database.role], admin=True)
                await order
            assert await given.resume("a", ANN)

    settled_ledger(database, LONGEST)
    run(main)
