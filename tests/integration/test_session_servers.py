"""The ledger's statements where the server is not the one that was judged: what the small world's stand-ins rely on."""

from __future__ import annotations

import asyncio

from highlanderd.core.events import Refused, Renewed, Settled
from highlanderd.core.verdict import Settle
from tests.support.postgres import Database
from tests.support.session import SHORT_LEASE, desk, settle


def _move_row_to_another_timeline(database: Database) -> None:
    database.sql("UPDATE highlander.lease SET timeline = timeline + 7, system = system + 1")


def _server_of_row(database: Database) -> tuple[object, ...]:
    return tuple(database.sql("SELECT system, timeline, released_at IS NOT NULL FROM highlander.lease")[0])


def _unsettle(database: Database) -> None:
    database.sql("UPDATE highlander.meta SET settled_system = NULL, settled_timeline = NULL")


def test_a_release_leaves_the_server_in_the_row_as_it_was(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            ours = await here.line()
            settle(database)
            epoch = (await ours.lead()).epoch
            _move_row_to_another_timeline(database)
            before = _server_of_row(database)
            await ours.release(epoch)
            assert _server_of_row(database) == (*before[:2], True)

    asyncio.run(scenario())


def test_a_renewal_writes_the_server_that_it_met(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            ours = await here.line()
            settle(database)
            granted = await ours.lead()
            before = _server_of_row(database)
            _move_row_to_another_timeline(database)
            ours.renew(granted.epoch)
            await ours.told(Renewed)
            assert _server_of_row(database) == before

    asyncio.run(scenario())


def test_settled_is_written_only_for_the_server_that_was_waited_for(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            ours = await here.line()
            claim = await ours.claim()
            _unsettle(database)
            ours.session.write_settled(Settle(claim.server.system, claim.server.timeline + 1, claim.server.place))
            await ours.told(Settled)
            ours.session.write_settled(Settle(claim.server.system + 1, claim.server.timeline, claim.server.place))
            await ours.told(Settled)
            ours.session.write_settled(Settle(claim.server.system, claim.server.timeline, "another ledger"))
            await ours.told(Settled)
            assert database.sql("SELECT settled_system, settled_timeline FROM highlander.meta") == [(None, None)]

    asyncio.run(scenario())


def test_a_renewal_that_arrives_before_the_closing_keeps_its_term(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here, desk(database.dsn, lease=SHORT_LEASE) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            epoch = (await ours.lead()).epoch
            ours.session.close()
            claim = await theirs.claim()
            assert claim.closing == (claim.judged,)
            late = database.sql("UPDATE highlander.lease SET renewal = renewal + 1 RETURNING epoch, released_at")
            theirs.session.take_over(claim)
            assert (await theirs.told(Refused)).why == "another session was faster"
            assert database.sql("SELECT epoch, released_at FROM highlander.lease") == late == [(epoch, None)]

    asyncio.run(scenario())


def test_a_row_of_another_timeline_is_taken_over_only_on_a_settled_ledger(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            settle(database)
            await ours.release((await ours.lead()).epoch)
            _move_row_to_another_timeline(database)
            claim = await theirs.claim()
            _unsettle(database)
            theirs.session.take_over(claim)
            assert (await theirs.told(Refused)).why == "another session was faster"
            assert _server_of_row(database)[2] is True

    asyncio.run(scenario())
