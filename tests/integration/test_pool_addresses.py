"""Several addresses in a DSN: whoever fell silent is not waited for again while another one answers."""

from __future__ import annotations

import asyncio

from fix_postgres import Database
from fix_proxy import Door, OpensDoors
from fix_session import desk, until
from psycopg.conninfo import make_conninfo

from highlanderd.core import words as w


def _both(database: Database, *doors: Door) -> str:
    ports = ",".join(str(one.port) for one in doors)
    return make_conninfo(database.dsn, host=",".join("127.0.0.1" for _ in doors), port=ports)


def test_after_a_silence_the_next_attempt_goes_to_another_address(database: Database, door: OpensDoors) -> None:
    first, second = door(database.dsn), door(database.dsn)

    async def scenario() -> None:
        async with desk(_both(database, first, second), lease=6.0) as here:
            lines = [await here.line(program) for program in ("beat", "bot", "relay")]
            await until(lambda: here.pool.listener.connected)
            assert (first.connections, second.connections) == (4, 0)
            first.stall()
            for line in lines:
                line.session.look()
            for line in lines:
                await line.told(w.Detached)
            for line in lines:
                await line.told(w.Attached)
            await until(lambda: second.connections == 4)
            assert first.connections == 4, "somebody has asked the silent address again"

    asyncio.run(scenario())


def test_a_probe_that_hangs_keeps_nobody_from_the_address_that_answers(database: Database, door: OpensDoors) -> None:
    silent, away = door(database.dsn), door(database.dsn)

    async def scenario() -> None:
        async with desk(_both(database, away, silent), lease=20.0) as here:
            lines = [await here.line(program) for program in ("beat", "bot", "relay")]
            silent.stall()
            away.cut()
            for line in lines:
                await line.told(w.Detached)
            await until(lambda: silent.connections)
            away.heal()
            for line in lines:  # an attempt at the silent address would hang for 4 s
                await line.told(w.Attached, within=3.0)

    asyncio.run(scenario())
