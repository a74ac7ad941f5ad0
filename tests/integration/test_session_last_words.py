"""Why a session was lost is what ended it, and no error that it had outlived."""

from __future__ import annotations

import asyncio

from highlanderd.core.events import Detached
from tests.support.postgres import Database
from tests.support.proxy import OpensDoors
from tests.support.session import desk
from tests.support.wait import until


def test_an_error_that_a_session_outlived_is_not_why_it_was_lost(database: Database, door: OpensDoors) -> None:
    way = door(database.dsn)

    async def scenario() -> None:
        async with desk(way.dsn(database.dsn)) as here:
            line = await here.line()
            await line.look()
            connection = line.session.connection
            assert connection is not None
            statement = here.pool.ledger.statement("nonsense", "SELECT 1 FROM no_such_table")
            [reply] = await connection.wire.ask([(statement, ())], 30.0)
            assert reply.error is not None
            way.cut()
            await until(lambda: not line.session.connected)
            lost = await line.told(Detached)
            assert "no_such_table" not in lost.why

    asyncio.run(scenario())
