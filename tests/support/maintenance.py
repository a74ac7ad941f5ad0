"""The steps that an administrator takes while daemons run: outages, copies of a ledger, moves to another server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from psycopg.conninfo import make_conninfo

from highlanderd.embedded.installation import Installation
from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Cluster, Clusters, Database, run
from tests.support.wait import wait_for

LEASE = 6.0
OUTAGE = "14s"
"""What a maintenance is switched on for: a busy machine needs some of it to start a server."""
PROGRAMS = ["beat", "bot", "cron", "feed", "relay"]


def spread(nodes: Nodes, database: Database, programs: list[str]) -> None:
    """Start three nodes: the first leads all but the last four programs, of which the others lead two each."""
    [a] = nodes(database, "a", programs=programs, lease=LEASE)
    nodes.await_led(*programs)
    nodes(database, "b", "c", programs=programs, lease=LEASE)
    for program, to in zip(programs[-4:], ("b", "b", "c", "c"), strict=True):
        a.order("release", program, to=to)
    leaders = nodes.await_led(*programs)
    wait_for(lambda: [node.name for _, node in sorted(nodes.leaders().items())] == [*"abbcc"], what="they are spread")
    assert len(leaders) == len(programs)


def maintenance_on(node: Node, outage: str = OUTAGE, *options: str) -> None:
    done = highlanderctl(node.socket, "maintenance", "on", "--for", outage, "--reason", "tests", *options)
    assert (done.code, done.err) == (0, "")


def alive(nodes: Nodes, programs: Iterable[str]) -> dict[str, tuple[int, frozenset[int]]]:
    """Return epoch and processes of the latest life of each program."""
    return {program: (nodes.life(program).epoch, nodes.life(program).pids) for program in programs}


def each_started_once(nodes: Nodes) -> None:
    """An epoch that came twice on one node would be one life with two starts."""
    assert [str(life) for life in nodes.journal.lives() if life.starts != 1] == []
    assert nodes.journal.doubles() == []


def rows_of(dsn: str) -> list[tuple[object, ...]]:
    return run(dsn, "SELECT program, epoch, renewal, node FROM highlander.lease ORDER BY program")


def renewals_of(dsn: str) -> dict[str, tuple[int, int]]:
    rows = run(dsn, "SELECT program, epoch, renewal FROM highlander.lease")
    return {program: (epoch, renewal) for program, epoch, renewal in rows}


def await_renewed(dsn: str, *programs: str, times: int = 2) -> None:
    """Wait until the present term of each program was renewed there, so many times."""
    before = renewals_of(dsn)

    def renewed() -> bool:
        now = renewals_of(dsn)
        return all(now[name] >= (before[name][0], before[name][1] + times) for name in programs)

    wait_for(renewed, what=f"{', '.join(programs)} are renewed")


def await_said(node: Node, what: str) -> None:
    wait_for(lambda: what in node.log.read_text(), what=f"{node.name} says: {what}")


def await_settled(database: Database) -> None:
    settled = """
    SELECT settled_system = system_identifier FROM highlander.meta, pg_control_system()
    """
    wait_for(lambda: database.sql(settled) == [(True,)], what="the new server's ledger has settled")


def move(node: Node, database: Database) -> None:
    """Stop a daemon, if it runs, and start it on another server."""
    if node.runs:
        node.signal(15)
        assert node.ended() == 0
    node.dsn = database.dsn
    node.configure(["beat"])
    node.start()
    wait_for(node.up, what=f"{node.name} is up on the new server")


def follow(nodes: Nodes, late: Node, early: Node, database: Database) -> None:
    """Move the second node to the new server, too, and let it lead there."""
    move(late, database)
    early.order("release", "beat", to=late.name)
    assert nodes.await_led("beat", without=early)["beat"] is late


def replicated(clusters: Clusters, programs: Installation) -> tuple[Database, Database]:
    """Return a database with a ledger, and its copy on another server that follows it by logical replication."""
    server, other = clusters.create(wal_level="logical"), clusters.create()
    old = server.database()
    settled_ledger(old, LEASE)
    other.sql(f'CREATE ROLE "{old.role}" LOGIN')
    other.sql(f'CREATE DATABASE "{old.name}"')
    new = Database(other, old.name, old.role)
    as_admin = make_conninfo(old.dsn, user=server.user)
    restore(programs, new, dumped(programs, as_admin, "--schema-only"))
    old.sql("CREATE PUBLICATION move FOR ALL TABLES", admin=True)
    new.sql(f"CREATE SUBSCRIPTION move CONNECTION '{as_admin}' PUBLICATION move", admin=True)
    wait_for(lambda: new.sql("SELECT 1 FROM highlander.meta"), what="the ledger is copied")
    return old, new


def end_replication(new: Database) -> None:
    new.sql("ALTER SUBSCRIPTION move DISABLE", admin=True)
    new.sql("ALTER SUBSCRIPTION move SET (slot_name = NONE)", admin=True)
    new.sql("DROP SUBSCRIPTION move", admin=True)


def to_the_next_timeline(cluster: Cluster) -> None:
    """Stop a server, if it runs, and start it as one that was restored from a backup."""
    cluster.stop("fast")
    signal = cluster.data / "recovery.signal"
    signal.touch()
    os.chown(signal, cluster.data.stat().st_uid, cluster.data.stat().st_gid)
    cluster.settings["restore_command"] = "false"
    cluster.start()
    wait_for(lambda: cluster.sql("SELECT pg_is_in_recovery()") == [(False,)], what="it was promoted")


def await_kept(node: Node, facts: dict[str, int]) -> None:
    """Wait until the files of a state directory hold these numbers."""

    def kept() -> bool:
        files = {name: node.home / "state" / name for name in facts}
        return all(file.exists() and str(facts[name]) in file.read_text() for name, file in files.items())

    wait_for(kept, what=f"{node.name} has written {facts}")


def dumped(programs: Installation, dsn: str, *options: str) -> str:
    return _printed([programs.program("pg_dump"), "--dbname", dsn, *options])


def restore(programs: Installation, database: Database, script: str) -> None:
    as_admin = make_conninfo(database.dsn, user=database.server.user)
    _printed([programs.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", as_admin], script)


def _printed(command: list[str | Path], given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
