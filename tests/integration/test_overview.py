"""The cluster is read from the ledger anew only where it has changed, and shows what it would if all were read anew."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg

from highlanderd.core.cluster import ClusterOverview
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.overview import OverviewReader
from highlanderd.postgres.replies import Ask, Reply
from highlanderd.postgres.sql import dialect
from tests.support.nodes import settled_ledger
from tests.support.postgres import Database

LED = """
INSERT INTO highlander.lease (lock_id, epoch, renewal, program, node, instance, system, timeline, backend_pid,
       backend_start, acquired_at, expires_at, trusted_for)
SELECT n, 2, 1, 'p' || n, 'a', gen_random_uuid(), 1, 1, 1, 1, now(), now() + interval '1 day', interval '3 s'
  FROM generate_series(1, 3) AS n
"""
STANDS = """
INSERT INTO highlander.candidate (node, program, lock_id, state, able, reason, ready, since, digests)
SELECT node, 'p' || n, n, 'waiting', true, '', false, now(), '{"command": "12ab"}'
  FROM generate_series(1, 3) AS n, unnest(ARRAY['a', 'b']) AS node
"""
PRESENT = "INSERT INTO highlander.node (name, instance, seen) SELECT 'a', gen_random_uuid(), now()"
RENEWED = (
    "UPDATE highlander.lease SET renewal = renewal + 1, expires_at = expires_at + interval '1 s' WHERE lock_id = 1"
)
CHANGES = (
    "UPDATE highlander.candidate SET able = false, reason = 'it lacks its command' WHERE node = 'b' AND program = 'p1'",
    """UPDATE highlander.candidate SET digests = '{"command": "99ff"}' WHERE node = 'b'""",
    "DELETE FROM highlander.candidate WHERE node = 'b' AND program = 'p2'",
    "UPDATE highlander.lease SET epoch = epoch + 1, node = 'b' WHERE lock_id = 1",
    "UPDATE highlander.lease SET released_at = now() WHERE lock_id = 2",
    "UPDATE highlander.lease SET expires_at = now() WHERE lock_id = 3",
    "INSERT INTO highlander.wish (lock_id, program, author, reason) VALUES (1, 'p1', 'ann', 'it corrupts data')",
    "UPDATE highlander.node SET drained_since = now(), drained_by = 'ann', drained_reason = 'new disk'",
)


class Asked:
    """A session with the ledger; ``names`` are those of the statements that were asked on it."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self.names: list[str] = []

    async def __call__(self, asks: Sequence[Ask]) -> list[Reply]:
        return [self._reply(ask) for ask in asks]

    def _reply(self, ask: Ask) -> Reply:
        statement, _ = ask
        self.names.append(statement.name.partition("_")[0])
        found = self._connection.pgconn.exec_(statement.sql.encode())
        values = [[found.get_value(row, column) for column in range(found.nfields)] for row in range(found.ntuples)]
        return Reply([tuple(None if value is None else value.decode() for value in row) for row in values])


def _read(reader: OverviewReader, asked: Asked) -> ClusterOverview:
    return asyncio.run(reader.read(asked, dialect.VERSION))


def _reader() -> OverviewReader:
    return OverviewReader(Ledger("highlander", "", 0.0))


def test_every_change_shows_at_once_and_what_renewals_have_moved_is_not_read_again(database: Database) -> None:
    settled_ledger(database, 3.0)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for statement in (LED, STANDS, PRESENT):
            connection.execute(statement.encode())
        reader, asked = _reader(), Asked(connection)
        _read(reader, asked)
        for change in CHANGES:
            connection.execute(change.encode())
            found, anew = _read(reader, asked), _read(_reader(), asked)
            assert (found.programs, found.lock_ids) == (anew.programs, anew.lock_ids), change
        connection.execute(RENEWED.encode())
        asked.names.clear()
        _read(reader, asked)
        assert not {"standing", "leads"} & {*asked.names}
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        asked = Asked(connection)
        _read(reader, asked)
        assert {"standing", "leads"} <= {*asked.names}  # another session may be one with another server
