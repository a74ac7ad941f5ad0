"""Statements about scheduled times: which were skipped, and what a program's schedule is."""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import LATEST, NAMED, RFC_3339
from highlanderd.postgres.sql.leading import ENDED

# The first look at a schedule: no time before it counts. Parameters: 1 lock id, 2 program, 3 words, 4 the latest time.
FIRST_TIMETABLE: Final = """
INSERT INTO {schema}.schedule (lock_id, program, words, taken_up, latest)
VALUES ($1::bigint, $2::text, $3::text, clock_timestamp(), to_timestamp($4::bigint))
    ON CONFLICT DO NOTHING
"""

# Further parameters: 5 the version of the row that was judged; 6 what is skipped, as JSON; 7 node. No time is noted
# before it has come, unless it had come before the clock was set back.
CHANGE_TIMETABLE: Final = f"""
WITH changed AS (
       UPDATE {{schema}}.schedule AS s
          SET program = $2::text, words = $3::text, latest = to_timestamp($4::bigint),
              epoch = CASE WHEN {LATEST.format("s")} = $4::bigint THEN s.epoch END,
              taken_up = CASE WHEN s.words = $3::text THEN s.taken_up ELSE clock_timestamp() END
        WHERE s.lock_id = $1::bigint AND s.xmin::text = $5::text
          AND to_timestamp($4::bigint) <= greatest(clock_timestamp(), s.latest)
    RETURNING 1)
INSERT INTO {{schema}}.skipped (lock_id, program, first_at, last_at, times, reason, node)
SELECT $1::bigint, $2::text, to_timestamp(k.first), to_timestamp(k.last), k.count, k.reason, $7::text
  FROM changed, json_to_recordset($6::json) AS k (first bigint, last bigint, count integer, reason text)
"""

# Sent after CLOSE: what the history says of a term that lapsed, also where its node was lost before it could say that
# it had begun. Parameters: 1 lock id, 2 epoch.
LAPSED: Final = f"""
INSERT INTO {{schema}}.term AS t (lock_id, epoch, program, node, acquired_at, ended_at, reason{{begun_with}})
SELECT lock_id, epoch, program, node, acquired_at, {ENDED.format("begun")}, reason{{begun_values}}
  FROM {{schema}}.lease AS begun
 WHERE lock_id = $1::bigint AND epoch = $2::bigint AND reason = 'lapsed'
    ON CONFLICT (lock_id, epoch) DO UPDATE SET ended_at = excluded.ended_at, reason = excluded.reason
 WHERE t.ended_at IS NULL
"""

# Parameters: 1 lock ids, 2 the number of rows, the newest of all.
SKIPPED: Final = f"""
SELECT {NAMED.format("s.program")}, {RFC_3339.format("s.first_at")}, {RFC_3339.format("s.last_at")}, s.times,
       {NAMED.format("s.reason")}, {NAMED.format("s.node")}, {RFC_3339.format("s.recorded_at")}
  FROM (SELECT * FROM {{schema}}.skipped WHERE lock_id = ANY ($1::bigint[]) ORDER BY id DESC LIMIT $2::integer) AS s
 ORDER BY s.id
"""

# The newest 1,000 of each program stay for 90 days.
PRUNE_SKIPPED: Final = """
DELETE FROM {schema}.skipped
 WHERE id IN (SELECT id FROM (SELECT id, recorded_at, row_number() OVER (PARTITION BY lock_id ORDER BY id DESC) AS nth
                                FROM {schema}.skipped) AS s
               WHERE nth > 1000 OR recorded_at < clock_timestamp() - interval '90 days'
               ORDER BY id LIMIT 10000)
"""
