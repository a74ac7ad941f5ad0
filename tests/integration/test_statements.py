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
