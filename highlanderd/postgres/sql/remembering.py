"""Statements about what the ledger remembers: terms and events, the newest last."""

from __future__ import annotations

from typing import Final

from highlanderd.core.occurrences import ENDED, LED
from highlanderd.postgres.sql import leading, upkeep
from highlanderd.postgres.sql.dialect import NAMED, RFC_3339, SAID

# The next leader writes that a term is over. The former leader writes how, by whom and why, a moment later. The end
# counts as an event from that moment on, so that a follower is told of it once.
_TOLD = """(coalesce(exit_signal, exit_status::text, author) IS NOT NULL
            OR ended_at < clock_timestamp() - interval '2 seconds')"""

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
     FROM recent WHERE ended_at IS NOT NULL AND {_TOLD} ORDER BY ended_at DESC LIMIT $1::integer){{skips}})
SELECT {RFC_3339.format("at")}, {NAMED.format("event")}, {NAMED.format("node")}, {NAMED.format("program")}, epoch,
       {NAMED.format("cause")}, exit_status, {NAMED.format("exit_signal")}, {SAID.format("author")},
       {SAID.format("reason")}
  FROM (SELECT * FROM found ORDER BY at DESC LIMIT $1::integer) AS newest
 ORDER BY at, id, epoch
"""

# Nothing waits for the history, so it may lack the latest term of a lock id, or its end: then the row tells of them.
_OVER = "(r.released_at IS NOT NULL OR r.expires_at <= clock_timestamp())"

# Parameters: 1 lock ids, 2 the number of terms. The newest of all these lock ids, each with the term before it, and
# whether none before it can have been pruned.
HISTORY: Final = f"""
SELECT {NAMED.format("t.program")}, t.epoch, {NAMED.format("t.node")},
       {RFC_3339.format("t.acquired_at")},
       {RFC_3339.format("t.over")},
       extract(epoch FROM coalesce(t.over, clock_timestamp()) - t.acquired_at), {NAMED.format("t.cause")},
       f.epoch, {NAMED.format("f.node")}, {NAMED.format("f.reason")},
       extract(epoch FROM t.acquired_at - coalesce(f.ended_at, CASE WHEN NOT t.written THEN t.acquired_at END)),
       {{told}}, {{scheduled_at}}, {{late}}, {{former_scheduled_at}},
       f.epoch IS NULL AND NOT EXISTS (SELECT FROM {{schema}}.term AS o
                                        WHERE o.lock_id = t.lock_id OFFSET {upkeep.ALWAYS_KEPT - 1})
  FROM (SELECT n.*,
               coalesce(n.ended_at, CASE WHEN {_OVER} THEN {leading.ENDED.format("r")} END) AS over,
               coalesce(n.reason, CASE WHEN r.released_at IS NOT NULL THEN r.reason WHEN {_OVER} THEN 'lapsed' END)
                 AS cause
          FROM unnest($1::bigint[]) AS id
               CROSS JOIN LATERAL (
                 (SELECT o.*, true AS written FROM {{schema}}.term AS o WHERE o.lock_id = id
                   ORDER BY o.epoch DESC LIMIT $2::integer)
                 UNION ALL
                 SELECT (jsonb_populate_record(NULL::{{schema}}.term, to_jsonb(l))).*, false FROM {{schema}}.lease AS l
                  WHERE l.lock_id = id AND NOT EXISTS (SELECT FROM {{schema}}.term AS o
                                                        WHERE o.lock_id = l.lock_id AND o.epoch = l.epoch)) AS n
               LEFT JOIN {{schema}}.lease AS r ON r.lock_id = n.lock_id AND r.epoch = n.epoch
         ORDER BY n.acquired_at DESC, n.lock_id, n.epoch DESC LIMIT $2::integer) AS t
       LEFT JOIN LATERAL (SELECT * FROM {{schema}}.term AS o WHERE o.lock_id = t.lock_id AND o.epoch < t.epoch
                           ORDER BY o.epoch DESC LIMIT 1) AS f ON true
 ORDER BY t.acquired_at, t.lock_id, t.epoch
"""
