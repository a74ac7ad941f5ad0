"""What all statements have in common: the versions of the ledger's schema, SQLSTATEs, and pieces of SQL.

In a statement ``{schema}`` stands for the quoted schema, ``{lease_table}`` and ``{meta_table}`` for the names of tables
as strings, and the other names in braces for FRAGMENTS: what it says differently under each version of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

VERSION: Final = 4
"""The version of the schema that this daemon knows. It works with a later one if its ``compatible_from`` allows."""

SHARED: Final = 3
"""The version of the schema that brought what the cluster shares in addition to terms."""

SCHEDULED: Final = 4
"""The version of the schema that brought schedules."""

NEEDED: Final = (
    ("meta lease term node candidate wish command event schedule skipped", "SELECT, INSERT, UPDATE"),
    ("term node candidate wish command event skipped", "DELETE"),
)
"""The privileges on tables that a role needs when another role owns the ledger."""

UNDEFINED: Final = frozenset({"42P01", "3F000"})
"""SQLSTATE: the table or the schema does not exist."""

INSUFFICIENT_PRIVILEGE: Final = "42501"

LOCK_NOT_AVAILABLE: Final = "55P03"
QUERY_CANCELED: Final = "57014"

BLOCKED: Final = frozenset({LOCK_NOT_AVAILABLE, QUERY_CANCELED})
"""SQLSTATE: the statement waited for a lock until lock_timeout or statement_timeout ended it."""

SYSTEM = "(SELECT system_identifier FROM pg_control_system())"

# pg_control_checkpoint() lags behind a promotion; the name of the present WAL file does not.
TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"

SERVER_START = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"

_TABLES = (
    "concat_ws('/', (SELECT oid FROM pg_database WHERE datname = current_database()), m.tableoid, "
    "{lease_table}::regclass::oid"
)

RFC_3339 = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
ASKED = "make_interval(secs => $4::double precision)"

_SCHEMA_1: Final[Mapping[str, str]] = {
    "place": f"{_TABLES})",
    "usable": "m.version = 1",
    "compatible_from": "1",
    "settled_place": f"{_TABLES})",
    "ceiling": "m.lease",
    "wanted": "m.lease",
    "trusted_for": "m.lease",
    "elsewhere_for": "extract(epoch FROM m.lease)",
    "maintenance": "NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    "set_trusted": "",
    "insert_trusted": "",
    "trusted_value": "",
    "set_settled": "",
    "same_place": "true",
    "ledger_id": "NULL",
}

_SCHEMA_2: Final[Mapping[str, str]] = {
    "place": f"{_TABLES}, m.ledger)",
    "usable": f"m.compatible_from <= {VERSION}",
    "compatible_from": "m.compatible_from",
    "settled_place": "m.settled_place",
    "ceiling": "m.ceiling",
    "wanted": "CASE WHEN m.maintenance_until > clock_timestamp() THEN m.maintenance_lease ELSE m.lease END",
    "trusted_for": "r.trusted_for",
    "elsewhere_for": "extract(epoch FROM f.trusted_for)",
    "maintenance": "m.maintenance_until > clock_timestamp(), extract(epoch FROM m.maintenance_for), "
    f"extract(epoch FROM m.maintenance_lease), {RFC_3339.format('m.maintenance_since')}, "
    f"{RFC_3339.format('m.maintenance_until')}, m.maintenance_by, m.maintenance_reason",
    "set_trusted": f"trusted_for = {ASKED}, ",
    "insert_trusted": ", trusted_for",
    "trusted_value": f", {ASKED}",
    "set_settled": "settled_place = $3::text, ",
    "same_place": "coalesce(m.settled_place, $3::text) = $3::text",
    "ledger_id": "m.ledger",
}

_UNSHARED: Final[Mapping[str, str]] = {
    "suspension": "nullif($3::text, $3::text)",
    "reserved_for": "r.reserved_for",
    "allowed": "",
    "begun_with": "",
    "begun_values": "",
    "set_told": "",
    "untold": "false",
    "told": "NULL, NULL, NULL, NULL",
}

SAID = "left({}, 500)"
"""What somebody has said of an order: the client's own bound. Who may order by SQL may say much more."""
NAMED = "left({}, 100)"
"""A name, or a word such as a cause: daemons write shorter ones. Who may write the tables may write any text."""
ORDERED_BY = f"{SAID.format('w.author')} || ', role ' || w.role"
"""Who has ordered something: what was said, and the role that the server has seen."""
STOPPED = f"json_build_array(false, {ORDERED_BY}, {SAID.format('w.reason')}, {RFC_3339.format('w.since')})"
_DRAINED_BY = f"{SAID.format('n.drained_by')}, {SAID.format('n.drained_reason')}"
DRAINED = f"json_build_array(true, {_DRAINED_BY}, {RFC_3339.format('n.drained_since')})"

_SHARED: Final[Mapping[str, str]] = {
    "suspension": f"""coalesce(
         (SELECT {STOPPED} FROM {{schema}}.wish AS w WHERE w.lock_id = a.lock_id),
         (SELECT {DRAINED} FROM {{schema}}.node AS n WHERE n.name = $3::text AND n.drained_since IS NOT NULL))""",
    "reserved_for": """CASE WHEN NOT EXISTS (SELECT 1 FROM {schema}.node AS n WHERE n.name = r.reserved_for
                                                AND n.drained_since IS NOT NULL) THEN r.reserved_for END""",
    "allowed": """AND NOT EXISTS (SELECT 1 FROM {schema}.wish AS w WHERE w.lock_id = $1::bigint)
          AND NOT EXISTS (SELECT 1 FROM {schema}.node AS n WHERE n.name = $7::text AND n.drained_since IS NOT NULL)""",
    "begun_with": ", previous_node, lease",
    "begun_values": ", (SELECT o.node FROM {schema}.term AS o WHERE o.lock_id = begun.lock_id "
    "AND o.epoch < begun.epoch ORDER BY o.epoch DESC LIMIT 1), trusted_for",
    "set_told": "exit_status = f.exit_status, exit_signal = f.exit_signal, author = f.author, remark = f.remark, ",
    "untold": "num_nonnulls(t.exit_status, t.exit_signal, t.author, t.remark) = 0",
    "told": f"t.exit_status, {NAMED.format('t.exit_signal')}, {SAID.format('t.author')}, {SAID.format('t.remark')}",
}

LATEST: Final = (
    "extract(epoch FROM least(greatest({}.latest, timestamptz 'epoch'), timestamptz '9999-12-30 00:00:00+00'))::bigint"
)
"""The latest time of a schedule. Who may write the table may write infinity, and years that no node can reckon with."""

_UNSCHEDULED: Final[Mapping[str, str]] = {
    "clock": "NULL",
    "plan": "NULL",
    "scheduled_at": "NULL",
    "former_scheduled_at": "NULL",
    "late": "NULL",
    "skips": "",
}

_SCHEDULED: Final[Mapping[str, str]] = {
    **_SHARED,
    "clock": "extract(epoch FROM clock_timestamp())",
    "plan": f"""(SELECT json_build_array(left(s.words, 10000), extract(epoch FROM s.taken_up), {LATEST.format("s")},
                         s.epoch, extract(epoch FROM s.held_from), extract(epoch FROM s.held_until), s.xmin::text,
                         s.latest > clock_timestamp() AND NOT EXISTS (
                           SELECT 1 FROM {{schema}}.skipped AS k WHERE k.lock_id = s.lock_id AND k.reason = 'clock'
                              AND k.last_at BETWEEN clock_timestamp() AND s.latest))
          FROM {{schema}}.schedule AS s WHERE s.lock_id = a.lock_id)""",
    "begun_with": f"{_SHARED['begun_with']}, scheduled_at",
    "begun_values": f"{_SHARED['begun_values']}, (SELECT s.latest FROM {{schema}}.schedule AS s "
    "WHERE s.lock_id = begun.lock_id AND s.epoch = begun.epoch)",
    "scheduled_at": RFC_3339.format("t.scheduled_at"),
    "former_scheduled_at": RFC_3339.format("f.scheduled_at"),
    "late": "extract(epoch FROM t.acquired_at - t.scheduled_at)",
    "skips": f"""
UNION ALL
  (SELECT recorded_at, 'skipped', node, program, NULL, reason, NULL, NULL, NULL,
          CASE WHEN times = 1 THEN {RFC_3339.format("first_at")}
               ELSE coalesce(nullif(times, 0) || ' times, ', '') || {RFC_3339.format("first_at")}
                    || ' to ' || {RFC_3339.format("last_at")} END,
          id
     FROM {{schema}}.skipped ORDER BY id DESC LIMIT $1::integer)""",
}

FRAGMENTS: Final[Mapping[int, Mapping[str, str]]] = {
    1: {**_SCHEMA_1, **_UNSHARED, **_UNSCHEDULED},
    2: {**_SCHEMA_2, **_UNSHARED, **_UNSCHEDULED},
    3: {**_SCHEMA_2, **_SHARED, **_UNSCHEDULED},
    4: {**_SCHEMA_2, **_SCHEDULED},
}
"""By version of the schema and name: the pieces of SQL that differ between versions."""

UNLOGGED = """(SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) FROM pg_class AS c
         WHERE c.relnamespace = (SELECT o.relnamespace FROM pg_class AS o WHERE o.oid = m.tableoid)
           AND c.relname IN ('meta', 'lease', 'term') AND c.relpersistence <> 'p')"""
