"""The statement about what the ledger remembers: terms and events, the newest last."""

from __future__ import annotations

from typing import Final

from highlanderd.core.occurrences import ENDED, LED
from highlanderd.postgres.sql.dialect import NAMED, RFC_3339, SAID

# Parameters: 1 the number of events, 2 the number of terms of each lock id that are looked at.
EVENTS: Final = f"""
WITH recent AS (
  SELECT t.* FROM {{schema}}.lease AS l
         CROSS JOIN LATERAL (SELECT * FROM {{schema}}.term AS o WHERE o.lock_id = l.lock_id
                              ORDER BY o.epoch DESC LIMIT $2::integer) AS t),
found AS (
  (SELECT at, event, node, program, epoch, NULL AS cause, NULL::integer AS exit_status, NULL AS exit_signal,
          author, reason, id
     FROM {{schema}}.event ORDER BY id DESC LIMIT $1::integer)
UNION ALL
  (SELECT acquired_at, '{LED}', node, program, epoch, NULL, NULL, NULL, NULL, NULL, 0
     FROM recent ORDER BY acquired_at DESC LIMIT $1::integer)
UNION ALL
  (SELECT ended_at, '{ENDED}', node, program, epoch, reason, exit_status, exit_signal, author, remark, 0
     FROM recent WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT $1::integer){{skips}})
SELECT {RFC_3339.format("at")}, {NAMED.format("event")}, {NAMED.format("node")}, {NAMED.format("program")}, epoch,
       {NAMED.format("cause")}, exit_status, {NAMED.format("exit_signal")}, {SAID.format("author")},
       {SAID.format("reason")}
  FROM (SELECT * FROM found ORDER BY at DESC LIMIT $1::integer) AS newest
 ORDER BY at, id, epoch
"""
