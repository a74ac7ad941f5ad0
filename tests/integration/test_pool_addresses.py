"""Several addresses in a DSN: whoever fell silent is not waited for again while another one answers."""

from __future__ import annotations

import asyncio
import logging
from math import inf

import pytest
from fix_postgres import SCHEMA, Clusters, Database
from fix_proxy import Door, OpensDoors
from fix_session import LEASE, desk, until
from psycopg.conninfo import make_conninfo

from highlanderd.core import words as w
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.server import Hello, Server


def _both(database: Database, *doors: Door) -> str:
    ports = ",".join(str(one.port) for one in doors)
    return make_conninfo(database.dsn, host=",".join("127.0.0.1" for _ in doors), port=ports)


def test_after_a_silence_the_next_attempt_goes_to_another_address(database: Database, door: OpensDoors) -> None:
    first, second = door(database.dsn), door(database.dsn)

    async def scenario() -> None:
        async with desk(_both(database, first, second), lease=20.0) as here:
            lines = [await here.line(program) for program in ("beat", "bot", "relay")]
            await until(lambda: here.pool.listener.connected)
            await until(lambda: (first.connections, second.connections) == (4, 0))  # the hosts were asked, too
            first.stall()
            for line in lines:
                line.session.look()
            for line in lines:
                await line.told(w.Detached)
            for line in lines:
                await line.told(w.Attached)
            await until(lambda: second.connections == 4)
            asking = 1  # every host is asked for its timeline now and then, on one connection that nobody waits for
            assert first.connections <= 4 + asking, "a session has asked the silent address again"

    asyncio.run(scenario())


def test_a_probe_that_hangs_keeps_nobody_from_the_address_that_answers(database: Database, door: OpensDoors) -> None:
    silent, away = door(database.dsn), door(database.dsn)

    async def scenario() -> None:
        async with desk(_both(database, away, silent), lease=60.0) as here:
            lines = [await here.line(program) for program in ("beat", "bot", "relay")]
            silent.stall()
            away.cut()
            for line in lines:
                await line.told(w.Detached)
            await until(lambda: silent.connections)
            away.heal()
            for line in lines:  # an attempt at the silent address would hang for 12 s
                await line.told(w.Attached, within=10.0)

    asyncio.run(scenario())


def test_the_third_address_is_not_passed_over_while_the_first_hangs_and_the_second_refuses(
    database: Database, door: OpensDoors
) -> None:
    silent, away, good = door(database.dsn), door(database.dsn), door(database.dsn)
    away.cut()

    async def scenario() -> None:
        async with desk(_both(database, silent, away, good), lease=60.0) as here:
            lines = [await here.line(program) for program in ("beat", "bot")]
            silent.stall()
            silent.reset()
            for line in lines:
                await line.told(w.Detached)
            for line in lines:  # each attempt at the silent address hangs for 12 s
                await line.told(w.Attached, within=10.0)

    asyncio.run(scenario())


class Taker:
    """Waits for a connection, with no lease at stake."""

    urgency = inf

    def __init__(self) -> None:
        self.given: list[Hello] = []

    def deliver(self, hello: Hello) -> None:
        self.given.append(hello)

    def keep_alive(self) -> None:
        """Nobody is here for so long."""


def test_an_attempt_that_nobody_waited_for_any_more_serves_who_still_seeks(database: Database) -> None:
    async def scenario() -> None:
        book = Ledger(SCHEMA, "highlander", LEASE)
        pool, taker = Pool(Server(database.dsn, book, node="n1", fresh=None), book), Taker()
        pool.seek(taker)
        await pool._open(taker, 1)
        assert taker.given[0].wire.open
        await pool._open(taker, 2)
        assert len(taker.given) == 1, "what nobody seeks is closed"
        taker.given[0].wire.drop("enough")

    asyncio.run(scenario())


def test_a_standby_that_a_second_probe_meets_is_no_refusal(
    clusters: Clusters, door: OpensDoors, caplog: pytest.LogCaptureFixture
) -> None:
    primary = clusters.create()
    database = primary.database()
    standby = clusters.standby(primary)
    slow, other = door(database.dsn), door(standby.dsn)
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with desk(_both(database, slow, other), lease=60.0) as here:
            lines = [await here.line(program) for program in ("beat", "bot")]
            slow.stall()
            slow.reset()
            for line in lines:
                await line.told(w.Detached)
            await until(lambda: any("hot standby" in record.message for record in caplog.records))
            assert not here.pool._refused
            slow.heal()
            for line in lines:
                await line.told(w.Attached)

    asyncio.run(scenario())
    said = [record.levelname for record in caplog.records if "hot standby" in record.message]
    assert said == ["INFO"]
