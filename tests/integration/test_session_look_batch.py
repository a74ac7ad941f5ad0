"""Claims about looks that are due together: one session asks for all, and whatever is claimed was looked at alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from highlanderd.core.events import Attached, Detached, Looked
from tests.support.postgres import Database
from tests.support.session import Line, desk, settle

PROGRAMS = ("beat", "relay", 'a "b", {c}\\d')


@asynccontextmanager
async def led_elsewhere(database: Database) -> AsyncIterator[tuple[list[int], list[Line]]]:
    """Give the epochs of terms on one node, and another node's lines, each of which has seen that."""
    async with desk(database.dsn) as here, desk(database.dsn) as there:
        leaders = [await here.line(program) for program in PROGRAMS]
        settle(database)
        epochs = [(await line.lead()).epoch for line in leaders]
        lines = [await there.line(program, "n2") for program in PROGRAMS]
        for line in lines:
            await line.look()
        yield epochs, lines


def asked(lines: list[Line]) -> list[str]:
    """Return what they have asked since this was asked last."""
    names = [name for line in lines for name in line.session.asked]
    for line in lines:
        line.session.asked.clear()
    return names


def test_one_session_asks_for_all_that_are_led_elsewhere(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database) as (epochs, lines):
            assert asked(lines) == ["look"] * 3
            seen = await asyncio.gather(*(line.look() for line in lines))
            assert [(one.row.program, one.row.node, one.row.epoch) for one in seen if one.row] == [
                (program, "n1", epoch) for program, epoch in zip(PROGRAMS, epochs, strict=True)
            ]
            assert asked(lines) == ["look_at_many"]

    asyncio.run(scenario())


def test_a_row_that_is_free_is_looked_at_by_the_session_that_may_claim_it(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database) as (_, lines):
            asked(lines)
            # by hand, and so without a notification
            database.sql("UPDATE highlander.lease SET released_at = clock_timestamp(), renewal = renewal + 1")
            seen = await asyncio.gather(*(line.look() for line in lines))
            assert all(one.row is not None and one.row.released for one in seen)
            assert asked(lines) == ["look_at_many", "look", "look", "look"]

    asyncio.run(scenario())


def test_the_end_of_the_session_that_asks_leaves_no_other_without_an_answer(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database) as (_, [first, *others]):
            connection = first.session.connection
            assert connection is not None
            for line in (first, *others):
                line.session.look()
            await asyncio.sleep(0)  # they have joined, and nothing was asked yet
            connection.wire.drop("cut")
            for line in others:
                looked = await line.told(Looked)
                assert looked.observation.row is not None
            await first.told(Detached)

    asyncio.run(scenario())


def test_a_session_that_is_lost_meanwhile_is_told_no_answer(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database) as (_, [first, second, third]):
            for line in (first, second, third):
                line.session.look()
            connection = second.session.connection
            assert connection is not None
            connection.wire.drop("cut")
            await first.told(Looked)
            await third.told(Looked)
            await second.told(Detached)
            await second.told(Attached)
            assert (await second.look()).row is not None  # one answer to one question

    asyncio.run(scenario())
