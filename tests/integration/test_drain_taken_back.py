"""A drain that is refused once it was written is taken back, and no other drain of that node with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from highlanderd.core.states import Author
from highlanderd.errors import NeedsForce
from highlanderd.postgres.cluster_orders import ClusterOrders
from tests.support.memory_node import run
from tests.support.nodes import settled_ledger
from tests.support.postgres import Database
from tests.support.session import LEASE, desk, until

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
