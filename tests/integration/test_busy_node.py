"""A node whose renewals are late leads no more than it does: they come before new connections and before takeovers."""

from __future__ import annotations

import asyncio
from math import inf

from highlanderd.core.events import Attached, Refused
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.pool import FEW, RENEWALS_FIRST
from highlanderd.postgres.server import Server
from highlanderd.system.linux import boottime
from tests.support.postgres import Database
from tests.support.session import LEASE, Desk, Line, desk
from tests.support.wait import until

LATE, TIMELY = 0.4 * LEASE, 1000 * LEASE
"""What is left of a lease until SIGKILL, in seconds."""


class Counting(Server):
    """A server that counts the attempts to connect."""

    attempts = 0

    async def open(self) -> Connection:
        self.attempts += 1
        return await super().open()


def _leads(line: Line, left: float) -> None:
    """Have a line lead, as far as the pool knows, with so many seconds left until SIGKILL."""
    line.session.note_stake(boottime() + left)


async def _many(here: Desk, left: float) -> list[Line]:
    """Have one more lease than a node that is not busy may have in trouble."""
    lines = [await here.line(f"led-{number}") for number in range(FEW + 1)]
    _all_lead(lines, left)
    return lines


def _all_lead(lines: list[Line], left: float) -> None:
    for line in lines:
        _leads(line, left)


def _seeks(here: Desk, program: str) -> Line:
    line = Line(here.pool, program, "n1", here.instance)
    line.session.open()
    return line


def test_while_renewals_are_late_only_those_that_lead_get_connections(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, server=Counting) as here:
            leading = await _many(here, LATE)
            await until(lambda: here.pool.listener.connected)
            assert isinstance(here.pool.server, Counting)
            here.pool.review()
            before, waiting = here.pool.server.attempts, _seeks(here, "bot")
            lost = Line(here.pool, "relay", "n1", here.instance)
            _leads(lost, LATE)
            lost.session.open()
            await lost.told(Attached)
            assert here.pool.server.attempts == before + 1, "a program that is not led was connected, too"
            _all_lead([*leading, lost], TIMELY)
            here.pool.review()
            await waiting.told(Attached)

    asyncio.run(scenario())


def test_while_renewals_are_late_no_term_begins(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            leading, free = await _many(here, TIMELY), await here.line("bot")
            claim = await free.claim()
            _all_lead(leading, LATE)
            here.pool.review()
            assert not free.session.take_over(claim), "a child is prepared"
            assert (await free.told(Refused)).why == RENEWALS_FIRST
            assert RENEWALS_FIRST in here.pool.server.notes.warnings
            _all_lead(leading, inf)
            here.pool.review()
            assert RENEWALS_FIRST not in here.pool.server.notes.warnings
            await free.lead()

    asyncio.run(scenario())


def test_a_few_late_renewals_are_a_trouble_of_their_own(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            first, *others = await _many(here, LATE)
            _leads(first, TIMELY)
            here.pool.review()
            assert not here.pool.late, "five rows that somebody has locked"
            _all_lead([first, *others], LATE)
            here.pool.review()
            assert here.pool.late

    asyncio.run(scenario())
