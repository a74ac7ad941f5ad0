"""A password of the database role that is changed while programs run: no child notices, whoever reads the file when."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Cluster, Database
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; nothing here waits for it, and a worker that is replaced on a busy machine may need seconds to start."""


@pytest.fixture
def database(cluster: Cluster) -> Database:
    """A database whose role needs its password."""
    database = cluster.database()
    settled_ledger(database, LEASE)
    rules = cluster.data / "pg_hba.conf"
    rules.write_text(f"host all {database.role} all scram-sha-256\n{rules.read_text()}")
    cluster.sql("SELECT pg_reload_conf()")
    return database


@pytest.fixture
def dsn(nodes: Nodes, database: Database) -> Path:
    """The file that holds the dsn, with the password ``old``."""
    file = nodes.directory / "dsn"
    _change(database, file, "old")
    return file


def _change(database: Database, file: Path, password: str) -> None:
    """Change the password, first in PostgreSQL and then in the file."""
    database.sql(f"ALTER ROLE \"{database.role}\" PASSWORD '{password}'", admin=True)
    file.write_text(make_conninfo(database.dsn, password=password) + "\n")


def _leader(nodes: Nodes) -> Node:
    [node] = nodes("file:../dsn", "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    return node


def _lose_the_sessions(database: Database, node: Node) -> None:
    before = node.status()["postgres"]["connections"]
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'highlander/%'", admin=True
    )
    wait_for(lambda: "session lost" in node.log.read_text(), what="the sessions are lost")
    wait_for(lambda: node.up() and node.status()["postgres"]["connections"] == before, what="it is connected again")


def test_a_refused_login_has_the_file_of_the_dsn_read_again(nodes: Nodes, database: Database, dsn: Path) -> None:
    node = _leader(nodes)
    before = nodes.life("beat")

    _change(database, dsn, "new")
    _lose_the_sessions(database, node)

    assert "postgres.dsn has other credentials" in node.log.read_text()
    [life] = nodes.journal.lives("beat")
    assert (life.epoch, life.pids) == (before.epoch, before.pids)

    worker = node.worker  # the next worker is handed the password that it was started with
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: node.worker not in (0, worker) and node.up(), what="a new worker is connected")
    assert nodes.await_led("beat")["beat"] is node
    assert len(nodes.journal.lives("beat")) == 1


def test_a_reload_reads_the_password_and_says_so(nodes: Nodes, database: Database, dsn: Path) -> None:
    node = _leader(nodes)

    _change(database, dsn, "new")
    done = highlanderctl(node.socket, "reload")

    assert done.out == "[postgres] dsn has other credentials: new connections use them\n"
    assert "new" not in node.log.read_text().replace("new connections", "")
    dsn.unlink()  # it was read
    _lose_the_sessions(database, node)
    assert len(nodes.journal.lives("beat")) == 1


def test_another_place_needs_a_restart_and_its_password_is_not_tried(
    nodes: Nodes, database: Database, dsn: Path
) -> None:
    node = _leader(nodes)

    dsn.write_text(make_conninfo(database.dsn, password="old", dbname="postgres") + "\n")
    done = highlanderctl(node.socket, "reload")

    assert done.out == "[postgres] dsn: takes effect when the daemon is restarted\n"
    _lose_the_sessions(database, node)
    assert len(nodes.journal.lives("beat")) == 1
