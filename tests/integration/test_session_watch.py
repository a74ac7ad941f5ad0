"""Claims about programs that another node leads: surveys watch them, and bring along since when a version was seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from highlanderd.core.events import LookAdvised, Looked, Renewed
from highlanderd.core.verdict import Claim
from highlanderd.postgres.housekeeping import Housekeeping
from tests.support.postgres import Database
from tests.support.session import LEASE, Line, RecordingSession, RecordingSharer, desk, settle

KINDS = pytest.mark.parametrize("kind", [RecordingSession, RecordingSharer], ids=["own", "shared"])


@asynccontextmanager
async def watched(database: Database, kind: type[RecordingSession]) -> AsyncIterator[tuple[Line, int, Line]]:
    """Return a leader, the epoch of its term, and another node's line that surveys watch."""
    async with desk(database.dsn) as here, desk(database.dsn, node="n2") as there:
        leader = await here.line("beat")
        settle(database)
        epoch = (await leader.lead()).epoch
        line = await there.line("beat", "n2", session=kind)
        while not (await looked(line)).watched:  # noqa: ASYNC110 - until a survey has come
            await asyncio.sleep(0.05)
        yield leader, epoch, line


async def looked(line: Line) -> Looked:
    """Look, and return all that was told."""
    line.session.look()
    return await line.told(Looked)


async def silent(line: Line) -> Looked:
    """Look when that is advised, until the leader was silent for half a lease: surveys that are late advise it, too."""
    while (found := await looked(line)).watched or found.glimpse is None or found.at - found.glimpse.at < LEASE / 2:
        if found.watched:
            await line.told(LookAdvised)
    return found


@KINDS
def test_a_release_that_nobody_was_notified_of_is_advised(database: Database, kind: type[RecordingSession]) -> None:
    async def scenario() -> None:
        async with watched(database, kind) as (_, _, line):
            database.sql("UPDATE highlander.lease SET released_at = clock_timestamp(), renewal = renewal + 1")
            await line.told(LookAdvised)
            found = await looked(line)
            assert found.observation.row is not None
            assert found.observation.row.released
            assert not found.watched

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "kind", [RecordingSession, pytest.param(RecordingSharer, marks=pytest.mark.long)], ids=["own", "shared"]
)
def test_a_leader_that_falls_silent_is_replaced_a_lease_after_the_survey_that_showed_its_last_renewal(
    database: Database, kind: type[RecordingSession]
) -> None:
    async def scenario() -> None:
        async with watched(database, kind) as (leader, epoch, line):
            await line.look()  # the program knows this version, and none that follows
            leader.renew(epoch)
            await leader.told(Renewed)
            found = await silent(line)
            row, glimpse = found.observation.row, found.glimpse
            assert row is not None
            assert glimpse is not None
            assert glimpse.version == row.version == (epoch, 2)
            line.knowledge = line.known_after(found)
            assert line.knowledge.versions[line.lock_id] == (row.version, glimpse.at)
            assert isinstance(await line.claim(), Claim)

    asyncio.run(scenario())


def test_nobody_rests_on_surveys_while_they_cannot_be_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: Housekeeping) -> None:
        """Ask nothing that would wait for the lock, too."""

    monkeypatch.setattr(Housekeeping, "run", nothing)

    async def scenario() -> None:
        async with watched(database, RecordingSession) as (_, _, line):
            with psycopg.connect(database.dsn) as other:
                other.execute("LOCK TABLE highlander.lease IN ACCESS EXCLUSIVE MODE")
                await line.told(LookAdvised)
                other.rollback()

    asyncio.run(scenario())
