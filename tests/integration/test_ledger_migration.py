"""A ledger of an earlier schema under daemons of both kinds at once, its migration, and versions still to come."""

from __future__ import annotations

import asyncio
import subprocess
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from highlanderd.core.events import Detached, Renewed
from highlanderd.core.lease import Lengths
from highlanderd.errors import HighlanderError
from highlanderd.postgres import lease_change
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.sql import dialect, upkeep
from tests.support.maintenance import await_renewed
from tests.support.nodes import PACKAGE, Node, Nodes
from tests.support.postgres import Database
from tests.support.session import desk, settle
from tests.support.wait import until, wait_for

SCHEMA_1 = "a36353b"
"""The last commit whose daemons know schema 1 only."""
SCHEMA_2 = "efc2a6f"
"""A commit whose daemons know schema 2 only."""
SCHEMA_3 = "775a673"
"""A commit whose daemons know schema 3 only."""
PROGRAMS = ["beat", "bot", "relay"]
LEASE = 10.0


def _old_tree(tree: Path, commit: str) -> dict[str, str]:
    """Return the environment of a daemon of that commit; skip where the clone does not reach back so far."""
    archive = subprocess.run(
        ["git", "-C", str(PACKAGE), "archive", commit, "highlanderd"], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"this clone has no commit {commit}")
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
    return {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


def _begin(database: Database, version: int, *, admin: bool = False) -> Ledger:
    """Create a ledger of an earlier schema, as its daemons did or as an administrator did for them."""
    ledger = Ledger("highlander", "highlander", LEASE)
    as_admin = make_conninfo(database.dsn, user=database.server.user)
    name = conninfo_to_dict(as_admin)["dbname"]
    database.sql(f'GRANT CREATE ON DATABASE "{name}" TO "{database.role}"', admin=True)
    script = ledger.script().split(f"-- Schema {version + 1}")[0]
    assert ("ADD COLUMN" in script) == (version > 1)
    database.sql(script, admin=admin)
    if admin:
        grants = [grant for grant in ledger.grants(database.role).splitlines(keepends=True) if "ON SCHEMA" in grant]
        tables = "highlander.meta, highlander.lease, highlander.term"
        database.sql(f'{grants[0]}GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO "{database.role}"', admin=True)
    return ledger


def _begin_schema_1(database: Database) -> Ledger:
    """Create a ledger as daemons of schema 1 did, settled for its server."""
    ledger = _begin(database, 1)
    database.sql(
        "UPDATE highlander.meta SET (settled_system, settled_timeline) = "
        "(SELECT system_identifier, 1 FROM pg_control_system())"
    )
    return ledger


def _version(database: Database) -> int:
    return int(database.sql("SELECT version FROM highlander.meta")[0][0])


def _settled(database: Database) -> bool:
    return database.sql("SELECT settled_place IS NOT NULL FROM highlander.meta") == [(True,)]


def _waits(node: Node) -> bool:
    notes = node.status()["warnings"]
    return any(note.startswith("the ledger has schema 1") and "highlanderd/" in note for note in notes)


def _upgrade(nodes: Nodes, node: Node) -> None:
    """Stop a daemon in good order, and start the one of today on its configuration."""
    node.signal(15)
    assert node.ended() == 0
    node.environment.clear()
    node.start()
    nodes.await_up(node)


def test_a_cluster_is_upgraded_node_by_node_and_its_ledger_with_the_last_one(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    _begin_schema_1(database)
    old = _old_tree(tmp_path, SCHEMA_1)
    made = [Node(name, nodes.directory / name, database.dsn, LEASE, nodes.journal) for name in ("a", "b", "c")]
    nodes.nodes += made
    for node in made:
        node.environment = dict(old)
        node.configure(PROGRAMS)
        node.start()
    nodes.await_up(*made)
    nodes.await_led(*PROGRAMS)
    assert not any("schema" in node.status()["postgres"] for node in made), "these are the daemons of before"

    for number, node in enumerate(made):
        others = {life.program: life.pids for life in map(nodes.life, PROGRAMS) if life.node != node.name}
        _upgrade(nodes, node)
        nodes.await_led(*PROGRAMS)
        assert {program: nodes.life(program).pids for program in others} == others, "no child of another node restarts"
        if number < 2:
            wait_for(partial(_waits, node), what="the new daemon says whom the migration waits for")
            assert _version(database) == 1

    before = {program: nodes.life(program).pids for program in PROGRAMS}
    wait_for(
        lambda: _version(database) == dialect.VERSION, what="the ledger is migrated once the last older daemon is gone"
    )
    wait_for(
        lambda: all(node.status()["postgres"]["schema"] == dialect.VERSION for node in made), what="every daemon knows"
    )
    await_renewed(database.dsn, *PROGRAMS)  # under the new schema
    assert {program: nodes.life(program).pids for program in PROGRAMS} == before, "no child restarts"
    assert database.sql("SELECT DISTINCT trusted_for = lease FROM highlander.lease, highlander.meta") == [(True,)]

    wait_for(lambda: _settled(database), what="the migrated ledger has settled, though every program is led")
    order = {"on": True, "for": 20, "wait": True}
    assert made[0].control.ask("POST", "/v1/maintenance", order, patience=60)["pending"] == []
    assert database.sql("SELECT DISTINCT trusted_for > lease FROM highlander.lease, highlander.meta") == [(True,)]


def test_a_daemon_of_today_leads_renews_and_releases_on_a_ledger_that_may_not_be_migrated(database: Database) -> None:
    ledger = _begin_schema_1(database)
    older = make_conninfo(database.dsn, application_name="highlanderd/c/beat")

    async def scenario() -> None:
        async with desk(database.dsn, lease=ledger.lease) as here, desk(database.dsn, lease=ledger.lease) as there:
            ours, theirs = await here.line(), await there.line(node="n2")
            epoch = (await ours.lead()).epoch
            for _ in range(3):
                ours.renew(epoch, ledger.lease)
                assert (await ours.told(Renewed)).lengths.trusted.length == ledger.lease
            await until(lambda: any("highlanderd/c/beat" in note for note in here.pool.server.notes.warnings))
            with pytest.raises(HighlanderError, match="unreleased: beat on n1"):
                await lease_change.set_lease(here.pool.listener, 8.0, force=False)
            with pytest.raises(HighlanderError, match="schema 1, and maintenance needs 2"):
                await lease_change.begin_maintenance(here.pool.listener, 60, author="", reason="", force=False)
            await theirs.look()
            await ours.release(epoch)
            assert (await theirs.lead()).epoch == epoch + 1
            assert _version(database) == 1

    with psycopg.connect(older):
        asyncio.run(scenario())


@pytest.mark.long  # beside the upgrade of a whole cluster
def test_a_ledger_is_migrated_under_a_term_that_goes_on(database: Database) -> None:
    ledger = _begin_schema_1(database)

    async def scenario() -> None:
        async with desk(database.dsn, lease=ledger.lease) as here:
            with psycopg.connect(make_conninfo(database.dsn, application_name="highlanderd/c")):
                line = await here.line()
                epoch = (await line.lead()).epoch
                await until(lambda: here.pool.listener.facts is not None)
                assert (await here.pool.listener.migrate()).waits_for == ("highlanderd/c",)
                line.renew(epoch, ledger.lease)
                await line.told(Renewed)
            older = ledger.statement("older_sessions", upkeep.OLDER_SESSIONS).sql
            await until(lambda: not database.sql(older))
            assert (await here.pool.listener.migrate()).version == dialect.VERSION
            for _ in range(2):  # the first is still in the words of schema 1, and finds out
                line.renew(epoch, ledger.lease)
                assert (await line.told(Renewed)).lengths == Lengths.alike(ledger.lease)
            while not _settled(database):
                line.renew(epoch, ledger.lease)
                await line.told(Renewed)
                await asyncio.sleep(0.5)
            await lease_change.begin_maintenance(here.pool.listener, 60, author="me", reason="", force=False)
            line.renew(epoch, ledger.lease)
            assert (await line.told(Renewed)).lengths.wanted.length > 60
            await line.release(epoch)

    asyncio.run(scenario())


def test_the_printed_migration_changes_nothing_while_an_older_daemon_is_connected(database: Database) -> None:
    ledger = _begin_schema_1(database)
    printed = f"BEGIN;\n{ledger.printed(1)}\nCOMMIT;"
    with psycopg.connect(make_conninfo(database.dsn, application_name="highlanderd/c/beat")):
        with pytest.raises(psycopg.errors.ObjectInUse, match="highlanderd/c/beat"):
            database.sql(printed)
        assert _version(database) == 1
    older = ledger.statement("older_sessions", upkeep.OLDER_SESSIONS).sql
    wait_for(lambda: not database.sql(older), what="the older daemon is gone")
    database.sql(printed)
    assert _version(database) == dialect.VERSION


@pytest.mark.parametrize("by", ["a daemon", "an administrator"])
def test_a_stranger_who_calls_his_session_as_a_daemon_would_holds_no_migration_up(database: Database, by: str) -> None:
    ledger = _begin_schema_1(database)
    stranger_role = f"{database.role}_stranger"
    database.sql(f'CREATE ROLE "{stranger_role}" LOGIN', admin=True)

    async def scenario() -> None:
        async with desk(database.dsn, lease=ledger.lease) as here:
            await until(lambda: here.pool.server.schema == dialect.VERSION)

    try:
        with psycopg.connect(make_conninfo(database.dsn, user=stranger_role, application_name="highlanderd/x")):
            if by == "a daemon":
                asyncio.run(scenario())
            else:
                database.sql(f"BEGIN;\n{ledger.printed(1)}\nCOMMIT;", admin=True)
        assert _version(database) == dialect.VERSION
    finally:
        database.sql(f'DROP ROLE "{stranger_role}"', admin=True)


def test_a_migration_grants_a_role_of_daemons_what_a_new_ledger_does(database: Database) -> None:
    """Of the tables that it makes: an administrator may have granted more on those of before."""
    ledger = _begin(database, 2, admin=True)
    database.sql(f"BEGIN;\n{ledger.printed(2)}\nCOMMIT;", admin=True)
    granted = (
        "SELECT table_name || ' ' || privilege_type FROM information_schema.role_table_grants WHERE table_schema = "
        f"'highlander' AND grantee = '{database.role}' AND table_name IN ('schedule', 'skipped') ORDER BY 1"
    )
    needed = {
        f"{table} {privilege}"
        for tables, privileges in dialect.NEEDED
        for table in tables.split()
        for privilege in privileges.split(", ")
        if table in ("schedule", "skipped")
    }
    assert [row[0] for row in database.sql(granted, admin=True)] == sorted(needed)


def test_many_nodes_at_once_migrate_a_ledger_once(database: Database) -> None:
    ledger = _begin_schema_1(database)

    async def scenario() -> None:
        async def node() -> None:
            async with desk(database.dsn, lease=ledger.lease) as here:
                await until(lambda: here.pool.server.schema == dialect.VERSION)

        await asyncio.gather(*(node() for _ in range(6)))

    asyncio.run(scenario())
    assert database.sql("SELECT version, ceiling = lease FROM highlander.meta") == [(dialect.VERSION, True)]


def test_what_a_later_schema_demands_is_fenced_by_the_clock_and_said(database: Database) -> None:
    async def scenario() -> None:
        async with desk(database.dsn) as here:
            line = await here.line()
            settle(database)
            epoch = (await line.lead()).epoch
            database.sql(
                f"UPDATE highlander.meta SET version = {dialect.VERSION + 2}, compatible_from = {dialect.VERSION}"
            )
            line.renew(epoch)
            await line.told(Renewed)
            database.sql(f"UPDATE highlander.meta SET compatible_from = {dialect.VERSION + 1}")
            line.renew(epoch)
            why = (await line.told(Detached)).why
            assert why.endswith(f"this one knows {dialect.VERSION}: upgrade highlanderd on this node")
            await until(lambda: f"for daemons that know schema {dialect.VERSION + 1} or later" in here.pool.last_error)
            assert database.sql("SELECT released_at FROM highlander.lease") == [(None,)]

    asyncio.run(scenario())


@pytest.mark.long
def test_daemons_of_schema_2_go_on_beside_one_that_migrates_the_ledger(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    _begin(database, 2)
    made = [Node(name, nodes.directory / name, database.dsn, LEASE, nodes.journal) for name in ("a", "b")]
    nodes.nodes += made
    old, new = made
    old.environment = _old_tree(tmp_path, SCHEMA_2)
    old.configure(PROGRAMS)
    old.start()
    nodes.await_up(old)
    nodes.await_led(*PROGRAMS)
    before = {program: nodes.life(program).pids for program in PROGRAMS}
    new.configure(PROGRAMS)
    new.start()
    nodes.await_up(new)
    wait_for(lambda: _version(database) == dialect.VERSION, what="the ledger is migrated beside an older daemon")
    wait_for(lambda: old.status()["postgres"]["schema"] == dialect.VERSION, what="the older daemon has seen it")
    await_renewed(database.dsn, *PROGRAMS)  # by the older daemon
    assert {program: nodes.life(program).pids for program in PROGRAMS} == before, "no child restarts"
    for order in ("/v1/programs/beat/stop", "/v1/drain"):
        body = {"nodes": ["a"], "force": True} if order == "/v1/drain" else {"everywhere": True}
        with pytest.raises(HighlanderError, match="the daemon on a is too old to follow that order"):
            new.control.ask("POST", order, body, patience=60)
    old.control.ask("POST", "/v1/programs/beat/release", {"wait": True}, patience=60)
    wait_for(lambda: nodes.life("beat").node == "b", what="the new daemon takes over from the older one")
    # An older daemon does not say what it could lead.
    new.control.ask("POST", "/v1/programs/beat/release", {"wait": True, "force": True}, patience=60)
    wait_for(lambda: nodes.life("beat").node == "a", what="the older daemon takes over from the new one")


@pytest.mark.long
def test_daemons_of_schema_3_go_on_beside_one_that_migrates_the_ledger(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    _begin(database, 3)
    old, new = made = [Node(name, nodes.directory / name, database.dsn, LEASE, nodes.journal) for name in ("a", "b")]
    nodes.nodes += made
    old.environment = _old_tree(tmp_path, SCHEMA_3)
    for node in made:
        node.configure(PROGRAMS)
        node.start()
        nodes.await_up(node)
        nodes.await_led(*PROGRAMS)
    wait_for(lambda: _version(database) == dialect.VERSION, what="the ledger is migrated beside an older daemon")
    await_renewed(database.dsn, *PROGRAMS)
    old.control.ask("POST", "/v1/drain", {"nodes": ["a"], "force": True}, patience=60)
    wait_for(lambda: all(nodes.life(name).node == "b" for name in PROGRAMS), what="the new daemon leads everything")
    new.control.ask("POST", "/v1/resume", {"nodes": ["a"]}, patience=60)
    new.control.ask("POST", "/v1/programs/beat/release", {"wait": True}, patience=60)
    wait_for(lambda: nodes.life("beat").node == "a", what="the older daemon takes over from the new one")


def test_a_ledger_that_its_daemon_may_not_migrate_is_used_as_it_is_and_gains_by_an_administrator(
    database: Database,
) -> None:
    ledger = _begin(database, 2, admin=True)

    async def scenario() -> None:
        async with desk(database.dsn, lease=ledger.lease) as here:
            line = await here.line()
            settle(database)
            epoch = (await line.lead()).epoch
            await until(lambda: any("--print-schema --from 2" in note for note in here.pool.server.notes.warnings))
            [note] = [note for note in here.pool.server.notes.warnings if "has schema 2" in note]
            assert "highlanderctl cluster, drain" in note
            assert "maintenance" not in note
            database.sql(f"BEGIN;\n{ledger.printed(2)}\nCOMMIT;", admin=True)
            await until(lambda: here.pool.server.schema == dialect.VERSION)
            line.renew(epoch, ledger.lease)
            await line.told(Renewed)
            database.sql(
                "SELECT count(*) FROM highlander.wish, highlander.node, highlander.schedule, highlander.skipped"
            )  # the daemon's role may read them
            await line.release(epoch)

    asyncio.run(scenario())
