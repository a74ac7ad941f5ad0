"""Claims about programs that share connections while they wait: what leads has one of its own, and holds its lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

from highlanderd.core.events import Attached, Detached, Granted, Looked, Refused
from highlanderd.core.verdict import Claim
from highlanderd.postgres.warm import WARM
from highlanderd.system.linux import boottime
from tests.support.postgres import Database
from tests.support.session import Desk, Line, RecordingSharer, desk, locks_of_beat, settle
from tests.support.wait import until


@dataclass(frozen=True, slots=True)
class Leader:
    """A line that leads."""

    line: Line
    epoch: int

    async def release(self) -> None:
        """End its term, which is notified."""
        await self.line.release(self.epoch)


SESSIONS_OF = "FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"
MANY = tuple(f"p{number}" for number in range(12))


@asynccontextmanager
async def led_elsewhere(database: Database, *programs: str) -> AsyncIterator[tuple[Desk, list[Leader], list[Line]]]:
    """Give another node's desk, the leaders on this one, and the lines there that share and have seen them."""
    async with desk(database.dsn) as here, desk(database.dsn, node="n2") as there:
        leaders = [await here.line(program) for program in programs]
        settle(database)
        led = [Leader(line, (await line.lead()).epoch) for line in leaders]
        waiting = [await there.line(program, "n2", session=RecordingSharer) for program in programs]
        await until(lambda: there.pool.warm.count == WARM)
        await asyncio.gather(*(line.look() for line in waiting))
        for line in waiting:
            line.session.asked.clear()
            sharer(line)._own_until = 0.0  # a listener that begins has all look
        await asyncio.gather(*(line.look() for line in waiting))
        yield there, led, waiting


async def taken(line: Line) -> Granted:
    """Look and take over, as the machine would, until it is granted."""
    while True:
        verdict = line.judge(await line.look())
        if not isinstance(verdict, Claim):
            await asyncio.sleep(0.02)
            continue
        line.session.take_over(verdict)
        outcome = await line.outcome()
        if isinstance(outcome, Granted):
            line.session.note_stake(boottime() + 9.0)
            return outcome


def sharer(line: Line) -> RecordingSharer:
    """Return its session, which shares."""
    assert isinstance(line.session, RecordingSharer)
    return line.session


async def hinted(line: Line) -> None:
    """Wait for the hint after which the session looks by itself."""
    await until(lambda: boottime() < sharer(line)._own_until)


def sessions(database: Database) -> int:
    """Return how many sessions the second node has, its listener's too."""
    [[count]] = database.sql(f"SELECT count(*) {SESSIONS_OF}", ["%/n2%"])
    return int(count)


def test_waiting_programs_share_a_few_connections_and_one_statement(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, *MANY) as (_, _, waiting):
            asked = [name for line in waiting for name in line.session.asked]
            assert asked.count("look_at_many") == len(asked) == 1
            assert all(line.session.own is None and line.session.connected for line in waiting)
            await until(lambda: sessions(database) == WARM + 1)

    asyncio.run(scenario())


def test_a_hint_is_looked_at_and_followed_on_a_connection_of_its_own(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, "beat") as (_, [leader], [line]):
            line.session.asked.clear()
            await leader.release()
            await hinted(line)
            claim = line.judge(await line.look())
            assert isinstance(claim, Claim)
            assert line.session.own is not None
            line.session.take_over(claim)
            await line.told(Granted)
            assert line.session.granted
            assert locks_of_beat(database) == 1
            assert "look_at_many" not in line.session.asked

    asyncio.run(scenario())


def test_more_takeovers_than_warm_connections_get_one_each_in_their_turn(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, *MANY) as (there, _, waiting):
            # by hand, and so without a notification
            database.sql("UPDATE highlander.lease SET released_at = clock_timestamp(), renewal = renewal + 1")
            database.sql(f"SELECT pg_terminate_backend(pid) {SESSIONS_OF}", ["%/n1/%"])
            await asyncio.gather(*(taken(line) for line in waiting))
            owned = {line.session.own.pid for line in waiting if line.session.own is not None and line.session.granted}
            assert len(owned) == len(MANY)
            shared = there.pool.warm.shared
            assert shared is None or shared.pid not in owned

    asyncio.run(scenario())


def test_a_silent_leader_has_a_connection_taken_before_its_lease_is_over(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=8.0) as here, desk(database.dsn, node="n2", lease=8.0) as there:
            leader = await here.line("beat")
            settle(database)
            await leader.lead()
            line = await there.line("beat", "n2", session=RecordingSharer)
            while line.session.own is None:
                assert not isinstance(line.judge(await line.look()), Claim)
                await asyncio.sleep(0.02)
            database.sql("UPDATE highlander.lease SET renewal = renewal + 1")  # it was alive after all
            await line.look()
            await until(lambda: line.session.own is None)

    asyncio.run(scenario())


def test_a_connection_that_has_led_is_no_other_programs_later(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, "beat") as (there, [leader], [line]):
            await leader.release()
            granted = await taken(line)
            own = line.session.own
            assert own is not None
            await line.release(granted.epoch)
            line.session.note_stake(inf)
            await until(lambda: there.pool.warm.shared)
            sharer(line)._own_until = 0.0
            line.session.look()
            assert line.session.own is None
            assert not own.wire.open
            assert own is not there.pool.warm.shared

    asyncio.run(scenario())


def test_what_is_given_back_is_no_former_session_of_the_program_that_had_it(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, "beat", "relay") as (there, [beat, _], [line, other]):
            sharer(line)._hinted()
            await line.look()  # by itself, and finds that another node leads
            assert line.session.own is None
            sharer(other)._hinted()
            other.session.look()
            taken_again = other.session.own
            assert taken_again is not None
            await other.told(Looked)
            database.sql("UPDATE highlander.lease SET instance = %s", [line.instance])
            line.session.say(*line.session.terminate_old(beat.epoch)[:2], *line.session.terminate_old(beat.epoch)[2])
            assert (await line.look()).row is not None
            assert there.pool.warm.shared is not None
            assert taken_again.wire.open

    asyncio.run(scenario())


def test_all_who_share_outlive_the_loss_of_the_connection_that_carries_their_looks(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, *MANY) as (there, _, waiting):
            shared = there.pool.warm.shared
            assert shared is not None
            for line in waiting:
                line.session.look()
            await asyncio.sleep(0)  # they are asked for, and nothing was answered yet
            shared.wire.drop("cut")
            for line in waiting:
                assert (await line.told(Looked)).observation.row is not None
            await until(lambda: there.pool.warm.count == WARM)

    asyncio.run(scenario())


def test_the_loss_of_all_connections_is_told_once_and_ends(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, *MANY) as (there, _, waiting):
            database.sql(f"SELECT pg_terminate_backend(pid) {SESSIONS_OF}", ["%/n2%"])
            for line in waiting:
                await line.told(Detached)
                await line.told(Attached)
                assert (await line.look()).row is not None
            await until(lambda: there.pool.warm.count == WARM)
            for line in waiting:
                while line.session.own is not None:  # a listener that begins had it look by itself
                    await line.look()

    asyncio.run(scenario())


def test_a_warm_connection_that_is_lost_while_it_is_taken_is_a_session_that_was_lost(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, "beat") as (_, [leader], [line]):
            await leader.release()
            await hinted(line)
            line.session.look()
            own = line.session.own
            assert own is not None
            own.wire.drop("cut")
            await line.told(Detached)
            await line.told(Attached)
            assert (await taken(line)).epoch > leader.epoch
            assert locks_of_beat(database) == 1

    asyncio.run(scenario())


def test_a_leader_whose_session_is_lost_seeks_one_of_its_own(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, "beat") as (_, [leader], [line]):
            await leader.release()
            granted = await taken(line)
            own = line.session.own
            assert own is not None
            own.wire.drop("cut")
            await line.told(Detached)
            await line.told(Attached)
            assert line.session.own is not None
            line.renew(granted.epoch)
            await until(lambda: line.session.granted)
            assert locks_of_beat(database) == 1

    asyncio.run(scenario())


def test_a_claim_on_a_shared_connection_is_refused_until_there_is_one_of_its_own(database: Database) -> None:
    async def scenario() -> None:
        async with led_elsewhere(database, "beat") as (_, _, [line]):
            database.sql("UPDATE highlander.lease SET released_at = clock_timestamp(), renewal = renewal + 1")
            claim = line.judge(await line.look())
            assert isinstance(claim, Claim)
            assert not line.session.take_over(claim)  # so no child is prepared for it yet
            assert await line.told(Refused) == Refused(0, "takes a connection of its own")
            assert line.session.own is not None
            assert not line.session.granted

    asyncio.run(scenario())
