"""A service file or PG* variables say where PostgreSQL is, as they do for psql."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import ConnectFailed
from highlanderd.postgres.server import Server
from tests.support.postgres import SCHEMA, Database
from tests.support.proxy import OpensDoors
from tests.support.session import LEASE, desk
from tests.support.wait import until


def _service(monkeypatch: pytest.MonkeyPatch, directory: Path, **options: str) -> Path:
    file = directory / "pg_service.conf"
    file.write_text("[ops]\n" + "".join(f"{name}={value}\n" for name, value in options.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return file


def test_a_service_file_says_where_postgresql_is_and_each_host_of_it_is_asked(
    database: Database, door: OpensDoors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = door(database.dsn), door(database.dsn)
    both = make_conninfo(database.dsn, host="127.0.0.1,127.0.0.1", port=f"{first.port},{second.port}")
    said = {name: str(value) for name, value in conninfo_to_dict(both).items()}
    _service(monkeypatch, tmp_path, **said, options="-c work_mem=123kB")
    monkeypatch.setenv("PGPORT", "1")  # a service's own port wins over it

    async def scenario() -> None:
        async with desk("service=ops") as here:
            await (await here.line()).look()
            await until(lambda: first.connections and second.connections)
            memory = here.pool.ledger.statement("memory", "SELECT current_setting('work_mem')")
            await until(lambda: here.pool.listener.connected)
            [reply] = await here.pool.listener.ask([(memory, ())])
            assert reply.rows == [("123kB",)]
            assert here.pool.server.address == f"127.0.0.1:{first.port},127.0.0.1:{second.port}/{said['dbname']}"

    asyncio.run(scenario())


def test_pgservice_names_the_service_and_its_file_is_read_at_each_attempt(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {name: str(value) for name, value in conninfo_to_dict(database.dsn).items()}
    _service(monkeypatch, tmp_path, **{**said, "port": "1"})
    monkeypatch.setenv("PGSERVICE", "ops")

    async def scenario() -> None:
        server = Server("application_name=x", Ledger(SCHEMA, "highlander", LEASE), node="n1", fresh=None)
        with pytest.raises(ConnectFailed):
            await server.open()
        _service(monkeypatch, tmp_path, **said)
        (await server.open()).wire.drop("enough")

    asyncio.run(scenario())


def test_a_service_that_is_not_defined_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _service(monkeypatch, tmp_path, host="db1")

    async def scenario() -> None:
        server = Server("service=nope password=hunter2", Ledger(SCHEMA, "highlander", LEASE), node="n1", fresh=None)
        with pytest.raises(Unfit, match='definition of service "nope" not found') as refused:
            await server.open()
        assert "hunter2" not in str(refused.value)

    asyncio.run(scenario())
