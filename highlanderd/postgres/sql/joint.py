"""Statements for many programs whose locks one session holds, or takes back for them."""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import ASKED
from highlanderd.postgres.sql.leading import LENGTHS, PROLONGED

_OURS = "r.lock_id = l.lock_id AND r.epoch = l.epoch AND r.instance = $3::uuid AND r.released_at IS NULL"

# RENEW for the programs whose locks this session holds already, and REATTACH for the others. For each of them all of
# it happens, or nothing: a lock that was granted here, to a program whose row was not renewed, is free again
# afterwards. It waits for nobody: a row that another transaction has locked is left out. Each row is looked up by its
# key, whatever the statistics say.
# Parameters: 1 lock ids, 2 epochs; 3 instance, 4 lease of all, 5 when the backend identified itself; 6 lock ids of the
# programs' names, 7 and 8 the pairs, 9 which of them are held. Behind the lengths come the lock ids that were granted,
# those whose rows were renewed, those whose rows are ours as far as the statement sees, and whether all is free again.
HOLD_MANY: Final = f"""
WITH named AS MATERIALIZED (
       SELECT a.*, CASE WHEN a.held THEN true ELSE pg_try_advisory_lock(a.name) END AS named
         FROM unnest($1::bigint[], $2::bigint[], $6::bigint[], $7::integer[], $8::integer[], $9::boolean[])
                AS a(lock_id, epoch, name, first, second, held)),
     locked AS MATERIALIZED (
       SELECT n.*, CASE WHEN n.held OR NOT n.named THEN n.held
                        WHEN n.first IS NULL THEN pg_try_advisory_lock(n.lock_id)
                        ELSE pg_try_advisory_lock(n.first, n.second) END AS granted FROM named AS n),
     ours AS MATERIALIZED (
       SELECT l.lock_id, l.epoch
         FROM {{schema}}.meta AS m CROSS JOIN locked AS l
        CROSS JOIN LATERAL (SELECT FROM {{schema}}.lease AS r WHERE {_OURS} FOR NO KEY UPDATE OF r SKIP LOCKED) AS r
        WHERE l.granted AND {ASKED} <= {{ceiling}}),
     renewed AS (
       UPDATE {{schema}}.lease AS r
          SET {PROLONGED}, backend_pid = pg_backend_pid(), backend_start = $5::bigint
         FROM ours AS l WHERE {_OURS}
    RETURNING r.lock_id),
     freed AS MATERIALIZED (
       SELECT pg_advisory_unlock(l.name)
              AND CASE WHEN NOT l.granted THEN true WHEN l.first IS NULL THEN pg_advisory_unlock(l.lock_id)
                       ELSE pg_advisory_unlock(l.first, l.second) END AS free
         FROM locked AS l LEFT JOIN renewed AS w ON w.lock_id = l.lock_id
        WHERE w.lock_id IS NULL AND l.named AND NOT l.held)
SELECT {LENGTHS},
       (SELECT json_agg(lock_id) FROM locked WHERE granted), (SELECT json_agg(lock_id) FROM renewed),
       (SELECT json_agg(l.lock_id) FROM locked AS l
         CROSS JOIN LATERAL (SELECT FROM {{schema}}.lease AS r WHERE {_OURS}) AS r),
       (SELECT bool_and(free) FROM freed) IS NOT FALSE
  FROM {{schema}}.meta AS m
"""

# Parameters: 1 lock id, 2 and 3 the pair, 4 lock id of the program's name.
UNLOCK_ONE: Final = """
SELECT CASE WHEN $2::integer IS NULL THEN pg_advisory_unlock($1::bigint)
            ELSE pg_advisory_unlock($2::integer, $3::integer) END,
       pg_advisory_unlock($4::bigint)
"""
