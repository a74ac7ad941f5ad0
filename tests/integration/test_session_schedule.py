"""A scheduled time on a real server: the takeover and the time are one, so no time is begun twice."""

from __future__ import annotations

import asyncio

import psycopg

from highlanderd.core.events import Granted, Refused, Settled
from highlanderd.core.observation import Observation
from highlanderd.core.planning import Later, TimeFacts, plan
from highlanderd.core.schedule import Change, Run, Schedule, Skipped, Timetable
from highlanderd.core.states import Cause
from highlanderd.core.verdict import Claim
from highlanderd.structs import replace
from tests.support.postgres import Database
from tests.support.schedules import every
from tests.support.session import Line, desk, settle
from tests.support.wait import until

SECONDLY = every(1)
TERMS = "SELECT epoch, node, reason, extract(epoch FROM scheduled_at)::bigint FROM highlander.term ORDER BY epoch"


def _plan(seen: Observation, times: Schedule = SECONDLY) -> Run | Change:
    """Return what is planned, as a node that has taken the schedule up just now."""
    facts = _facts(seen)
    planned = plan(times, replace(facts, since=facts.clock), repeats=False)
    assert isinstance(planned, Run | Change)
    return planned


async def _claim(line: Line) -> Claim:
    """Look until a time is due, writing what has to be written before."""
    while True:
        claim = await line.claim()
        if claim.closing:
            line.session.close_terms(claim)
            await line.told(Settled)
            continue
        match plan(SECONDLY, _facts(await line.look()), repeats=False):
            case Change() as change:
                line.session.write_timetable(change)
                await line.told(Settled)
            case Run() as run:
                return replace(claim, run=run)
            case _:
                await asyncio.sleep(0.1)


def _facts(seen: Observation) -> TimeFacts:
    assert seen.clock is not None
    return TimeFacts(seen.timetable, seen.clock, 0.0, seen.row)


def test_of_two_nodes_with_one_time_one_begins_it_and_the_other_finds_it_taken(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            claims = await _claim(ours), await _claim(theirs)
            at = max(claim.run.at for claim in claims if claim.run is not None)
            after = (await ours.look()).timetable
            assert after is not None
            both = [replace(claim, run=Run(at, after.latest)) for claim in claims]
            ours.session.take_over(both[0])
            theirs.session.take_over(both[1])
            ends = [await ours.outcome(), await theirs.outcome()]
            granted = [end for end in ends if isinstance(end, Granted)]
            assert [one.scheduled for one in granted] == [at]
            await until(lambda: [row[3] for row in database.sql(TERMS)] == [at])

    asyncio.run(scenario())


def test_a_stale_look_runs_no_time_that_was_run_or_skipped_since(database: Database) -> None:
    """The row is free again, so only the timetable says that another node has had the time."""

    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            first = await _claim(ours)
            ours.session.take_over(first)
            await ours.release((await ours.told(Granted)).epoch, Cause.FINISHED)
            fresh = await theirs.claim()
            theirs.session.take_over(replace(fresh, run=first.run))
            assert isinstance(await theirs.outcome(), Refused)

            stale = await _claim(theirs)
            skipping = _plan(await ours.look())
            assert isinstance(stale.run, Run)
            latest = (await ours.look()).timetable
            assert latest is not None
            skipped = Skipped(stale.run.at, stale.run.at, 1, "missed")
            ours.session.write_timetable(Change(latest, latest.words, stale.run.at, (skipped,)))
            await ours.told(Settled)
            theirs.session.take_over(stale)
            assert isinstance(await theirs.outcome(), Refused), skipping
            assert database.sql("SELECT reason, times, node FROM highlander.skipped") == [("missed", 1, "n1")]

    asyncio.run(scenario())


def test_a_clock_that_is_ahead_begins_no_time_early(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            claim = await _claim(line)
            assert claim.run is not None
            line.session.take_over(replace(claim, run=Run(claim.run.at + 3600, claim.run.after)))
            assert isinstance(await line.outcome(), Refused)
            seen = (await line.look()).timetable
            assert seen is not None
            line.session.write_timetable(Change(seen, seen.words, seen.latest + 7200))
            assert await line.told(Settled) == Settled()
            assert (await line.look()).timetable == seen

    asyncio.run(scenario())


def test_a_row_that_no_daemon_writes_keeps_no_program_from_being_led_and_runs_no_time_twice(database: Database) -> None:
    """Such as a DBA who means "not for now", or "from the beginning"."""

    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            await _claim(line)
            for latest in ("infinity", "294276-12-31", "-infinity", "0044-03-15 BC"):
                database.sql(f"UPDATE highlander.schedule SET latest = '{latest}', words = 'every 60'")
                database.sql("DELETE FROM highlander.skipped")
                claim = await line.claim()  # as a program without a schedule does
                line.session.take_over(claim)
                await line.release((await line.told(Granted)).epoch, Cause.FINISHED)
                planned = _plan(await line.look(), times=every(60))
                assert isinstance(planned, Change), latest
                line.session.write_timetable(planned)
                assert (await line.told(Settled)).skipped, latest
                assert {one.reason for one in planned.skipped} <= {"clock", "missed", "overlap"}
                again = _facts(await line.look())
                assert again.timetable is not None
                assert again.timetable.latest == planned.latest
                assert not again.timetable.set_back
                later = plan(every(60), again, repeats=False)
                if latest in ("infinity", "294276-12-31"):
                    assert isinstance(later, Later)
                    assert "PostgreSQL's clock is behind " in later.why

    asyncio.run(scenario())


def test_a_clock_that_was_set_back_is_noted_once_and_a_failed_run_is_repeated_all_the_same(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            await _claim(ours)
            database.sql(
                "UPDATE highlander.schedule SET latest = date_trunc('minute', now() + '1 hour'), epoch = 1, "
                "words = 'every 60', taken_up = now() + '1 hour'"
            )
            seen = await ours.look()
            change = _plan(seen, times=every(60))
            assert isinstance(change, Change)
            ours.session.write_timetable(change)
            theirs.session.write_timetable(change)
            told = [await ours.told(Settled), await theirs.told(Settled)]
            assert sorted(len(one.skipped) for one in told) == [0, 1]
            assert database.sql("SELECT reason, times > 50 FROM highlander.skipped") == [("clock", True)]
            kept = (await ours.look()).timetable
            assert kept is not None
            assert (kept.epoch, kept.set_back) == (1, False)
            ours.session.take_over(replace(await ours.claim(), run=Run(kept.latest, kept.latest)))
            assert (await ours.told(Granted)).scheduled == kept.latest

            another = _plan(await theirs.look(), times=every(3600))
            assert isinstance(another, Change)
            theirs.session.write_timetable(another)
            await theirs.told(Settled)
            changed = (await theirs.look()).timetable
            assert changed is not None
            assert (changed.words, changed.latest) == ("every 3600", kept.latest)

    asyncio.run(scenario())


def test_two_nodes_that_skip_one_time_write_it_once(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            await _claim(ours)
            seen = (await ours.look()).timetable
            assert seen is not None
            at = seen.latest + 1
            change = Change(seen, seen.words, at, (Skipped(at, at, 1, "overlap"),))
            ours.session.write_timetable(change)
            theirs.session.write_timetable(change)
            told = [await ours.told(Settled), await theirs.told(Settled)]
            assert sorted(len(one.skipped) for one in told) == [0, 1]
            assert database.sql("SELECT count(*) FROM highlander.skipped") == [(1,)]

    asyncio.run(scenario())


def test_a_term_that_lapsed_is_in_the_history_even_if_its_node_could_not_say_that_it_began(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            claim = await _claim(line)
            line.session.take_over(claim)
            granted = await line.told(Granted)
            await until(lambda: database.sql(TERMS))
            database.sql("DELETE FROM highlander.term")
            line.session.close_terms(await line.claim())
            await line.told(Settled)
            assert claim.run is not None
            assert database.sql(TERMS) == [(granted.epoch, "n1", "lapsed", claim.run.at)]
            kept = (await line.look()).timetable
            assert kept is not None
            assert (kept.latest, kept.epoch) == (claim.run.at, granted.epoch)

    asyncio.run(scenario())


def test_a_takeover_that_changes_no_row_leaves_the_time_to_others(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            claim = await _claim(line)
            before = (await line.look()).timetable
            with psycopg.connect(database.dsn) as other:
                other.execute(
                    "INSERT INTO highlander.wish (lock_id, program, author, reason) VALUES (%s, '', '', '')",
                    [line.lock_id],
                )
            line.session.take_over(claim)
            assert isinstance(await line.outcome(), Refused)
            after = (await line.look()).timetable
            assert isinstance(after, Timetable)
            assert after == before

    asyncio.run(scenario())
