"""The ledger's statements, and what their answers mean. All SQL that the daemon sends in regular life is here.

Each statement changes one row or none, is committed by its own Sync, and leaves something safe behind when the next one
never arrives. ``{schema}`` is replaced by the quoted schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from highlanderd.core.lease import Lease, Meta, Row, Server, Sight
from highlanderd.postgres.wire import Statement

VERSION: Final = 1
"""Of the schema; a daemon refuses a ledger with another one."""

NEEDED: Final = (("meta lease term", "SELECT, INSERT, UPDATE"), ("term", "DELETE"))
"""What a role has to be granted on which tables when somebody else owns the ledger."""

UNDEFINED: Final = frozenset({"42P01", "3F000"})
"""SQLSTATE: the table or the schema does not exist."""
INSUFFICIENT_PRIVILEGE: Final = "42501"
LOCK_NOT_AVAILABLE: Final = "55P03"

_SYSTEM = "(SELECT system_identifier FROM pg_control_system())"
# pg_control_checkpoint() lags behind a promotion; the name of the present WAL file does not.
_TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
_BACKEND_START = (
    "(SELECT (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_get_activity(pg_backend_pid()))"
)

HELLO: Final = f"""
SELECT pg_is_in_recovery(), pg_backend_pid(), {_BACKEND_START}, current_setting('fsync'),
       current_setting('server_version'), current_user, current_database(), {_SYSTEM},
       CASE WHEN NOT pg_is_in_recovery() THEN {_TIMELINE} END
"""

META: Final = "SELECT version, namespace, extract(epoch FROM lease) FROM {schema}.meta"

LOOK: Final = f"""
SELECT {_SYSTEM}, {_TIMELINE}, (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
       (pg_current_wal_lsn() - '0/0')::bigint, extract(epoch FROM m.lease), m.settled_system, m.settled_timeline,
       m.offsets ->> {_SYSTEM}::text,
       r.lock_id, r.program, r.epoch, r.renewal, r.node, r.instance, r.system, r.timeline, r.released_at IS NOT NULL,
       r.reason, r.reserved_for, r.reserved_seconds,
       greatest(extract(epoch FROM clock_timestamp() - coalesce(r.released_at, r.expires_at)), 0), pg_backend_pid()
  FROM {{schema}}.meta AS m LEFT JOIN {{schema}}.lease AS r ON r.lock_id = $1::bigint OR r.program = $2::text
"""

# Parameters: 1 lock id; the server judged, 2 system, 3 timeline, 4 lease; the new 5 epoch, 6 program, 7 node,
# 8 instance, 9 backend start; the row judged, 10 epoch, 11 renewal, 12 system, 13 timeline.
_GRANT = f"""
WITH grant_ AS MATERIALIZED (SELECT pg_try_advisory_lock($1::bigint) AS ok),
     server AS MATERIALIZED (SELECT {_SYSTEM} AS system, {_TIMELINE} AS timeline),
     judged AS (
       SELECT s.system, s.timeline, m.lease,
              (m.settled_system, m.settled_timeline) IS NOT DISTINCT FROM (s.system, s.timeline) AS settled
         FROM grant_ AS g, server AS s, {{schema}}.meta AS m
        WHERE g.ok AND s.system = $2::bigint AND s.timeline = $3::bigint AND NOT pg_is_in_recovery()
          AND m.lease = make_interval(secs => $4::double precision)),
"""
_HISTORY = """
     lapsed AS (
       UPDATE {schema}.term AS t SET ended_at = clock_timestamp(), reason = 'lapsed'
         FROM taken WHERE t.lock_id = $1::bigint AND t.ended_at IS NULL),
     begun AS (
       INSERT INTO {schema}.term (lock_id, epoch, program, node, acquired_at)
       SELECT $1::bigint, $5::bigint, $6::text, $7::text, acquired_at FROM taken)
SELECT ok, (SELECT count(*) FROM taken) FROM grant_
"""

TAKE_OVER: Final = f"""{_GRANT}
     taken AS (
       UPDATE {{schema}}.lease AS r
          SET epoch = $5::bigint, renewal = r.renewal + 1, program = $6::text, node = $7::text,
              instance = $8::uuid, system = j.system, timeline = j.timeline,
              backend_pid = pg_backend_pid(), backend_start = $9::bigint,
              acquired_at = clock_timestamp(), expires_at = clock_timestamp() + j.lease,
              released_at = NULL, reason = NULL, reserved_for = NULL, reserved_seconds = NULL
         FROM judged AS j
        WHERE r.lock_id = $1::bigint AND r.epoch = $10::bigint AND r.renewal = $11::bigint
          AND r.system = $12::bigint AND r.timeline = $13::bigint
          AND (j.settled OR (r.system, r.timeline) = (j.system, j.timeline))
    RETURNING r.acquired_at),
{_HISTORY}"""

FIRST_TAKE_OVER: Final = f"""{_GRANT}
     taken AS (
       INSERT INTO {{schema}}.lease AS r (lock_id, epoch, renewal, program, node, instance, system, timeline,
              backend_pid, backend_start, acquired_at, expires_at)
       SELECT $1::bigint, $5::bigint, 1, $6::text, $7::text, $8::uuid, j.system, j.timeline,
              pg_backend_pid(), $9::bigint, clock_timestamp(), clock_timestamp() + j.lease
         FROM judged AS j
        WHERE j.settled
           ON CONFLICT DO NOTHING
    RETURNING r.acquired_at),
{_HISTORY}"""

_OURS = "r.lock_id = $1::bigint AND r.epoch = $2::bigint AND r.instance = $3::uuid AND r.released_at IS NULL"

RENEW: Final = f"""
UPDATE {{schema}}.lease AS r
   SET renewal = r.renewal + 1, expires_at = clock_timestamp() + m.lease, system = {_SYSTEM}, timeline = {_TIMELINE}
  FROM {{schema}}.meta AS m WHERE {_OURS}
"""

REATTACH: Final = f"""
WITH grant_ AS MATERIALIZED (SELECT pg_try_advisory_lock($1::bigint) AS ok),
     renewed AS (
       UPDATE {{schema}}.lease AS r
          SET renewal = r.renewal + 1, expires_at = clock_timestamp() + m.lease,
              system = {_SYSTEM}, timeline = {_TIMELINE}, backend_pid = pg_backend_pid(), backend_start = $4::bigint
         FROM grant_ AS g, {{schema}}.meta AS m WHERE g.ok AND {_OURS}
    RETURNING 1)
SELECT ok, (SELECT count(*) FROM renewed) FROM grant_
"""

TERMINATE_OLD: Final = f"""
SELECT count(pg_terminate_backend(a.pid))
  FROM pg_stat_get_activity(NULL) AS a
 WHERE a.pid <> pg_backend_pid() AND (a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint) IN (
       SELECT r.backend_pid, r.backend_start FROM {{schema}}.lease AS r WHERE {_OURS}
       UNION ALL SELECT * FROM unnest($4::integer[], $5::bigint[]))
"""

# Never writes system or timeline: a release proves nothing about the server it met.
RELEASE: Final = f"""
WITH released AS (
       UPDATE {{schema}}.lease AS r
          SET renewal = r.renewal + 1, released_at = clock_timestamp(), expires_at = clock_timestamp(),
              reason = $4::text, reserved_for = $5::text, reserved_seconds = $6::double precision
        WHERE {_OURS} RETURNING r.epoch),
     ended AS (
       UPDATE {{schema}}.term AS t SET ended_at = clock_timestamp(), reason = $4::text
         FROM released WHERE t.lock_id = $1::bigint AND t.epoch = released.epoch)
SELECT count(*) FROM released
"""
UNLOCK: Final = "SELECT pg_advisory_unlock_all()"
NOTIFY: Final = "SELECT pg_notify($1::text, $2::text)"

# History is for people: the last 90 days, and the last 1,000 terms whatever their age.
PRUNE: Final = """
DELETE FROM {schema}.term AS t
 WHERE t.lock_id = $1::bigint AND t.ended_at < clock_timestamp() - interval '90 days'
   AND t.epoch < (SELECT epoch FROM {schema}.term WHERE lock_id = $1::bigint ORDER BY epoch DESC OFFSET 1000 LIMIT 1)
"""

SETTLE: Final = f"""
UPDATE {{schema}}.meta AS m
   SET settled_system = $1::bigint, settled_timeline = $2::bigint,
       offsets = CASE WHEN m.offsets ? $1::text THEN m.offsets ELSE m.offsets || jsonb_build_object($1::text,
                 (SELECT coalesce(max(epoch >> 32), -1) + 1 FROM {{schema}}.lease)) END
 WHERE {_SYSTEM} = $1::bigint AND {_TIMELINE} = $2::bigint AND NOT pg_is_in_recovery()
"""
# For a server that this daemon has just created: nobody can have led on it.
SETTLE_FRESH: Final = f"""
UPDATE {{schema}}.meta SET settled_system = {_SYSTEM}, settled_timeline = {_TIMELINE} WHERE settled_system IS NULL
"""

SURVEY: Final = "SELECT lock_id, node, instance, epoch, renewal, released_at IS NULL FROM {schema}.lease"
BLOCKERS: Final = """
SELECT coalesce(string_agg(CASE WHEN pid = 0 THEN 'a prepared transaction (see pg_prepared_xacts)'
                                ELSE 'pid ' || pid END, ', '), '')
  FROM unnest(pg_blocking_pids($1::integer)) AS pid
"""
SHOW: Final = """
SELECT version, namespace, extract(epoch FROM lease), settled_system, settled_timeline, offsets,
       (SELECT count(*) FROM {schema}.lease), (SELECT count(*) FROM {schema}.lease WHERE released_at IS NULL)
  FROM {schema}.meta
"""
SET_LEASE: Final = "SELECT {schema}.set_lease(make_interval(secs => $1::double precision))"
CREATE: Final = """
DO $highlanderd$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended({name}, 0));
    IF to_regclass({table}) IS NULL THEN
        EXECUTE {script};
    END IF;
END
$highlanderd$
"""


@dataclass(frozen=True, slots=True)
class Ledger:
    """One ledger's names: a schema of one namespace."""

    schema: str
    namespace: str
    lease: float
    """Seconds; what a ledger is created with."""

    @property
    def channel(self) -> str:
        """The channel on which releases are notified."""
        return self.schema

    def statement(self, name: str, sql: str) -> Statement:
        """Give a statement of this ledger."""
        return _statement(name, sql, self.schema)

    def script(self) -> str:
        """Give the SQL that creates the ledger: what an administrator runs when the daemon may not."""
        text = resources.files(__package__).joinpath("ledger.sql").read_text("utf-8")
        values = {
            "schema": identifier(self.schema),
            "schema_text": literal(identifier(self.schema)),
            "version": str(VERSION),
            "namespace": literal(self.namespace),
            "lease": literal(f"{self.lease:g} seconds"),
        }
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def creation(self) -> Statement:
        """Give one statement that creates the ledger unless it is there; safe under many nodes at once."""
        table = literal(f"{identifier(self.schema)}.meta")
        sql = CREATE.replace("{name}", literal(f"highlanderd {self.schema}")).replace("{table}", table)
        return Statement("create", sql.replace("{script}", literal(self.script())))

    def grants(self, role: str) -> str:
        """Give the SQL that lets ``role`` use a ledger that somebody else owns."""
        schema, name = identifier(self.schema), identifier(role)
        text = f"GRANT USAGE ON SCHEMA {schema} TO {name};\n"
        for tables, privileges in NEEDED:
            where = ", ".join(f"{schema}.{table}" for table in tables.split())
            text += f"GRANT {privileges} ON {where} TO {name};\n"
        return text


@cache
def _statement(name: str, sql: str, schema: str) -> Statement:
    return Statement(name, sql.replace("{schema}", identifier(schema)))


def identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string for SQL; dollar quotes keep backslashes and quotes as they are."""
    tag = "text"
    while f"${tag}$" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


def sight(rows: list[tuple[str | None, ...]], lock_id: int) -> Sight:
    """Give what the rows of a LOOK say about ``lock_id``."""
    first = rows[0]
    server = Server(_integer(first[0]), _integer(first[1]), str(first[2]), _integer(first[3]))
    settled = None if first[5] is None else (_integer(first[5]), _integer(first[6]))
    offset = None if first[7] is None else _integer(first[7])
    meta = Meta(Lease(float(first[4] or 0)), settled, offset)
    found = [_row(row[8:-1]) for row in rows if row[8] is not None]
    ours = next((row for row in found if row.lock_id == lock_id), None)
    return Sight(server, meta, ours, tuple(row for row in found if row.lock_id != lock_id))


def _row(values: tuple[str | None, ...]) -> Row:
    lock_id, program, epoch, renewal, node, instance, system, timeline, released, *rest = values
    reason, reserved, seconds, ended_ago = rest
    return Row(
        lock_id=_integer(lock_id),
        program=program or "",
        epoch=_integer(epoch),
        renewal=_integer(renewal),
        node=node or "",
        instance=instance or "",
        system=_integer(system),
        timeline=_integer(timeline),
        released=released == "t",
        reason=reason or "",
        reserved_for=reserved,
        reserved_seconds=float(seconds or 0),
        ended_ago=float(ended_ago or 0),
    )


def _integer(value: str | None) -> int:
    if value is None:
        raise ValueError("the ledger holds a null where a number belongs")
    return int(value)
