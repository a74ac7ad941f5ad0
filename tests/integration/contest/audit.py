"""What PostgreSQL itself says of every write to the ledger's rows: the oracle of the session tests.

A trigger of the superuser notes each write with its backend, and whether that backend held the advisory lock. The note
is committed with the write or not at all, so what can be read here, on a connection past all doors, is durable. Times
are the server's clock in seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from tests.support.postgres import Database
from tests.support.session import OF_LOCK

INSTALL = """
CREATE SCHEMA audit;
CREATE TABLE audit.write (
    id bigserial PRIMARY KEY, at double precision, lock_id bigint, epoch bigint, renewal bigint, instance text,
    node text, released boolean, reserved_for text, reserved_seconds double precision, reason text,
    pid integer, held boolean);
CREATE TABLE audit.fault (refusing boolean);
INSERT INTO audit.fault VALUES (false);

CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO audit.write (at, lock_id, epoch, renewal, instance, node, released, reserved_for, reserved_seconds,
                             reason, pid, held)
    SELECT extract(epoch FROM clock_timestamp()), NEW.lock_id, NEW.epoch, NEW.renewal, NEW.instance, NEW.node,
           NEW.released_at IS NOT NULL, NEW.reserved_for, NEW.reserved_seconds, NEW.reason, pg_backend_pid(),
           EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
                      AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = NEW.lock_id);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON highlander.lease FOR EACH ROW EXECUTE FUNCTION audit.note();

CREATE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF (SELECT refusing FROM audit.fault) THEN
        RAISE EXCEPTION 'this commit fails after its statement has succeeded';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON highlander.lease DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION audit.refuse();
"""

PATIENCE = 60.0
"""Seconds for a server that is restarted meanwhile."""

WAITED = 1.04
"""Leases that a silent leader has at least: others wait 1.05, by their own clock, and the server's may differ."""


@dataclass(frozen=True, slots=True)
class Write:
    """One committed write to a row of the ledger."""

    at: float
    epoch: int
    renewal: int
    instance: str
    node: str
    released: bool
    reserved_for: str | None
    reserved_seconds: float | None
    reason: str | None
    pid: int
    held: bool
    """Whether the backend that wrote held the advisory lock."""

    @property
    def closing(self) -> bool:
        """Whether somebody who was about to take over closed a term that had lapsed."""
        return self.released and self.reason == "lapsed"


class Audit:
    """Reads what was noted of one database, on a connection of its own that no fault of a test reaches."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dsn = make_conninfo(database.dsn, user=database.server.user, options="-c synchronous_commit=off")
        self._connection: psycopg.Connection[Any] | None = None
        self.sql(INSTALL)

    def sql(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser; while the server is restarted, as soon as it answers again."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=20)
                answer = self._connection.execute(statement.encode(), parameters)
                return answer.fetchall() if answer.description else []
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.close()

    def writes(self, lock_id: int) -> list[Write]:
        """Return the committed writes to a row, in their order."""
        columns = ", ".join(Write.__slots__)
        rows = self.sql(f"SELECT {columns} FROM audit.write WHERE lock_id = %s ORDER BY id", [lock_id])
        return [Write(*row) for row in rows]

    def holders(self, lock_id: int) -> list[int]:
        """Return the backends that hold the advisory lock."""
        return [pid for (pid,) in self.sql(f"SELECT pid FROM pg_locks WHERE {OF_LOCK}", [lock_id])]

    def lives(self, pid: int) -> bool:
        """Whether a backend has not ended."""
        return bool(self.sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]))

    def in_transaction(self) -> list[tuple[Any, ...]]:
        """Return the sessions of the daemon's role that were left in a transaction."""
        return self.sql(
            "SELECT pid, application_name, query FROM pg_stat_activity "
            "WHERE usename = %s AND state LIKE 'idle in transaction%%'",
            [self._database.role],
        )

    def sessions(self, program: str) -> int:
        """Return the number of lock sessions of a program, on all nodes."""
        [[count]] = self.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s", [f"%/{program}"])
        return int(count)


def offences(writes: Sequence[Write], lease: float, asked: Mapping[tuple[str, int, str], int]) -> list[str]:
    """Say what ought never to be in the history of one row; ``asked`` is by (instance, epoch, what)."""
    said = [f"written without the lock: {write}" for write in writes if not write.held and not write.released]
    said += [
        f"unlocked before its release: {b}"
        for a, b in pairwise(writes)
        if b.released and not b.closing and a.pid == b.pid and not b.held
    ]
    again = {(instance, epoch) for instance, epoch, what in asked if what == "take over"}
    for before, after in pairwise(writes):
        pair = f"{before} and then {after}"
        if after.renewal != before.renewal + 1:
            said.append(f"a write was not counted: {pair}")
        if after.epoch == before.epoch and (after.instance != before.instance or before.released):
            said.append(f"a term was shared or went on after its end: {pair}")
        if after.epoch < before.epoch or (after.epoch > before.epoch and after.released):
            said.append(f"an epoch that did not begin a term: {pair}")
        if after.epoch > before.epoch:
            said += _early(before, after)
        if after.closing:
            # One's own may be closed at once by the very instance that has no child left.
            ours = any(instance == before.instance and epoch > before.epoch for instance, epoch in again)
            if after.at - before.at < WAITED * lease and not ours:
                said.append(f"closed {after.at - before.at:.3f} s after the last sign of life: {pair}")
    return said


def unasked(writes: Sequence[Write], asked: Mapping[tuple[str, int, str], int]) -> list[str]:
    """Say what was written more often than it was asked for, by (instance, epoch, what): late or misdirected writes."""
    written: Counter[tuple[str, int, str]] = Counter()
    last = 0
    for write in writes:
        if write.closing:
            continue
        what = "release" if write.released else "renew" if write.epoch == last else "take over"
        written[write.instance, write.epoch, what] += 1
        last = write.epoch
    return [f"nobody has asked for it: {key}" for key, count in written.items() if count > asked.get(key, 0)]


def _early(before: Write, after: Write) -> list[str]:
    """Say when a term began too early: the one before has to be closed, and a reservation has its time."""
    waited, pair = after.at - before.at, f"{before} and then {after}"
    if not before.released:
        return [f"taken over before its term was closed: {pair}"]
    if before.released and before.reserved_for not in (None, after.node) and waited < (before.reserved_seconds or 0):
        return [f"taken {waited:.3f} s into a reservation: {pair}"]
    return []
