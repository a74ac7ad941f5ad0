"""Each statement of the daemons is one that PostgreSQL can prepare: some are sent once in a long time only."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import psycopg

from highlanderd.postgres import sql
from highlanderd.postgres.ledger import Ledger
from tests.support.nodes import settled_ledger
from tests.support.postgres import Database

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
MODULES = [import_module(f"{sql.__name__}.{found.name}") for found in pkgutil.iter_modules(sql.__path__)]
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if not name.startswith("_")
    and not name.endswith("_1")  # of the first schema
    and isinstance(value, str)
    and value.lstrip().startswith(VERBS)
}


def test_every_statement_can_be_prepared(database: Database) -> None:
    assert len(STATEMENTS) > 40
    settled_ledger(database, 3.0)
    refused: dict[str, str] = {}
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for name, text in STATEMENTS.items():
            statement = Ledger("highlander", "", 0.0).statement("x", text)
            try:
                connection.execute(f"PREPARE x AS {statement.sql}".encode())
                connection.execute("DEALLOCATE x")
            except psycopg.Error as error:
                refused[name] = str(error)
    assert not refused


LEASE = """
INSERT INTO highlander.lease (lock_id, epoch, renewal, program, node, instance, system, timeline, backend_pid,
       backend_start, acquired_at, expires_at, trusted_for, released_at, reason)
VALUES (1, 2, 1, 'beat', 'a', gen_random_uuid(), 1, 1, 1, 1, now(), now(), interval '3 s', now(), 'operator')
"""
UNHURRIED = (
    ("NOTIFY", "'highlander', '1'"),
    ("BEGIN_TERMS", "ARRAY[1], ARRAY[2]"),
    ("SUCCEED_TERM", "1, 2, 1, 'beat', 'b', 0, 1, 'operator'"),
    ("END_TERM", "1, 2, 'operator', NULL, NULL, NULL, NULL"),
)
"""Statements that nobody has to wait for, each with its parameters."""


def test_hints_and_the_history_do_not_wait_for_the_disk(database: Database) -> None:
    settled_ledger(database, 3.0)
    ledger = Ledger("highlander", "", 0.0)
    with psycopg.connect(database.dsn) as connection:
        connection.execute(LEASE)
        for name, values in UNHURRIED:
            statement = ledger.statement(name, STATEMENTS[f"leading.{name}"])
            connection.execute(f"SET LOCAL synchronous_commit = on; PREPARE {name} AS {statement.sql}".encode())
            connection.execute(f"EXECUTE {name} ({values})".encode())
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",), name
        connection.commit()
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
