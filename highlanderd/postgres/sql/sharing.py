"""Statements about what the cluster shares, terms apart: who is there, what each node could lead, what is held back."""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import RFC_3339

# A crash of the server may lose what a daemon writes again within a lease: no commit waits for a disk or a standby.
_QUICK = "quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))"

# Parameters: 1 node, 2 instance, 3 version, 4 advertise, 5 when the daemon was started.
PRESENT: Final = f"""
WITH {_QUICK}
INSERT INTO {{schema}}.node AS n (name, instance, version, advertise, backend_pid, started, seen)
SELECT $1::text, $2::uuid, $3::text, $4::text, pg_backend_pid(), $5::timestamptz, clock_timestamp() FROM quick
    ON CONFLICT (name) DO UPDATE
   SET instance = excluded.instance, version = excluded.version, advertise = excluded.advertise,
       backend_pid = excluded.backend_pid, started = excluded.started, seen = excluded.seen
"""

_CANDIDATE = "program, lock_id, state, able, reason, ready, since, digests"

# Parameters: 1 node, 2 its candidates that have changed, as JSON.
CANDIDATES: Final = f"""
WITH {_QUICK}
INSERT INTO {{schema}}.candidate AS c (node, {_CANDIDATE})
SELECT $1::text, {_CANDIDATE}
  FROM quick, json_to_recordset($2::json) AS s (program text, lock_id bigint, state text, able boolean, reason text,
                                                ready boolean, since timestamptz, digests jsonb)
    ON CONFLICT (node, program) DO UPDATE
   SET lock_id = excluded.lock_id, state = excluded.state, able = excluded.able, reason = excluded.reason,
       ready = excluded.ready, since = excluded.since, digests = excluded.digests
"""

# Parameters: 1 node, 2 the names of all its programs, as JSON.
REMOVED: Final = """
DELETE FROM {schema}.candidate
 WHERE node = $1::text AND NOT program = ANY (ARRAY(SELECT json_array_elements_text($2::json)))
"""

# A daemon is there as long as its listening session lives. The pid says which one that is; every role sees both.
NODES: Final = f"""
SELECT n.name, n.instance, n.version, {RFC_3339.format("n.seen")}, n.advertise, n.drained_by, n.drained_reason,
       {RFC_3339.format("n.drained_since")},
       n.backend_pid IS NOT NULL AND EXISTS (
         SELECT 1 FROM pg_stat_get_activity(n.backend_pid) AS a
          WHERE a.application_name LIKE 'highlander/%' AND split_part(a.application_name, '/', 3) = left(n.name, 50)),
       extract(epoch FROM clock_timestamp() - n.seen)
  FROM {{schema}}.node AS n
"""

STANDING: Final = f"""
SELECT node, program, lock_id, state, able, reason, ready, {RFC_3339.format("since")}, digests FROM {{schema}}.candidate
"""

# A term whose lease has run out is over for people, whether or not another node has closed it.
LEADS: Final = f"""
SELECT program, lock_id, node, epoch, {RFC_3339.format("acquired_at")},
       released_at IS NULL AND expires_at > clock_timestamp()
  FROM {{schema}}.lease
"""

STOPPED: Final = f"SELECT lock_id, author, reason, {RFC_3339.format('since')} FROM {{schema}}.wish"
