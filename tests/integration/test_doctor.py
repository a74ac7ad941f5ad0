"""``highlanderd --doctor`` against real servers, good and bad, and what it must never do to them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socketserver
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from highlanderd.core.key import lock_id
from highlanderd.embedded.server import dsn_of
from highlanderd.postgres.ledger import Ledger
from tests.support.commands import highlanderd
from tests.support.long import first_of
from tests.support.memory_node import Ended
from tests.support.nodes import Nodes, settled_ledger
from tests.support.pooler import TAKES_OPTIONS, pooler
from tests.support.ports import reserved_port
from tests.support.postgres import SCHEMA, Clusters, Database
from tests.support.proxy import Door, OpensDoors
from tests.support.wait import wait_for


def doctor(directory: Path, dsn: str, *, programs: int = 2, lease: float = 10.0, **daemon: str) -> Ended:
    """Run it with a configuration of its own."""
    file = directory / "doctor.toml"
    keys = "".join(f'{key} = "{value}"\n' for key, value in daemon.items())
    text = f'[daemon]\nnode = "a"\nstate_dir = "state"\nrun_dir = "run"\n{keys}'
    text += f'[postgres]\ndsn = "{dsn}"\nlease = {lease}\n'
    file.write_text(text + "".join(f'[program.p{number}]\ncommand = "true"\n' for number in range(programs)))
    return highlanderd("-c", file, "--doctor")


def found(done: Ended, severity: str) -> list[str]:
    """Return the findings of one severity."""
    return [line.removeprefix(severity).strip() for line in done.out.splitlines() if line.startswith(f"{severity} ")]


def test_a_good_server_has_no_problem(tmp_path: Path, database: Database) -> None:
    done = doctor(tmp_path, database.dsn)
    assert (done.code, found(done, "problem"), done.err) == (0, [], "")
    assert done.out.splitlines()[0].endswith(f"role {database.role}")
    assert any("the first daemon creates it" in line for line in found(done, "fine"))
    assert any("TCP timeouts hold on both ends" in line for line in found(done, "fine"))


def test_an_invalid_configuration_exits_with_78(tmp_path: Path) -> None:
    done = doctor(tmp_path, "host=db1 port=many")
    assert (done.code, done.out) == (78, "")


def test_it_leaves_no_trace(tmp_path: Path, database: Database) -> None:
    before = "SELECT count(*) FROM pg_class WHERE relnamespace = 'highlander'::regnamespace"
    doctor(tmp_path, database.dsn)
    assert database.sql(before) == [(0,)]
    settled_ledger(database, 10.0)
    rows = f"SELECT xmin, ctid, meta::text FROM {SCHEMA}.meta"
    version = database.sql(rows)
    done = doctor(tmp_path, database.dsn)
    assert "a durable commit takes" in done.out
    assert database.sql(rows) == version
    assert database.sql(f"SELECT (SELECT count(*) FROM {SCHEMA}.lease), (SELECT count(*) FROM {SCHEMA}.term)") == [
        (0, 0)
    ]


def test_it_waits_for_nobody_and_nobody_for_it(tmp_path: Path, database: Database) -> None:
    settled_ledger(database, 10.0)
    with psycopg.connect(database.dsn) as other:
        other.execute(f"UPDATE {SCHEMA}.meta SET settled_timeline = settled_timeline".encode())
        done = doctor(tmp_path, database.dsn)
        assert (done.code, found(done, "problem")) == (0, [])


def test_an_old_snapshot_that_keeps_dead_rows_is_named(tmp_path: Path, database: Database) -> None:
    settled_ledger(database, 10.0)
    database.sql(
        f"INSERT INTO {SCHEMA}.lease SELECT 7, 'beat', 1, n, 'a', gen_random_uuid(), 1, 1, 1, 1, now(), now(), "
        "now(), 'stopped', NULL, NULL, interval '10 s' FROM generate_series(1, 1) AS n"
    )
    with psycopg.connect(database.dsn, application_name="a long report") as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT 1")
        rewrite = f"DO $$ BEGIN FOR i IN 1..6000 LOOP UPDATE {SCHEMA}.lease SET renewal = renewal + 1; END LOOP; END $$"
        database.sql(rewrite)

        def named() -> bool:
            [*said] = found(doctor(tmp_path, database.dsn), "warning")
            return any("dead versions of 1 rows" in line and "a long report" in line for line in said)

        wait_for(named, what="the doctor names who keeps VACUUM from cleaning up")


def test_it_works_beside_the_daemon_and_counts_its_nodes(nodes: Nodes, database: Database, tmp_path: Path) -> None:
    settled_ledger(database, 10.0)
    nodes(database, "a", "b", programs=["beat"], lease=10.0)
    nodes.await_led("beat")
    done = doctor(tmp_path, database.dsn)
    assert done.code == 0
    assert any("2 programs on 2 nodes (as many as are connected)" in line for line in found(done, "fine"))


def test_another_daemon_of_this_node_s_name_is_named_while_it_lives(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    """It is another one than the daemon that uses this state_dir, which is told from it by its instance."""
    settled_ledger(database, 10.0)
    [node] = nodes(database, "a", programs=["beat"], lease=10.0)
    nodes.await_led("beat")
    named = f'another daemon also calls itself "a", and is not the one that uses {tmp_path}/state'

    def warned() -> list[str]:
        return [line for line in found(doctor(tmp_path, database.dsn), "warning") if "another daemon" in line]

    wait_for(lambda: any(line.startswith(named) for line in warned()), what="it has written who it is")
    (tmp_path / "state").mkdir(mode=0o700)
    shutil.copy(node.home / "state/instance", tmp_path / "state")
    assert warned() == [], "it is this state_dir's own"
    (tmp_path / "state/instance").write_text(f"{uuid.uuid4()}\n")
    node.crash()
    wait_for(lambda: warned() == [], what="the server knows that it is dead: it may be a former life of this daemon")


def test_settings_that_hurt_are_overridden_and_named(tmp_path: Path, database: Database) -> None:
    for setting in ("lock_timeout = 1", "statement_timeout = 1", "idle_session_timeout = 1000"):
        database.sql(f'ALTER ROLE "{database.role}" SET {setting}', admin=True)
    database.sql(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on', admin=True)
    done = doctor(tmp_path, database.dsn)
    assert (done.code, found(done, "problem")) == (0, [])
    [said] = [line for line in found(done, "fine") if line.startswith("overridden")]
    assert "lock_timeout = 1 ms (ALTER ROLE)" in said
    assert "default_transaction_read_only = on (ALTER DATABASE)" in said
    assert "statement_timeout = 1 ms" in said


def test_limits_on_connections_are_found_with_their_cure(tmp_path: Path, database: Database) -> None:
    database.sql(f'ALTER ROLE "{database.role}" CONNECTION LIMIT 8', admin=True)
    done = doctor(tmp_path, database.dsn)
    assert done.code == 1
    [said] = found(done, "problem")
    assert "need 9 connections" in said
    cure = said.split("; ")[-1]
    assert cure == f'ALTER ROLE "{database.role}" CONNECTION LIMIT 12'
    database.sql(cure, admin=True)
    assert doctor(tmp_path, database.dsn).code == 0


def test_a_server_with_too_few_connections_is_a_problem(tmp_path: Path, clusters: Clusters) -> None:
    done = doctor(tmp_path, clusters.create(max_connections="20").database().dsn, programs=10)
    assert done.code == 1
    assert "raise max_connections to 47 (44, and 3 reserved for other roles)" in found(done, "problem")[0]


def test_a_role_without_privileges_is_told_the_grants_that_cure_it(tmp_path: Path, database: Database) -> None:
    database.sql(f'DROP SCHEMA "{SCHEMA}"')
    [said] = found(doctor(tmp_path, database.dsn), "problem")
    assert "--print-schema" in said
    database.sql(Ledger(SCHEMA, "highlander", 10.0).script(), admin=True)
    [said] = found(doctor(tmp_path, database.dsn), "problem")
    assert "USAGE on schema" in said
    cure = said.split("let an administrator run: ")[1]
    database.sql(cure, admin=True)
    done = doctor(tmp_path, database.dsn)
    assert (done.code, found(done, "problem")) == (0, [])


def test_a_ledger_of_others_is_judged_as_the_daemon_would(tmp_path: Path, database: Database) -> None:
    settled_ledger(database, 10.0)
    [said] = found(doctor(tmp_path, database.dsn, namespace="other"), "problem")
    assert 'belongs to namespace "highlander"' in said
    warnings = found(doctor(tmp_path, database.dsn, lease=20.0), "warning")
    assert any("postgres.lease is 20 s here but 10 s in the ledger" in line for line in warnings)


def test_a_standby_is_refused_alone_and_welcome_beside_its_primary(tmp_path: Path, clusters: Clusters) -> None:
    primary = clusters.create()
    standby = clusters.standby(primary)
    database = primary.database()
    settled_ledger(database, 10.0)
    beside = make_conninfo(database.dsn, port=standby.port)
    wait_for(lambda: "hot standby" in doctor(tmp_path, beside).out, what="the standby knows the role")
    assert len(found(doctor(tmp_path, beside), "problem")) == 1
    both = make_conninfo(database.dsn, host="127.0.0.1,127.0.0.1", port=f"{standby.port},{primary.port}")
    done = doctor(tmp_path, make_conninfo(both, target_session_attrs="read-write"))
    assert (done.code, found(done, "problem")) == (0, [])
    assert any("is a hot standby, and would be found" in line for line in found(done, "fine"))
    assert any("name a synchronous standby" in line for line in found(done, "warning"))
    primary.configure(synchronous_standby_names="nobody")
    superuser = make_conninfo(both, user=primary.user)  # who may see which standby commits wait for
    wait_for(lambda: "every write hangs" in doctor(tmp_path, superuser).out, what="the setting is in force")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    assert primary.sql(waiting) == [(0,)], "a commit was tried that cannot come back"
    [said] = found(doctor(tmp_path, database.dsn), "problem")  # the role may not see it, and tries
    assert said.startswith("a durable commit took up to 5")


def test_a_forgetful_server_is_a_problem(tmp_path: Path, clusters: Clusters) -> None:
    done = doctor(tmp_path, clusters.create(fsync="off", full_page_writes="off").dsn)
    assert done.code == 1
    assert "switch fsync on" in found(done, "problem")[0]
    assert any("full_page_writes is off" in line for line in found(done, "warning"))


def test_a_ledger_that_a_crash_empties_is_a_problem(tmp_path: Path, database: Database) -> None:
    ledger = Ledger(SCHEMA, "highlander", 10.0)
    database.sql(ledger.script())
    database.sql(f"ALTER TABLE {SCHEMA}.lease SET UNLOGGED")
    said = found(doctor(tmp_path, database.dsn), "problem")
    assert any(f"ALTER TABLE {SCHEMA}.lease SET LOGGED" in line for line in said)


def test_who_holds_a_programs_lock_and_may_not_lead_is_named(tmp_path: Path, database: Database) -> None:
    settled_ledger(database, 10.0)
    stranger_role = f"{database.role}_stranger"
    database.sql(f'CREATE ROLE "{stranger_role}" LOGIN', admin=True)
    try:
        with psycopg.connect(make_conninfo(database.dsn, user=stranger_role), autocommit=True) as stranger:
            stranger.execute("SELECT pg_advisory_lock(%s)", [lock_id("highlander", "p0")])
            with psycopg.connect(database.dsn, autocommit=True) as leader:
                leader.execute("SELECT pg_advisory_lock(%s)", [lock_id("highlander", "p1")])
                [said] = [line for line in found(doctor(tmp_path, database.dsn), "warning") if "advisory" in line]
            assert f"pid {stranger.info.backend_pid} (role {stranger_role}" in said
            assert "holds the advisory lock of p0" in said
    finally:
        database.sql(f'DROP ROLE "{stranger_role}"', admin=True)


def test_a_unix_socket_needs_no_tcp_timeouts(tmp_path: Path, clusters: Clusters) -> None:
    done = doctor(tmp_path, clusters.create().socket_dsn)
    assert done.code == 0
    assert any("Unix socket" in line for line in found(done, "fine"))


def test_a_proxy_in_between_is_noticed(tmp_path: Path, database: Database, door: OpensDoors) -> None:
    done = doctor(tmp_path, door(database.dsn).dsn(database.dsn))
    assert done.code == 0
    assert any("TCP timeouts reach no farther" in line for line in found(done, "warning"))


def test_a_network_that_swallows_everything_ends_it_with_a_problem(
    tmp_path: Path, database: Database, door: OpensDoors
) -> None:
    before = door(database.dsn)
    before.stall()
    done = doctor(tmp_path, before.dsn(database.dsn))
    assert done.code == 1
    assert "no connection within 5 s" in found(done, "problem")[0]


def test_a_host_that_swallows_everything_does_not_hold_up_the_one_that_answers(
    tmp_path: Path, database: Database, door: OpensDoors
) -> None:
    silent, port = door(database.dsn), conninfo_to_dict(database.dsn)["port"]
    silent.stall()
    settled_ledger(database, 4.0)  # less than the doctor waits for a host
    both = make_conninfo(database.dsn, host="127.0.0.1,127.0.0.1", port=f"{silent.port},{port}")
    done = doctor(tmp_path, make_conninfo(both, target_session_attrs="read-write"), lease=4.0)
    assert (done.code, found(done, "problem"), done.err) == (0, [], "")
    assert any("no connection within 5 s" in line for line in found(done, "warning"))
    assert "a durable commit takes" in done.out


class SecondIsSlow(Door):
    """Lets the second connection wait for longer than a lease."""

    served = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        if self.served == 2:
            await asyncio.sleep(4.5)
        await super()._serve(reader, writer)


def test_a_second_connection_that_is_slow_costs_no_finding(tmp_path: Path, database: Database) -> None:
    settled_ledger(database, 4.0)
    target = conninfo_to_dict(database.dsn)
    with contextlib.closing(SecondIsSlow(str(target["host"]), int(str(target["port"])))) as slow:
        done = doctor(tmp_path, slow.dsn(database.dsn), lease=4.0)
        assert slow.served == 2
    assert (done.code, found(done, "problem"), done.err) == (0, [], "")
    assert "a durable commit takes" in done.out


def test_a_commit_that_is_lost_counts_with_the_time_that_it_was_waited_for(tmp_path: Path, clusters: Clusters) -> None:
    primary = clusters.create()
    database = primary.database()
    settled_ledger(database, 10.0)
    primary.configure(synchronous_standby_names="nobody")
    clusters.standby(primary)  # the role does not see that it is another one, and tries
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE '%--doctor'"
    with ThreadPoolExecutor() as beside:
        done = beside.submit(doctor, tmp_path, database.dsn)
        [(pid,)] = wait_for(lambda: primary.sql(waiting), what="the commit waits")
        primary.sql("SELECT pg_terminate_backend(%s)", [pid])
        said = done.result()
    assert "a durable commit take" in said.out or "a durable commit took" in said.out
    assert "a durable commit took up to 5" not in said.out


RECEIVERS = {
    "pg_receivewal": ("--no-sync", "-D", "{directory}"),
    "pg_recvlogical": (
        *("-S", "other", "-P", "pgoutput", "-o", "proto_version=1", "-o", "publication_names=none"),
        *("--create-slot", "--start", "-f", "{directory}/changes"),
    ),
}


@pytest.mark.parametrize("program", first_of(RECEIVERS))
def test_who_receives_wal_and_cannot_be_promoted_is_no_standby(
    program: str, tmp_path: Path, clusters: Clusters
) -> None:
    server = clusters.create(wal_level="logical")
    arguments = (argument.format(directory=tmp_path) for argument in RECEIVERS[program])
    receiving = subprocess.Popen([str(server.programs.program(program)), "-d", server.dsn, *arguments])
    try:
        wait_for(lambda: server.sql("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), what="streaming")
        done = doctor(tmp_path, server.dsn)
        assert (done.code, found(done, "problem")) == (0, [])
        assert not any("standby" in line for line in found(done, "warning"))
    finally:
        receiving.terminate()
        receiving.wait(60)


def test_a_server_that_is_away_is_a_problem_and_a_secret_stays_one(tmp_path: Path) -> None:
    done = doctor(tmp_path, f"host=127.0.0.1 port={reserved_port()} user=ops password=hunter2")
    assert done.code == 1
    assert "refused" in found(done, "problem")[0]
    assert "hunter2" not in done.out + done.err


def test_an_embedded_server_that_does_not_run_is_not_started(tmp_path: Path) -> None:
    done = doctor(tmp_path, "embedded")
    assert (done.code, found(done, "problem")) == (0, [])
    assert "no embedded server runs" in found(done, "warning")[0]
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.toml"]


def test_an_embedded_server_without_a_free_connection_runs_and_is_a_problem(open_dir: Path) -> None:
    with full_server(conninfo_to_dict(dsn_of(open_dir / "pg"))):
        done = doctor(open_dir, "embedded:pg")
    assert (done.code, found(done, "warning")) == (1, [])
    assert "too many clients" in found(done, "problem")[0]


@contextlib.contextmanager
def full_server(parameters: Mapping[str, object]) -> Iterator[None]:
    """Be a server on that Unix socket, all of whose connections are in use."""
    said = b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0"

    class Refusal(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.read1()
            self.wfile.write(b"E" + (len(said) + 4).to_bytes(4, "big") + said)

    directory = Path(str(parameters["host"]))
    directory.mkdir(parents=True)
    place = str(directory / f".s.PGSQL.{parameters['port']}")
    with socketserver.ThreadingUnixStreamServer(place, Refusal) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("mode", first_of(["transaction", "session"]))
@pytest.mark.parametrize("options", ["", TAKES_OPTIONS])
def test_a_pooler_is_a_problem_in_either_mode(mode: str, options: str, database: Database, open_dir: Path) -> None:
    with pooler(database, open_dir, mode, options) as through:
        said = wait_for(
            lambda: [line for line in found(doctor(open_dir, through), "problem") if "refused;" not in line],
            what="pgbouncer listens",
        )
        assert "leads to PostgreSQL directly" in said[0]
