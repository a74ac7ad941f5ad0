"""Statements of the listening session: survey the ledger, migrate and prune it, and find what holds it up."""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import SERVER_START, SYSTEM, TIMELINE, UNLOGGED

ALWAYS_KEPT: Final = 1000
"""The latest terms of a lock id that are kept whatever their age."""
MOST_KEPT: Final = 10_000
"""The terms of a lock id that are kept at most, however many there were in 90 days."""

PRUNE: Final = f"""
DELETE FROM {{schema}}.term AS t
 WHERE (t.lock_id, t.epoch) IN (
       SELECT o.lock_id, o.epoch FROM {{schema}}.term AS o
        WHERE o.lock_id = $1::bigint AND (
              o.epoch < (SELECT epoch FROM {{schema}}.term WHERE lock_id = $1::bigint
                          ORDER BY epoch DESC OFFSET {ALWAYS_KEPT - 1} LIMIT 1)
              AND o.ended_at < clock_timestamp() - interval '90 days'
           OR o.epoch < (SELECT epoch FROM {{schema}}.term WHERE lock_id = $1::bigint
                          ORDER BY epoch DESC OFFSET {MOST_KEPT - 1} LIMIT 1))
        ORDER BY o.epoch LIMIT 1000)
"""

# One row: the server that shows it, and all rows of leases, as ``survey.py`` decodes them. A survey counts as having
# seen these versions there. JSON has no infinity, so what is longer than any lease is cut.
SURVEY: Final = f"""
SELECT {SYSTEM}, {TIMELINE}, {SERVER_START}, (pg_current_wal_lsn() - '0/0')::bigint, {{place}},
       (SELECT json_agg(json_build_array(r.lock_id, json_build_array(
               r.node, r.instance, r.epoch, r.renewal, r.released_at IS NULL, r.program,
               least(greatest(extract(epoch FROM {{trusted_for}}), -1e9), 1e9), r.system, r.timeline)))
          FROM {{schema}}.lease AS r),
       pg_backend_pid()
  FROM {{schema}}.meta AS m
"""

FACTS: Final = f"""
SELECT m.version, {{compatible_from}}, m.namespace, {{ledger_id}}, extract(epoch FROM m.lease),
       extract(epoch FROM {{ceiling}}), extract(epoch FROM {{wanted}}),
       {SYSTEM}, {TIMELINE}, {{place}},
       (m.settled_system, m.settled_timeline, {{settled_place}})
         IS NOT DISTINCT FROM ({SYSTEM}, {TIMELINE}, {{place}}),
       m.offsets, {{maintenance}}, pg_backend_pid()
  FROM {{schema}}.meta AS m
"""

BLOCKERS: Final = """
SELECT coalesce(string_agg(CASE WHEN pid = 0 THEN 'a prepared transaction (see pg_prepared_xacts)'
                                ELSE 'pid ' || pid END, ', '), '')
  FROM unnest(pg_blocking_pids($1::integer)) AS pid
"""

# Parameters: the advisory locks, 1 their numbers and 2 their spaces. Returns each session that holds one of them, and
# whether its role could lead at all.
HOLDERS: Final = """
SELECT (l.classid::bigint << 32) | l.objid::bigint,
       CASE WHEN l.pid IS NULL THEN 'a prepared transaction (see pg_prepared_xacts)'
            ELSE format('pid %s (role %s, application %L%s)', l.pid, pg_get_userbyid(a.usesysid), a.application_name,
                        ', client ' || host(a.client_addr)) END,
       coalesce(has_table_privilege(a.usesysid, {lease_table}::regclass, 'UPDATE'), false)
  FROM pg_locks AS l LEFT JOIN pg_stat_get_activity(NULL) AS a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND ((l.classid::bigint << 32) | l.objid::bigint, l.objsubid) IN (
       SELECT * FROM unnest($1::bigint[], $2::smallint[]))
 ORDER BY l.pid
"""

# Finds what slows the ledger down or changes what is written to it: dead rows that VACUUM must keep, because an old
# snapshot might still see them, and triggers that highlanderd did not create.
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
       (SELECT {UNLOGGED} FROM {{schema}}.meta AS m)
"""

# The sessions of daemons that know schema 1 only. Any client may take such a name, but only daemons may write here.
_OLDER = """pg_stat_get_activity(NULL) AS a
         WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND a.application_name LIKE 'highlanderd/%'
           AND has_table_privilege(a.usesysid, {lease_table}::regclass, 'UPDATE')"""

OLDER_SESSIONS: Final = f"SELECT DISTINCT a.application_name FROM {_OLDER}"

# Daemons migrate one after the other, and none does while an older daemon is connected. The lock comes before that
# question, so that a daemon that connects later reads the new version.
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

# The same question at the head of the transaction that an administrator runs. It gives up rather than hold renewals up.
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
