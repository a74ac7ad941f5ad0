"""The ledger's statements: all SQL that the daemon sends in regular life is here.

Each statement changes one row or none, is committed by its own Sync, and leaves something safe behind when the next one
never arrives. ``{schema}`` stands for the quoted schema, and the other names in braces for FRAGMENTS: what a statement
says differently under each version of the ledger's schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

VERSION: Final = 2
"""Of the schema, as this daemon knows it; it works with later ones, too, if their ``compatible_from`` allows."""

NEEDED: Final = (("meta lease term", "SELECT, INSERT, UPDATE"), ("term", "DELETE"))
"""What a role has to be granted on which tables when somebody else owns the ledger."""

UNDEFINED: Final = frozenset({"42P01", "3F000"})
"""SQLSTATE: the table or the schema does not exist."""
INSUFFICIENT_PRIVILEGE: Final = "42501"
BLOCKED: Final = frozenset({"55P03", "57014"})
"""SQLSTATE: the statement waited for a lock until lock_timeout or statement_timeout ended it."""

SESSIONS: Final = f"highlander/{VERSION}/"
"""How the application_name of each session begins; daemons that know schema 1 only say ``highlanderd/``."""

_SYSTEM = "(SELECT system_identifier FROM pg_control_system())"
# pg_control_checkpoint() lags behind a promotion; the name of the present WAL file does not.
_TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
_STARTED = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
_BACKEND_START = (
    "(SELECT (extract(epoch FROM backend_start) * 1000000)::bigint FROM pg_stat_get_activity(pg_backend_pid()))"
)
_TABLES = (
    "concat_ws('/', (SELECT oid FROM pg_database WHERE datname = current_database()), m.tableoid, "
    "{lease_table}::regclass::oid"
)

_RFC_3339 = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""

_ASKED = "make_interval(secs => $4::double precision)"

FRAGMENTS: Final[Mapping[int, Mapping[str, str]]] = {
    1: {
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
    },
    2: {
        "place": f"{_TABLES}, m.ledger)",
        "usable": f"m.compatible_from <= {VERSION}",
        "compatible_from": "m.compatible_from",
        "settled_place": "m.settled_place",
        "ceiling": "m.ceiling",
        "wanted": "CASE WHEN m.maintenance_until > clock_timestamp() THEN m.maintenance_lease ELSE m.lease END",
        "trusted_for": "r.trusted_for",
        "elsewhere_for": "extract(epoch FROM f.trusted_for)",
        "maintenance": "m.maintenance_until > clock_timestamp(), extract(epoch FROM m.maintenance_for), "
        f"extract(epoch FROM m.maintenance_lease), {_RFC_3339.format('m.maintenance_since')}, "
        f"{_RFC_3339.format('m.maintenance_until')}, m.maintenance_by, m.maintenance_reason",
        "set_trusted": f"trusted_for = {_ASKED}, ",
        "insert_trusted": ", trusted_for",
        "trusted_value": f", {_ASKED}",
        "set_settled": "settled_place = $3::text, ",
        "same_place": "coalesce(m.settled_place, $3::text) = $3::text",
        "ledger_id": "m.ledger",
    },
}
"""What statements say differently under each version of the schema."""

_SETTINGS: Final = (
    "default_transaction_read_only",
    "default_transaction_isolation",
    "synchronous_commit",
    "client_min_messages",
    "search_path",
)
_LIMITS: Final = (
    "lock_timeout",
    "statement_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "client_connection_check_interval",
    "transaction_timeout",
)
READ_BACK: Final = (*_SETTINGS, *_LIMITS)
"""The settings of its own session that each answer to HELLO ends with, limits in milliseconds."""

_READ_BACK = ", ".join(
    [f"current_setting('{name}')" for name in _SETTINGS]
    + [f"(extract(epoch FROM current_setting('{name}', true)::interval) * 1000)::bigint" for name in _LIMITS]
)

IDENTIFY: Final = f"""
SELECT pg_is_in_recovery(), pg_backend_pid(), {_BACKEND_START}, current_setting('fsync'),
       current_setting('server_version'), current_user, current_database(), {_SYSTEM},
       CASE WHEN NOT pg_is_in_recovery() THEN {_TIMELINE} END,
       {_READ_BACK}
"""
# Not a startup option: servers before 17 would refuse the whole session for a name that they do not know.
NO_TRANSACTION_LIMIT: Final = """
SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL
"""
LIMITS: Final = """
SELECT set_config('lock_timeout', $1::text, false), set_config('statement_timeout', $2::text, false),
       set_config('idle_session_timeout', $3::text, false),
       set_config('idle_in_transaction_session_timeout', $4::text, false),
       set_config('client_connection_check_interval', $5::text, false)
"""

_UNLOGGED = """(SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) FROM pg_class AS c
         WHERE c.relnamespace = (SELECT o.relnamespace FROM pg_class AS o WHERE o.oid = m.tableoid)
           AND c.relname IN ('meta', 'lease', 'term') AND c.relpersistence <> 'p')"""

# Read before anything is known of the schema's version. It ends with the backend's pid, as SURVEY and FACTS do: what
# spreads statements over servers sends plain reads elsewhere than HELLO.
META: Final = f"""
SELECT version, namespace, extract(epoch FROM lease), to_jsonb(m) ->> 'compatible_from', {_UNLOGGED}, pg_backend_pid()
  FROM {{schema}}.meta AS m
"""

HOST: Final = f"""
SELECT {_SYSTEM}, pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery()
            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT received_tli FROM pg_stat_wal_receiver))
            ELSE {_TIMELINE} END,
       {_STARTED},
       CASE WHEN pg_is_in_recovery()
            THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0', 0)
            ELSE pg_current_wal_lsn() - '0/0' END::bigint
"""

_LOOK = f"""
SELECT {_SYSTEM}, {_TIMELINE}, {_STARTED}, (pg_current_wal_lsn() - '0/0')::bigint, {{place}},
       m.version, {{compatible_from}}, extract(epoch FROM m.lease), extract(epoch FROM {{wanted}}),
       extract(epoch FROM {{ceiling}}), m.settled_system, m.settled_timeline, {{settled_place}},
       m.offsets ->> {_SYSTEM}::text, FLOOR,
       (SELECT json_agg(json_build_array(f.program, f.node, f.lock_id, f.epoch, f.renewal, {{elsewhere_for}}))
          FROM {{schema}}.lease AS f WHERE f.system <> {_SYSTEM} AND f.released_at IS NULL),
       r.lock_id, r.program, r.epoch, r.renewal, r.node, r.instance, r.system, r.timeline, r.released_at IS NOT NULL,
       extract(epoch FROM {{trusted_for}}), r.reason, r.reserved_for, r.reserved_seconds,
       greatest(extract(epoch FROM clock_timestamp() - coalesce(r.released_at, r.expires_at)), 0), pg_backend_pid()
  FROM {{schema}}.meta AS m LEFT JOIN {{schema}}.lease AS r ON r.lock_id = $1::bigint OR r.program = $2::text
"""
LOOK: Final = _LOOK.replace("FLOOR", "(SELECT max(t.epoch) FROM {schema}.term AS t WHERE t.lock_id = $1::bigint)")
LOOK_WITHOUT_HISTORY: Final = _LOOK.replace("FLOOR", "NULL::bigint")
"""For when somebody keeps the history from being read: it can never veto a takeover."""

# Its own statement, before the takeover: what that one sees was committed after the name was granted to us. Everybody
# takes the name first, or two that claim at the same moment could refuse each other.
NAME: Final = "SELECT pg_try_advisory_lock($1::bigint)"

# Parameters: 1 lock id; the server judged, 2 system, 3 timeline; 4 lease asked for; the new 5 epoch, 6 program, 7 node,
# 8 instance, 9 backend start; 10 lock id of the program's name, 11 place; the row judged, 12 epoch, 13 renewal,
# 14 system, 15 timeline.
_GRANT = f"""
WITH name AS MATERIALIZED (SELECT pg_try_advisory_lock($10::bigint) AS granted),
     lock AS MATERIALIZED (SELECT CASE WHEN granted THEN pg_try_advisory_lock($1::bigint) END AS granted FROM name),
     server AS MATERIALIZED (SELECT {_SYSTEM} AS system, {_TIMELINE} AS timeline),
     judged AS (
       SELECT s.system, s.timeline
         FROM lock AS l, server AS s, {{schema}}.meta AS m
        WHERE l.granted AND s.system = $2::bigint AND s.timeline = $3::bigint AND NOT pg_is_in_recovery()
          AND {{place}} = $11::text AND {{usable}} AND {_ASKED} <= {{ceiling}}
          AND (m.settled_system, m.settled_timeline, {{settled_place}}) = (s.system, s.timeline, {{place}})
          AND NOT EXISTS (SELECT 1 FROM {{schema}}.lease AS o
                           WHERE o.program = $6::text AND o.lock_id <> $1::bigint AND o.released_at IS NULL)),
"""
_OUTCOME = "SELECT name.granted, lock.granted, (SELECT count(*) FROM taken) FROM name, lock"

TAKE_OVER: Final = f"""{_GRANT}
     taken AS (
       UPDATE {{schema}}.lease AS r
          SET epoch = $5::bigint, renewal = r.renewal + 1, program = $6::text, node = $7::text,
              instance = $8::uuid, system = j.system, timeline = j.timeline, {{set_trusted}}
              backend_pid = pg_backend_pid(), backend_start = $9::bigint,
              acquired_at = clock_timestamp(), expires_at = clock_timestamp() + {_ASKED},
              released_at = NULL, reason = NULL, reserved_for = NULL, reserved_seconds = NULL
         FROM judged AS j
        WHERE r.lock_id = $1::bigint AND r.epoch = $12::bigint AND r.renewal = $13::bigint
          AND r.system = $14::bigint AND r.timeline = $15::bigint
    RETURNING 1)
{_OUTCOME}
"""

FIRST_TAKE_OVER: Final = f"""{_GRANT}
     taken AS (
       INSERT INTO {{schema}}.lease AS r (lock_id, epoch, renewal, program, node, instance, system, timeline,
              backend_pid, backend_start, acquired_at, expires_at{{insert_trusted}})
       SELECT $1::bigint, $5::bigint, 1, $6::text, $7::text, $8::uuid, j.system, j.timeline,
              pg_backend_pid(), $9::bigint, clock_timestamp(), clock_timestamp() + {_ASKED}{{trusted_value}}
         FROM judged AS j
           ON CONFLICT DO NOTHING
    RETURNING 1)
{_OUTCOME}
"""

# Before a takeover, in a commit of its own: it changes no key column, so that no assert_leader holds it up, and from
# then on that function refuses the lapsed epoch. Parameters: 1 lock id; the version judged, 2 epoch, 3 renewal,
# 4 system, 5 timeline; the server, 6 system, 7 timeline, 8 place. It never writes system or timeline.
CLOSE: Final = f"""
UPDATE {{schema}}.lease AS r
   SET renewal = r.renewal + 1, released_at = clock_timestamp(), reason = 'lapsed',
       reserved_for = NULL, reserved_seconds = NULL
  FROM {{schema}}.meta AS m
 WHERE r.lock_id = $1::bigint AND r.epoch = $2::bigint AND r.renewal = $3::bigint
   AND r.system = $4::bigint AND r.timeline = $5::bigint AND r.released_at IS NULL
   AND {_SYSTEM} = $6::bigint AND {_TIMELINE} = $7::bigint AND {{place}} = $8::text AND {{usable}}
   AND NOT pg_is_in_recovery()
"""

_OURS = "r.lock_id = $1::bigint AND r.epoch = $2::bigint AND r.instance = $3::uuid AND r.released_at IS NULL"
_PROLONGED = f"""renewal = r.renewal + 1, expires_at = clock_timestamp() + {_ASKED}, {{set_trusted}}
       system = {_SYSTEM}, timeline = {_TIMELINE}"""
_LENGTHS = "extract(epoch FROM {wanted}), extract(epoch FROM m.lease), m.version, {compatible_from}"

# Parameters of both: 1 lock id, 2 epoch, 3 instance, 4 lease asked for.
RENEW: Final = f"""
UPDATE {{schema}}.lease AS r
   SET {_PROLONGED}
  FROM {{schema}}.meta AS m WHERE {_OURS} AND {_ASKED} <= {{ceiling}}
RETURNING {_LENGTHS}
"""

# 5 backend start, 6 lock id of the program's name.
REATTACH: Final = f"""
WITH name AS MATERIALIZED (SELECT pg_try_advisory_lock($6::bigint) AS granted),
     lock AS MATERIALIZED (SELECT CASE WHEN granted THEN pg_try_advisory_lock($1::bigint) END AS granted FROM name),
     renewed AS (
       UPDATE {{schema}}.lease AS r
          SET {_PROLONGED}, backend_pid = pg_backend_pid(), backend_start = $5::bigint
         FROM lock AS l, {{schema}}.meta AS m WHERE l.granted AND {_OURS} AND {_ASKED} <= {{ceiling}}
    RETURNING 1)
SELECT {_LENGTHS}, lock.granted, (SELECT count(*) FROM renewed) FROM lock, {{schema}}.meta AS m
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
UPDATE {{schema}}.lease AS r
   SET renewal = r.renewal + 1, released_at = clock_timestamp(), expires_at = clock_timestamp(),
       reason = $4::text, reserved_for = $5::text, reserved_seconds = $6::double precision
 WHERE {_OURS}
"""
UNLOCK: Final = "SELECT pg_advisory_unlock_all()"
NOTIFY: Final = "SELECT pg_notify($1::text, $2::text)"

# History is for people, and can hold nothing up: statements of its own, after what they tell of. Parameters of both:
# 1 lock id, 2 epoch. A term that lapsed ends, at the latest, with the beginning of the next.
BEGIN_TERM: Final = """
WITH begun AS (SELECT * FROM {schema}.lease WHERE lock_id = $1::bigint AND epoch = $2::bigint),
     lapsed AS (
       UPDATE {schema}.term AS t SET ended_at = b.acquired_at, reason = 'lapsed'
         FROM begun AS b WHERE t.lock_id = $1::bigint AND t.epoch < $2::bigint AND t.ended_at IS NULL)
INSERT INTO {schema}.term (lock_id, epoch, program, node, acquired_at)
SELECT lock_id, epoch, program, node, acquired_at FROM begun ON CONFLICT DO NOTHING
"""
# 3 reason. The next term may have begun already, and have called this one lapsed.
END_TERM: Final = """
UPDATE {schema}.term AS t
   SET reason = $3::text,
       ended_at = coalesce(
         (SELECT r.released_at FROM {schema}.lease AS r WHERE r.lock_id = $1::bigint AND r.epoch = $2::bigint),
         (SELECT min(n.acquired_at) FROM {schema}.term AS n WHERE n.lock_id = $1::bigint AND n.epoch > $2::bigint),
         clock_timestamp())
 WHERE t.lock_id = $1::bigint AND t.epoch = $2::bigint AND (t.ended_at IS NULL OR t.reason = 'lapsed')
"""

# The last 90 days, and the last 1,000 terms whatever their age, but never more than 10,000 of one lock id.
PRUNE: Final = """
DELETE FROM {schema}.term AS t
 WHERE (t.lock_id, t.epoch) IN (
       SELECT o.lock_id, o.epoch FROM {schema}.term AS o
        WHERE o.lock_id = $1::bigint AND (
              o.epoch < (SELECT epoch FROM {schema}.term WHERE lock_id = $1::bigint
                          ORDER BY epoch DESC OFFSET 999 LIMIT 1)
              AND o.ended_at < clock_timestamp() - interval '90 days'
           OR o.epoch < (SELECT epoch FROM {schema}.term WHERE lock_id = $1::bigint
                          ORDER BY epoch DESC OFFSET 9999 LIMIT 1))
        ORDER BY o.epoch LIMIT 1000)
"""

# Parameters: what was waited for, 1 system, 2 timeline, 3 place; 4 the upper half of the highest epoch known to us.
# Epochs begin above that one: a server that was restored knows nothing of those that were given since its backup, and
# its timeline may be one that there was before.
SETTLE: Final = f"""
UPDATE {{schema}}.meta AS m
   SET settled_system = $1::bigint, settled_timeline = $2::bigint, {{set_settled}}
       offsets = m.offsets || jsonb_build_object($1::text, CASE WHEN m.offsets ? $1::text AND {{same_place}}
                   THEN greatest((m.offsets ->> $1::text)::bigint, $4::bigint + 2 - $2::bigint)
                   ELSE greatest($4::bigint, (SELECT max(epoch >> 32) FROM {{schema}}.lease), -1) + 1 END)
 WHERE {_SYSTEM} = $1::bigint AND {_TIMELINE} = $2::bigint AND {{place}} = $3::text AND NOT pg_is_in_recovery()
"""
# For a server that this daemon has just created: nobody can have led on it.
SETTLE_FRESH: Final = f"""
UPDATE {{schema}}.meta AS m
   SET settled_system = {_SYSTEM}, settled_timeline = {_TIMELINE}, settled_place = {{place}}
 WHERE settled_system IS NULL
"""
# Parameters: 1 system, 2 timeline. What it holds was restored or overwritten, so that everybody waits once more.
UNSETTLE: Final = """
UPDATE {schema}.meta SET settled_system = NULL, settled_timeline = NULL
 WHERE (settled_system, settled_timeline) = ($1::bigint, $2::bigint)
"""

SURVEY: Final = """
SELECT r.lock_id, r.program, r.node, r.instance, r.epoch, r.renewal, r.released_at IS NULL,
       extract(epoch FROM {trusted_for}), r.system, r.timeline, pg_backend_pid()
  FROM {schema}.lease AS r, {schema}.meta AS m
"""
FACTS: Final = f"""
SELECT m.version, {{compatible_from}}, m.namespace, {{ledger_id}}, extract(epoch FROM m.lease),
       extract(epoch FROM {{ceiling}}), extract(epoch FROM {{wanted}}),
       {_SYSTEM}, {_TIMELINE}, {{place}},
       (m.settled_system, m.settled_timeline, {{settled_place}})
         IS NOT DISTINCT FROM ({_SYSTEM}, {_TIMELINE}, {{place}}),
       m.offsets, {{maintenance}}, pg_backend_pid()
  FROM {{schema}}.meta AS m
"""
BLOCKERS: Final = """
SELECT coalesce(string_agg(CASE WHEN pid = 0 THEN 'a prepared transaction (see pg_prepared_xacts)'
                                ELSE 'pid ' || pid END, ', '), '')
  FROM unnest(pg_blocking_pids($1::integer)) AS pid
"""
# Parameter: 1 lock ids. Each session that holds one of them, and whether its role could lead at all.
HOLDERS: Final = """
SELECT (l.classid::bigint << 32) | l.objid::bigint,
       CASE WHEN l.pid IS NULL THEN 'a prepared transaction (see pg_prepared_xacts)'
            ELSE format('pid %s (role %s, application %L)', l.pid, pg_get_userbyid(a.usesysid), a.application_name) END,
       coalesce(has_table_privilege(a.usesysid, {lease_table}::regclass, 'UPDATE'), false)
  FROM pg_locks AS l LEFT JOIN pg_stat_get_activity(NULL) AS a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (l.classid::bigint << 32) | l.objid::bigint = ANY ($1::bigint[])
 ORDER BY l.pid
"""
# Parameter: 1 seconds.
RAISE_CEILING: Final = """
UPDATE {schema}.meta SET ceiling = greatest(ceiling, make_interval(secs => $1::double precision))
"""
# A ceiling that somebody has just promised stays: maintenance is looked at, and so is each row.
LOWER_CEILING: Final = """
UPDATE {schema}.meta AS m
   SET ceiling = m.lease, maintenance_for = NULL, maintenance_lease = NULL, maintenance_since = NULL,
       maintenance_until = NULL, maintenance_by = NULL, maintenance_reason = NULL
 WHERE m.ceiling = make_interval(secs => $1::double precision) AND m.lease = make_interval(secs => $2::double precision)
   AND NOT coalesce(m.maintenance_until > clock_timestamp(), false)
   AND NOT EXISTS (SELECT 1 FROM {schema}.lease AS r WHERE r.released_at IS NULL AND r.trusted_for > m.lease)
"""
# Schema 1 had a function for it, which refuses while anything is led.
SET_LEASE_1: Final = "SELECT {schema}.set_lease(make_interval(secs => $1::double precision))"
# Parameters: 1 new and 2 present lease in seconds. What was looked at must still hold.
SET_LEASE: Final = """
UPDATE {schema}.meta SET lease = make_interval(secs => $1::double precision)
 WHERE ceiling >= make_interval(secs => $1::double precision) AND lease = make_interval(secs => $2::double precision)
   AND NOT coalesce(maintenance_until > clock_timestamp(), false)
"""
# Parameters: 1 outage, 2 its lease and 3 the ledger's present lease in seconds, 4 author, 5 reason.
BEGIN_MAINTENANCE: Final = """
UPDATE {schema}.meta
   SET maintenance_for = make_interval(secs => $1::double precision),
       maintenance_lease = make_interval(secs => $2::double precision), maintenance_since = clock_timestamp(),
       maintenance_until = clock_timestamp() + make_interval(secs => $1::double precision),
       maintenance_by = $4::text, maintenance_reason = $5::text
 WHERE ceiling >= make_interval(secs => $2::double precision) AND lease = make_interval(secs => $3::double precision)
"""
END_MAINTENANCE: Final = """
UPDATE {schema}.meta
   SET maintenance_for = NULL, maintenance_lease = NULL, maintenance_since = NULL, maintenance_until = NULL,
       maintenance_by = NULL, maintenance_reason = NULL
"""
INSERTED: Final = f"SELECT {_SYSTEM}, {_TIMELINE}, {_STARTED}, (pg_current_wal_insert_lsn() - '0/0')::bigint"
PROMOTABLE: Final = """state IS DISTINCT FROM 'backup'
       AND coalesce(application_name NOT IN ('pg_receivewal', 'pg_basebackup'), true)
       AND pid NOT IN (SELECT active_pid FROM pg_replication_slots
                        WHERE slot_type = 'logical' AND active_pid IS NOT NULL)"""
"""Which rows of pg_stat_replication may be promoted: backups and subscribers receive WAL, too, and never are."""
# Parameter: 1 the position, in bytes, that each standby must have on its disk. A walsender whose position is hidden
# from us, or a slot whose standby is away, is no evidence.
STANDBYS: Final = f"""
SELECT coalesce(nullif(application_name, ''), 'pid ' || pid), flush_lsn IS NULL,
       coalesce(flush_lsn - '0/0' >= $1::bigint, false)
  FROM pg_stat_replication WHERE {PROMOTABLE}
UNION ALL
SELECT 'slot ' || slot_name, false, coalesce(restart_lsn - '0/0' >= $1::bigint, false)
  FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active
"""
SYNCHRONOUS: Final = "SELECT current_setting('synchronous_standby_names')"

# What slows the ledger down or changes what is written to it: rows that nobody may clean up, because an old snapshot
# might still see them, and triggers of somebody else's.
HEALTH: Final = f"""
SELECT pg_stat_get_dead_tuples({{lease_table}}::regclass), (SELECT count(*) FROM {{schema}}.lease),
       (SELECT format('pid %s (%s)', pid, application_name) FROM pg_stat_get_activity(NULL)
         WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() ORDER BY age(backend_xmin) DESC LIMIT 1),
       (SELECT 'replication slot ' || slot_name FROM pg_replication_slots
         WHERE xmin IS NOT NULL ORDER BY age(xmin) DESC LIMIT 1),
       (SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts ORDER BY prepared LIMIT 1),
       (SELECT string_agg(tgname, ', ') FROM pg_trigger
         WHERE tgrelid IN ({{lease_table}}::regclass, {{meta_table}}::regclass) AND NOT tgisinternal
           AND tgname NOT IN ('refuse_delete', 'refuse_truncate')),
       (SELECT {_UNLOGGED} FROM {{schema}}.meta AS m)
"""

# The sessions of daemons that know schema 1 only. Anybody may take such a name, but only daemons write here.
_OLDER = """pg_stat_get_activity(NULL) AS a
         WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND a.application_name LIKE 'highlanderd/%'
           AND has_table_privilege(a.usesysid, {lease_table}::regclass, 'UPDATE')"""
OLDER_SESSIONS: Final = f"SELECT DISTINCT a.application_name FROM {_OLDER}"
# One after the other, whichever daemon does it; while an older daemon is connected it changes nothing. The lock comes
# before the question, so that a daemon that connects later reads the new version.
MIGRATE: Final = f"""
DO $highlanderd$
DECLARE
    old text;
BEGIN
    PERFORM set_config('lock_timeout', '100', true);  -- renewals queue behind it
    PERFORM pg_advisory_xact_lock(hashtextextended({{name}}, 0));
    LOCK TABLE {{schema}}.meta, {{schema}}.lease IN ACCESS EXCLUSIVE MODE;
    IF (SELECT version FROM {{schema}}.meta) = {{from}} THEN
        SELECT string_agg(DISTINCT a.application_name, ', ') INTO old FROM {_OLDER};
        IF old IS NOT NULL THEN
            RAISE EXCEPTION 'older daemons are connected: %', old USING ERRCODE = 'object_in_use';
        END IF;
        EXECUTE {{script}};
    END IF;
END
$highlanderd$
"""
# The same for an administrator, at the head of the printed transaction: it gives up rather than hold renewals up.
GUARD: Final = f"""
SET LOCAL lock_timeout = '200ms';
LOCK TABLE {{schema}}.meta, {{schema}}.lease IN ACCESS EXCLUSIVE MODE;
DO $highlanderd$
DECLARE
    old text;
BEGIN
    SELECT string_agg(DISTINCT a.application_name, ', ') INTO old FROM {_OLDER};
    IF old IS NOT NULL THEN
        RAISE EXCEPTION 'older daemons are connected: %', old
            USING ERRCODE = 'object_in_use', HINT = 'Upgrade them, or stop them, and run this again.';
    END IF;
END
$highlanderd$;
"""
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
