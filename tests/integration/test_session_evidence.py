"""Whatever evidence of another leader is in reach is looked at: other hosts, other keys, the session's own settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from highlanderd.core.events import Detached, Granted, Refused
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.replies import ConnectFailed
from highlanderd.postgres.server import Server
from tests.support.nodes import settled_ledger
from tests.support.postgres import Cluster, Clusters, Database, run
from tests.support.session import LEASE, SHORT_LEASE, desk, settle

# ------------------------------------------------------------------------------------------------------- every host


def _promoted(clusters: Clusters) -> tuple[Database, Cluster, str]:
    """Return a database whose primary lives on beside the standby that was promoted, and a dsn that names both."""
    primary = clusters.create()
    database = primary.database()
    settled_ledger(database, LEASE)
    standby = clusters.standby(primary)
    standby.promote()
    return database, standby, database.with_standby(standby)


def test_the_first_session_of_a_daemon_knows_what_every_host_knows(clusters: Clusters) -> None:
    """The old primary comes first in the dsn, takes writes, and has settled long ago."""
    _, _, both = _promoted(clusters)

    async def scenario() -> None:
        async with desk(both, lease=SHORT_LEASE) as here:
            line = await here.line()
            assert (await line.look()).server.timeline == 2

    asyncio.run(scenario())


def test_a_session_on_the_old_primary_is_left_when_another_host_tells_of_a_promotion(clusters: Clusters) -> None:
    primary = clusters.create()
    database = primary.database()
    standby = clusters.standby(primary)

    async def scenario() -> None:
        async with desk(database.with_standby(standby), lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            await line.lead()
            standby.promote()  # and nobody connects to it
            assert "still on timeline 1" in (await line.told(Detached)).why

    asyncio.run(scenario())


def test_a_standby_tells_of_the_timeline_that_it_follows(clusters: Clusters) -> None:
    """The promoted server is out of reach, and one that follows it is not."""
    database, promoted, _ = _promoted(clusters)
    follower = clusters.standby(promoted)
    run(promoted.dsn, "CHECKPOINT")
    both = database.with_standby(follower)

    async def scenario() -> None:
        ledger = Ledger("highlander", "highlander", LEASE)
        server = Server(both, ledger, node="n1", fresh=None)
        await until_asked(server, 2)
        refusals = [await _refusal(server) for _ in range(2)]  # of the old primary, and of the standby
        assert any("stop it" in refusal for refusal in refusals)

    async def until_asked(server: Server, timeline: int) -> None:
        await server.ask_hosts()
        while timeline not in server.memory.timelines.values():  # until a restartpoint is in the control file
            run(follower.dsn, "CHECKPOINT")
            await server.ask_hosts()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_timeline_that_was_seen_outlives_the_daemon_and_its_refusal_names_the_cure(
    clusters: Clusters, tmp_path: Path
) -> None:
    database, promoted, _ = _promoted(clusters)
    there = make_conninfo(database.dsn, port=promoted.port)

    async def meets(dsn: str, memory: NodeMemory) -> None:
        server = Server(dsn, Ledger("highlander", "highlander", LEASE), node="n1", fresh=None, memory=memory)
        (await server.open()).wire.drop("enough")
        memory.keep()

    asyncio.run(meets(there, NodeMemory(tmp_path / "timelines")))
    with pytest.raises(Unfit, match="remove the file 'timelines' from each one's state_dir"):
        asyncio.run(meets(database.dsn, NodeMemory(tmp_path / "timelines")))
    (tmp_path / "timelines").unlink()
    asyncio.run(meets(database.dsn, NodeMemory(tmp_path / "timelines")))


def test_two_clusters_in_one_dsn_that_both_take_writes_are_warned_of(clusters: Clusters) -> None:
    one, other = clusters.create(), clusters.create()
    both = make_conninfo(one.dsn, host="127.0.0.1,127.0.0.1", port=f"{one.port},{other.port}")

    async def scenario() -> None:
        server = Server(both, Ledger("highlander", "highlander", LEASE), node="n1", fresh=None)
        await server.ask_hosts()
        [warning] = server.notes.warnings
        assert "are different clusters" in warning
        assert "name only one of them" in warning

    asyncio.run(scenario())


def test_two_addresses_of_one_server_are_no_two_servers(clusters: Clusters) -> None:
    cluster = clusters.create()
    twice = make_conninfo(cluster.dsn, host="127.0.0.1,127.0.0.1", port=f"{cluster.port},{cluster.port}")

    async def scenario() -> None:
        server = Server(twice, Ledger("highlander", "highlander", LEASE), node="n1", fresh=None)
        await server.ask_hosts()
        assert server.notes.warnings == set()
        assert list(server.memory.timelines.values()) == [1]

    asyncio.run(scenario())


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"timelines": 7, "generation": 1}', b'{"generation": "x"}'])
def test_a_file_of_the_past_that_cannot_be_read_is_no_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "timelines").write_bytes(text)
    memory = NodeMemory(tmp_path / "timelines")
    assert memory.timelines == {}
    memory.learn_timeline("7", 3)
    memory.keep()
    assert NodeMemory(tmp_path / "timelines").timelines == {"7": 3}


async def _refusal(server: Server) -> str:
    with pytest.raises((Unfit, ConnectFailed)) as refused:
        await server.open()
    return str(refused.value)


# -------------------------------------------------------------------------------------------------------- other keys


def test_a_program_that_is_led_under_another_key_is_not_taken_over(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2", key="another")
            settle(database)
            claim = await theirs.claim()
            await ours.lead()
            theirs.session.take_over(claim)  # judged before the other key's row was there
            assert (await theirs.told(Refused)).why == "another session holds the advisory lock on the program's name"
            assert database.sql("SELECT node FROM highlander.lease WHERE released_at IS NULL") == [("n1",)]

    asyncio.run(scenario())


def test_of_two_keys_for_one_program_only_one_is_granted_however_close_the_takeovers(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here, desk(database.dsn) as there:
            ours, theirs = await here.line(), await there.line(node="n2", key="another")
            settle(database)
            for _ in range(20):
                claims = await asyncio.gather(ours.claim(), theirs.claim())
                ours.session.take_over(claims[0])
                theirs.session.take_over(claims[1])
                told = await asyncio.gather(ours.outcome(), theirs.outcome())
                granted = [event for event in told if isinstance(event, Granted)]
                assert len(granted) <= 1
                for line, event in zip((ours, theirs), told, strict=True):
                    if isinstance(event, Granted):
                        await line.release(event.epoch)

    asyncio.run(scenario())


def test_a_term_under_the_former_key_that_lapsed_is_closed_by_the_takeover_under_the_new_one(
    database: Database,
) -> None:
    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here, desk(database.dsn, lease=SHORT_LEASE) as there:
            ours, theirs = await here.line(), await there.line(node="n2", key="another")
            settle(database)
            await ours.lead()
            ours.session.close()
            await theirs.lead()
            rows = "SELECT lock_id, reason FROM highlander.lease WHERE released_at IS NOT NULL"
            assert database.sql(rows) == [(ours.lock_id, "lapsed")]

    asyncio.run(scenario())


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("synchronous_commit = off", "synchronous_commit is off, not on"),
        pytest.param("idle_session_timeout = 0", "idle_session_timeout is 0, not 10000", marks=pytest.mark.long),
        pytest.param(
            "default_transaction_read_only = on",
            "default_transaction_read_only is on, not off",
            marks=pytest.mark.long,
        ),
        pytest.param("lock_timeout = '1h'", "lock_timeout is 3600000, not 2000", marks=pytest.mark.long),
    ],
)
def test_a_login_trigger_that_changes_what_the_promise_stands_on_is_refused(
    clusters: Clusters, setting: str, said: str
) -> None:
    cluster = clusters.create()
    if int(cluster.sql("SHOW server_version_num")[0][0]) < 170000:
        pytest.skip("login triggers came with PostgreSQL 17")
    database = cluster.database()
    body = f"AS $$ BEGIN SET {setting}; END $$"
    function = f"CREATE FUNCTION public.greet() RETURNS event_trigger LANGUAGE plpgsql {body}"
    for statement in (function, "CREATE EVENT TRIGGER greet ON login EXECUTE FUNCTION public.greet()"):
        database.sql(statement, admin=True)

    async def scenario() -> None:
        server = Server(database.dsn, Ledger("highlander", "highlander", LEASE), node="n1", fresh=None)
        with pytest.raises(Unfit) as refused:
            await server.open()
        assert said in str(refused.value)
        assert "exempt the role of highlanderd from it" in str(refused.value)

    asyncio.run(scenario())


def test_a_transaction_limit_of_the_role_does_not_reach_a_session(clusters: Clusters) -> None:
    cluster = clusters.create()
    if int(cluster.sql("SHOW server_version_num")[0][0]) < 170000:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    database = cluster.database()
    database.sql(f"ALTER ROLE \"{database.role}\" SET transaction_timeout = '1ms'", admin=True)

    async def scenario() -> None:
        async with desk(database.dsn) as here:
            assert (await (await here.line()).look()).row is None

    asyncio.run(scenario())
