"""Which servers are refused, with a sentence that names the cure; and what a change of server does to epochs."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from highlanderd.core.events import Detached, Renewed
from highlanderd.core.verdict import NotYet
from highlanderd.direct.questions import answer
from highlanderd.errors import HighlanderError, Unanswered
from highlanderd.postgres.addresses import Unfit, parse, startup_options
from highlanderd.postgres.health import judge
from highlanderd.postgres.history import History
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import ConnectFailed, WireLost
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import upkeep
from highlanderd.structs import replace
from tests.support.pooler import pooler
from tests.support.postgres import SCHEMA, Cluster, Clusters, Database
from tests.support.session import LEASE, SHORT_LEASE, desk, settle
from tests.support.wait import until, wait_for


def _refusal(dsn: str, *, namespace: str = "highlander", schema: str = SCHEMA) -> str:
    """Say why a connection is refused."""

    async def scenario() -> str:
        server = Server(dsn, Ledger(schema, namespace, LEASE), node="n1", fresh=None)
        with pytest.raises((Unfit, ConnectFailed)) as refused:
            await server.open()
        return str(refused.value)

    return asyncio.run(scenario())


def _create_ledger(dsn: str) -> None:
    async def scenario() -> None:
        async with desk(dsn) as here:
            await here.line()

    asyncio.run(scenario())


def test_a_hot_standby_is_refused(clusters: Clusters) -> None:
    primary = clusters.create()
    _create_ledger(primary.dsn)
    standby = clusters.standby(primary)
    assert "hot standby" in _refusal(standby.dsn)
    assert "target_session_attrs=read-write" in _refusal(standby.dsn)


def test_a_server_that_may_forget_is_refused(clusters: Clusters) -> None:
    assert "switch fsync on" in _refusal(clusters.create(fsync="off").dsn)


def test_a_refusal_is_logged_once_and_told_those_who_ask_as_the_server_s_answer(
    clusters: Clusters, caplog: pytest.LogCaptureFixture
) -> None:
    dsn, told = clusters.create(fsync="off").dsn, "PostgreSQL cannot be used: the server runs with fsync = off"

    async def scenario() -> None:
        async with desk(dsn) as here:
            lines = [asyncio.ensure_future(here.line(program)) for program in ("beat", "bot", "web")]
            await until(lambda: here.pool.last_error.endswith("switch fsync on"))
            with pytest.raises(Unanswered, match=f"^{told}"):
                await here.pool.listener.fresh_facts()
            with pytest.raises(Unanswered, match=f"^{told}"):
                await History(here.pool).events(10)
            for line in lines:
                line.cancel()

    caplog.set_level(logging.INFO)
    asyncio.run(scenario())
    assert len([record for record in caplog.records if "switch fsync on" in record.message]) == 1
    with pytest.raises(Unfit, match="switch fsync on"):
        asyncio.run(answer("/v1/cluster", dsn, SCHEMA))


def test_a_database_without_a_ledger_and_a_role_that_may_not_read_it_are_named_with_the_cure(
    database: Database,
) -> None:
    with pytest.raises(HighlanderError, match=f"^there is no ledger in schema highlander of database {database.name}"):
        asyncio.run(answer("/v1/events", database.dsn, SCHEMA))
    _create_ledger(database.dsn)
    stranger = f"{database.role}_stranger"
    with pytest.raises(Unanswered, match=f'^PostgreSQL refuses the connection: .* role "{stranger}" does not exist'):
        asyncio.run(answer("/v1/cluster", make_conninfo(database.dsn, user=stranger), SCHEMA))
    database.sql(f'CREATE ROLE "{stranger}" LOGIN', admin=True)
    try:
        with pytest.raises(HighlanderError, match=f"^role {stranger} may not read .* GRANT USAGE ON SCHEMA"):
            asyncio.run(answer("/v1/cluster", make_conninfo(database.dsn, user=stranger), SCHEMA))
    finally:
        database.sql(f'DROP ROLE "{stranger}"', admin=True)


def test_a_ledger_that_a_crash_empties_is_refused_and_waited_out_once_it_is_mended(cluster: Cluster) -> None:
    database = cluster.database()

    async def scenario() -> None:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            await line.lead()
            database.sql("ALTER TABLE highlander.lease SET UNLOGGED")
            health = await here.pool.listener.answer("health", upkeep.HEALTH)
            assert any("lease are UNLOGGED" in note for note in judge(health.rows[0])), "a running daemon warns, too"
        cluster.kill()
        cluster.start()
        assert database.sql("SELECT count(*) FROM highlander.lease") == [(0,)], "the server has forgotten who leads"
        assert "ALTER TABLE highlander.lease SET LOGGED" in await asyncio.to_thread(_refusal, database.dsn)
        database.sql("ALTER TABLE highlander.lease SET LOGGED")
        async with desk(database.dsn, lease=SHORT_LEASE) as there:
            other = await there.line(node="n2")
            assert isinstance(other.judge(await other.look()), NotYet), "somebody may lead who was forgotten"

    asyncio.run(scenario())


def test_a_pooler_is_refused(database: Database, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pooler(database, tmp_path, "transaction") as through:
        wait_for(lambda: "connection refused" not in _refusal(through).lower(), what="pgbouncer listens")
        for _ in range(3):
            assert "pooler" in _refusal(through)


def test_a_survey_that_another_backend_answers_costs_the_session_and_raises_an_alarm(database: Database) -> None:
    alarms: list[str] = []

    async def scenario() -> None:
        async with desk(database.dsn, on_alarm=alarms.append) as here:
            await until(lambda: here.pool.listener.facts)
            hello = await here.pool.server.open()
            here.pool.listener.deliver(replace(hello, pid=hello.pid + 1))
            with pytest.raises(WireLost, match="pooler"):
                await here.pool.listener.survey()
            assert "leads to PostgreSQL directly" in alarms[0]
            assert not hello.wire.open

    asyncio.run(scenario())


def test_what_a_pooler_refuses_is_named_with_its_cure_at_every_attempt(database: Database, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    async def scenario(through: str) -> list[str]:
        server, said = Server(through, Ledger(SCHEMA, "highlander", LEASE), node="n1", fresh=None), list[str]()
        for _ in range(3):
            with pytest.raises((Unfit, ConnectFailed)) as refused:
                await server.open()
            said.append(str(refused.value))
        return said

    with pooler(database, tmp_path, "session", "") as through:
        wait_for(lambda: "connection refused" not in _refusal(through).lower(), what="pgbouncer listens")
        for sentence in asyncio.run(scenario(through)):
            assert "pgbouncer stands between" in sentence
            assert "leads to PostgreSQL directly" in sentence


def test_a_role_that_may_not_ask_which_server_it_is_is_told_the_grant(database: Database) -> None:
    database.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", admin=True)
    for _ in range(2):
        assert f'GRANT EXECUTE ON FUNCTION pg_control_system TO "{database.role}"' in _refusal(database.dsn)
    database.sql(f'GRANT EXECUTE ON FUNCTION pg_control_system TO "{database.role}"', admin=True)
    _create_ledger(database.dsn)


def test_without_privileges_the_cure_is_named(database: Database) -> None:
    database.sql(f'DROP SCHEMA "{SCHEMA}"')
    sentence = _refusal(database.dsn)
    assert f"role {database.role} may not create or use the ledger" in sentence
    assert "--print-schema" in sentence


def test_a_ledger_that_an_administrator_made_is_used(database: Database) -> None:
    database.sql(f'DROP SCHEMA "{SCHEMA}"')
    ledger = Ledger(SCHEMA, "highlander", LEASE)
    for statement in (ledger.script(), ledger.grants(database.role)):
        database.sql(statement, admin=True)

    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            line.renew(granted.epoch)
            await line.told(Renewed)
            await line.release(granted.epoch)

    asyncio.run(scenario())


def test_another_namespaces_ledger_is_refused(database: Database) -> None:
    _create_ledger(database.dsn)
    assert 'belongs to namespace "highlander"' in _refusal(database.dsn, namespace="other")


def test_a_wrong_password_is_told_and_never_repeated(database: Database) -> None:
    sentence = _refusal(make_conninfo(database.dsn, user="nobody-here", password="hunter2"))
    assert "nobody-here" in sentence
    assert "hunter2" not in sentence


def test_a_dsn_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(Unfit, match="not a PostgreSQL connection string") as refused:
        parse("password=hunter2 nonsense")
    assert "hunter2" not in str(refused.value)


def test_ports_of_the_environment_that_do_not_match_the_hosts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "5432,5433")
    assert "names 3 hosts but 2 ports" in _refusal("host=127.0.0.1,127.0.0.2,127.0.0.3 user=u")


def test_the_users_own_options_stay_and_ours_win(database: Database) -> None:
    theirs = make_conninfo(database.dsn, options="-c work_mem=123kB -c lock_timeout=77")

    async def scenario() -> None:
        async with desk(theirs) as here:
            await until(lambda: here.pool.listener.connected)
            [reply] = await here.pool.listener.ask(
                [
                    (
                        here.pool.ledger.statement(
                            "settings",
                            "SELECT current_setting('work_mem'), setting FROM pg_settings WHERE name = 'lock_timeout'",
                        ),
                        (),
                    )
                ]
            )
            assert reply.rows == [("123kB", f"{round(LEASE * 200)}")]  # milliseconds

    asyncio.run(scenario())


def test_an_idle_session_does_not_hang_on_a_probe_of_the_kernels(database: Database) -> None:
    async def scenario() -> int:
        server = Server(f"{database.dsn} keepalives=1", Ledger(SCHEMA, "highlander", LEASE), node="n1", fresh=None)
        wire = (await server.open()).wire
        with socket.socket(fileno=os.dup(wire.descriptor)) as ours:
            probes = ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        wire.drop("seen")
        return probes

    assert not asyncio.run(scenario())


def test_limits_on_the_server_stay_below_half_a_lease_and_an_idle_session_ends_after_one() -> None:
    from highlanderd.core.lease import Lease

    options = startup_options(Lease(10.0))
    assert int(options["statement_timeout"]) < 5000
    assert int(options["lock_timeout"]) < int(options["statement_timeout"])
    assert options["idle_session_timeout"] == "10000"


def test_every_epoch_after_a_promotion_is_above_all_that_were_lost(clusters: Clusters) -> None:
    primary = clusters.create()
    database = primary.database()

    async def first_terms() -> int:
        async with desk(database.dsn, lease=SHORT_LEASE) as here:
            line = await here.line()
            settle(database)
            epoch = 0
            for _ in range(3):
                epoch = (await line.lead()).epoch
                await line.release(epoch)
            return epoch

    async def after() -> int:
        async with desk(promoted_dsn, lease=SHORT_LEASE) as here:
            line = await here.line(node="n2")
            observation = await line.look()
            assert observation.meta.settled == (observation.server.system, 1, observation.server.place)
            assert observation.server.timeline == 2
            return (await line.lead()).epoch  # only after a whole lease: the promoted server is not settled

    before = asyncio.run(first_terms())
    standby = clusters.standby(primary)
    asyncio.run(first_terms())
    primary.kill()
    standby.promote()
    promoted_dsn = make_conninfo(database.dsn, port=standby.port)
    assert before == 3
    assert asyncio.run(after()) == 1 << 32 | 1


def test_a_commit_that_no_standby_confirmed_is_not_acknowledged(clusters: Clusters) -> None:
    primary = clusters.create()
    database = primary.database()

    async def scenario() -> None:
        async with desk(database.dsn, lease=60.0) as here:
            line = await here.line()
            settle(database)
            granted = await line.lead()
            [[pid]] = database.sql("SELECT backend_pid FROM highlander.lease")
            waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
            primary.configure(synchronous_standby_names="nobody_there")
            line.renew(granted.epoch)
            while not primary.sql(waiting, [pid]):  # a reload reaches the server's processes one by one
                with suppress(TimeoutError):
                    await line.told(Renewed, within=0.1)
                    line.renew(granted.epoch)
            primary.sql("SELECT pg_cancel_backend(%s)", [pid])
            detached = await line.told(Detached)
            assert "not acknowledged" in detached.why

    asyncio.run(scenario())


def test_a_node_that_has_seen_the_promoted_server_leaves_and_refuses_the_old_one(clusters: Clusters) -> None:
    primary = clusters.create()
    database = primary.database()
    _create_ledger(database.dsn)
    standby = clusters.standby(primary)
    alarms: list[str] = []

    async def scenario() -> None:
        async with desk(database.dsn, on_alarm=alarms.append) as here:
            settle(database)
            line = await here.line()
            await line.lead()
            standby.promote()  # and the old primary lives on
            seen = Server(make_conninfo(database.dsn, port=standby.port), here.pool.ledger, node="n1", fresh=None)
            hello = await seen.open()
            [(system, timeline)] = seen.memory.timelines.items()
            assert timeline == 2
            here.pool.server.memory.inherit(seen.memory.facts())
            with pytest.raises(Unfit, match="knows timeline 2"):
                await here.pool.server.open()
            assert alarms
            hello.wire.drop("enough")
            assert list(seen.memory.timelines) == [system]

    asyncio.run(scenario())


def test_sessions_on_the_old_primary_are_left_as_soon_as_the_promoted_one_is_met(clusters: Clusters) -> None:
    primary = clusters.create()
    database = primary.database()
    _create_ledger(database.dsn)
    standby = clusters.standby(primary)
    both = database.with_standby(standby)

    async def scenario() -> None:
        async with desk(both) as here:
            settle(database)
            line = await here.line()
            await line.lead()
            standby.promote()  # and the old primary lives on
            here.pool.server.turns.move_on()
            other = await here.line("other")
            detached = await line.told(Detached)
            assert "still on timeline 1" in detached.why
            assert (await other.look()).server.timeline == 2

    asyncio.run(scenario())
