"""Several addresses in a DSN: whoever fell silent is not waited for again while another one answers."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from math import inf

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from highlanderd.core.events import Attached, Detached
from highlanderd.core.lease import LONGEST
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.outage import Down
from highlanderd.postgres.replies import ConnectFailed
from highlanderd.postgres.server import Server
from tests.support.postgres import SCHEMA, Clusters, Database
from tests.support.proxy import Door, OpensDoors
from tests.support.session import LEASE, SHORT_LEASE, Desk, desk, pool_of
from tests.support.wait import until

HANGING = LONGEST / 5 - 0.5
"""Seconds within which nobody is done who waits for a silent address: an attempt has a fifth of a lease."""


def _both(database: Database, *doors: Door) -> str:
    ports = ",".join(str(one.port) for one in doors)
    return make_conninfo(database.dsn, host=",".join("127.0.0.1" for _ in doors), port=ports)


class Asking(Server):
    """A server that counts how often its hosts are asked for their timelines."""

    asked = 0

    async def ask_hosts(self) -> None:
        self.asked += 1
        await super().ask_hosts()


def test_after_a_silence_the_next_attempt_goes_to_another_address(database: Database, door: OpensDoors) -> None:
    first, second = door(database.dsn), door(database.dsn)

    async def scenario() -> None:
        async with desk(_both(database, first, second), lease=20.0, server=Asking) as here:
            lines = [await here.line(program) for program in ("beat", "bot", "relay")]
            await until(lambda: here.pool.listener.connected)
            await until(lambda: (first.connections, second.connections) == (4, 0))  # the hosts were asked, too
            before = _asked(here)
            first.stall()
            for line in lines:
                line.session.look()
            for line in lines:
                await line.told(Detached)
            for line in lines:
                await line.told(Attached)
            await until(lambda: second.connections == 4)
            asking = _asked(here) - before  # each time on one connection to every host, that no session waits for
            assert first.connections <= 4 + asking, "a session has asked the silent address again"

    asyncio.run(scenario())


def _asked(here: Desk) -> int:
    assert isinstance(here.pool.server, Asking)
    return here.pool.server.asked


def test_a_probe_that_hangs_keeps_nobody_from_the_address_that_answers(database: Database, door: OpensDoors) -> None:
    silent, away = door(database.dsn), door(database.dsn)

    async def scenario() -> None:
        async with desk(_both(database, away, silent), lease=LONGEST) as here:
            lines = [await here.line(program) for program in ("beat", "bot", "relay")]
            silent.stall()
            away.cut()
            for line in lines:
                await line.told(Detached)
            await until(lambda: silent.connections)
            away.heal()
            for line in lines:
                await line.told(Attached, within=HANGING)

    asyncio.run(scenario())


def test_the_third_address_is_not_passed_over_while_the_first_hangs_and_the_second_refuses(
    database: Database, door: OpensDoors
) -> None:
    silent, away, good = door(database.dsn), door(database.dsn), door(database.dsn)
    away.cut()

    async def scenario() -> None:
        async with desk(_both(database, silent, away, good), lease=LONGEST) as here:
            lines = [await here.line(program) for program in ("beat", "bot")]
            silent.stall()
            silent.reset()
            for line in lines:
                await line.told(Detached)
            for line in lines:
                await line.told(Attached, within=HANGING)

    asyncio.run(scenario())


class Taker:
    """Waits for a connection, with no lease at stake."""

    urgency = inf

    def __init__(self) -> None:
        self.given: list[Connection] = []

    def deliver(self, hello: Connection) -> None:
        self.given.append(hello)

    def keep_alive(self) -> None:
        """Nobody is here for so long."""


def test_an_attempt_that_nobody_waited_for_any_more_serves_who_still_seeks(database: Database) -> None:
    async def scenario() -> None:
        ledger = Ledger(SCHEMA, "highlander", LEASE)
        pool, taker = pool_of(Server(database.dsn, ledger, node="n1", fresh=None), ledger), Taker()
        pool.request(taker)
        await pool._open(taker, 1)
        assert taker.given[0].wire.open
        await pool._open(taker, 2)
        assert len(taker.given) == 1, "what nobody seeks is closed"
        taker.given[0].wire.drop("enough")

    asyncio.run(scenario())


def test_a_name_that_is_none_does_not_hide_the_host_beside_it(database: Database) -> None:
    host, port = (str(conninfo_to_dict(database.dsn)[name]) for name in ("host", "port"))

    async def scenario() -> None:
        async with desk(make_conninfo(database.dsn, host=f"a..b,{host}", port=port)) as here:
            await (await here.line()).look()

    asyncio.run(scenario())


def test_a_name_that_is_none_is_as_one_that_nobody_knows(database: Database) -> None:
    async def scenario() -> None:
        server = Server(
            make_conninfo(database.dsn, host="a..b"), Ledger(SCHEMA, "highlander", LEASE), node="n1", fresh=None
        )
        with pytest.raises(ConnectFailed, match=r"a\.\.b could be resolved"):
            await server.open()

    asyncio.run(scenario())


class Stumbling(Server):
    """A server of which the first few questions end as nobody has foreseen."""

    stumbles = 2

    async def open(self) -> Connection:
        if self.stumbles:
            self.stumbles -= 1
            raise ArithmeticError("nobody has foreseen this")
        return await super().open()

    async def ask_hosts(self) -> None:
        if self.stumbles:
            raise ArithmeticError("nor this")
        await super().ask_hosts()


def test_what_nobody_has_foreseen_is_logged_once_and_ends_no_worker(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ledger = Ledger(SCHEMA, "highlander", LEASE)
        pool, taker = pool_of(Stumbling(database.dsn, ledger, node="n1", fresh=None), ledger), Taker()
        running = asyncio.create_task(pool.run())
        pool.request(taker)
        await until(lambda: taker.given)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    said = [record.message for record in caplog.records if record.exc_info]
    assert said == [
        "cannot ask the hosts of postgres.dsn: ArithmeticError('nor this')",
        "cannot connect: ArithmeticError('nobody has foreseen this')",
    ]


def test_a_ledger_that_cannot_be_read_is_read_again_after_a_pause_and_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            database.sql(
                "UPDATE highlander.meta SET maintenance_until = now() + interval '1 hour', maintenance_lease = '0'"
            )
            for _ in range(3):
                line.session.look()
                begun = asyncio.get_running_loop().time()
                await line.told(Detached)
                await line.told(Attached)
                # from below, so that no slow machine can fail it
                assert asyncio.get_running_loop().time() - begun >= SHORT_LEASE / 5

    asyncio.run(scenario())
    said = [record.message for record in caplog.records if record.exc_info]
    assert sorted(said) == sorted(set(said))
    assert {text.partition(":")[0] for text in said} == {"beat", "the ledger cannot be read"}


def test_a_standby_that_a_second_probe_meets_is_no_refusal(
    clusters: Clusters, door: OpensDoors, caplog: pytest.LogCaptureFixture
) -> None:
    primary = clusters.create()
    database = primary.database()
    standby = clusters.standby(primary)
    slow, other = door(database.dsn), door(standby.dsn)
    caplog.set_level(logging.INFO)

    def said() -> list[str]:
        return [record.levelname for record in caplog.records if "hot standby" in record.message]

    async def scenario() -> None:
        async with desk(_both(database, slow, other), lease=LONGEST) as here:
            lines = [await here.line(program) for program in ("beat", "bot")]
            slow.stall()
            slow.reset()
            for line in lines:
                await line.told(Detached)
            await until(said)
            assert said() == ["INFO"]
            assert not (isinstance(here.pool.state, Down) and here.pool.state.refused)
            slow.heal()
            for line in lines:
                await line.told(Attached)

    asyncio.run(scenario())
