"""Statements about what the cluster shares, terms apart: who is there, what each node could lead, what is held back."""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import DRAINED, NAMED, ORDERED_BY, RFC_3339, SAID, SERVER_START, STOPPED

ORDERED: Final = "ordered"
"""What is notified, instead of a lock id, when an order was written: each daemon looks whether it concerns its node."""

LED: Final = "led "
"""What is notified, with a lock id, when a term begins after one that was given up by order: the former leader has
others to give up."""

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

# Parameters: 1 node, which never comes back, 2 instance: in two containers, the process ids of two runs may be equal.
WITHDRAWN: Final = """
WITH gone AS (DELETE FROM {schema}.node WHERE name = $1::text AND instance = $2::uuid RETURNING name)
DELETE FROM {schema}.candidate AS c USING gone WHERE c.node = gone.name
"""

# The sessions of daemons that know schema 2 only.
_OF_SCHEMA_2 = """
  FROM pg_stat_get_activity(NULL) AS a
 WHERE a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND a.application_name LIKE 'highlander/2/%'"""

# A daemon is there as long as its listening session lives. The pid says which one that is; every role sees both.
_CONNECTED = """n.backend_pid IS NOT NULL AND EXISTS (
         SELECT 1 FROM pg_stat_get_activity(n.backend_pid) AS a
          WHERE a.application_name LIKE 'highlander/%' AND split_part(a.application_name, '/', 3) = left(n.name, 50))"""

# The daemons of schema 2 write no row: the names of their sessions are all that is known of them.
NODES: Final = f"""
SELECT {NAMED.format("n.name")}, n.instance, {NAMED.format("n.version")}, {RFC_3339.format("n.seen")},
       {SAID.format("n.advertise")}, {SAID.format("n.drained_by")},
       {SAID.format("n.drained_reason")},
       {RFC_3339.format("n.drained_since")},
       {_CONNECTED},
       extract(epoch FROM clock_timestamp() - n.seen)
  FROM {{schema}}.node AS n
UNION ALL
SELECT DISTINCT split_part(a.application_name, '/', 3), NULL::uuid, NULL, NULL, NULL, NULL, NULL, NULL, true, 0
{_OF_SCHEMA_2}
   AND has_table_privilege(a.usesysid, {{lease_table}}::regclass, 'UPDATE')
   AND NOT EXISTS (SELECT FROM {{schema}}.node AS n WHERE left(n.name, 50) = split_part(a.application_name, '/', 3))
"""

STANDING: Final = f"""
SELECT {NAMED.format("node")}, {NAMED.format("program")}, lock_id, {NAMED.format("state")}, able,
       {SAID.format("reason")}, ready, {RFC_3339.format("since")},
       CASE WHEN length(digests::text) <= 65536 THEN digests END
  FROM {{schema}}.candidate
"""

# A term whose lease has run out is over for people, whether or not another node has closed it.
_LED = "released_at IS NULL AND expires_at > clock_timestamp()"
LEADS: Final = f"""
SELECT {NAMED.format("program")}, lock_id, {NAMED.format("node")}, epoch, {RFC_3339.format("acquired_at")}, {_LED}
  FROM {{schema}}.lease
"""

# One row: two texts, of which the first changes with what STANDING shows, and the second with what LEADS shows. A
# renewal changes neither. Both are those of one session alone: a server that has crashed may give a transaction's
# number to another one.
SHOWN: Final = f"""
SELECT concat_ws('/', s.session, (SELECT concat_ws('/', count(*), sum(hashtextextended(xmin::text || ctid::text, 0)))
                                    FROM {{schema}}.candidate)),
       concat_ws('/', s.session, (SELECT concat_ws('/', count(*), sum(hash_record_extended(
                                           ROW(lock_id, program, node, epoch, acquired_at, {_LED}), 0)))
                                    FROM {{schema}}.lease))
  FROM (SELECT concat_ws('/', {SERVER_START}, pg_backend_pid()) AS session) AS s
"""

# Parameter: 1 node. The programs of other nodes, and since when they are what they are: those which each waits for and
# could lead, and the rest.
PEERS: Final = f"""
SELECT n.name, json_object_agg(c.program, c.since) FILTER (WHERE c.waits),
       json_object_agg(c.program, c.since) FILTER (WHERE NOT c.waits)
  FROM {{schema}}.node AS n
  JOIN (SELECT node, program, extract(epoch FROM since)::text AS since, able AND state = 'waiting' AS waits
          FROM {{schema}}.candidate) AS c ON c.node = n.name
 WHERE n.drained_since IS NULL AND n.name <> $1::text AND {_CONNECTED}
 GROUP BY n.name
"""

# The programs that are ready somewhere; and those that have finished, with how, as far as the history says it.
UP: Final = f"""
SELECT c.program, true, NULL, NULL
  FROM {{schema}}.node AS n JOIN {{schema}}.candidate AS c ON c.node = n.name
 WHERE c.ready AND c.state = 'leading' AND {_CONNECTED}
UNION ALL
SELECT r.program, false, to_jsonb(t) ->> 'exit_status', to_jsonb(t) ->> 'exit_signal'
  FROM {{schema}}.lease AS r LEFT JOIN {{schema}}.term AS t ON t.lock_id = r.lock_id AND t.epoch = r.epoch
 WHERE r.released_at IS NOT NULL AND r.reason = 'finished'
"""

KNOWN: Final = "SELECT left(program, 100), lock_id FROM {schema}.lease"

WISHES: Final = f"""
SELECT w.lock_id, {ORDERED_BY}, {SAID.format("w.reason")}, {RFC_3339.format("w.since")} FROM {{schema}}.wish AS w
"""

# Parameter: 1 node. What keeps programs from being led on it, by lock id; NULL for all of them.
SUSPENSIONS: Final = f"""
SELECT w.lock_id, {STOPPED} FROM {{schema}}.wish AS w
UNION ALL
SELECT NULL, {DRAINED} FROM {{schema}}.node AS n WHERE n.name = $1::text AND n.drained_since IS NOT NULL
"""

# Parameters: 1 lock id, 2 node. What keeps that program from being led on that node.
SUSPENSION: Final = f"""
SELECT coalesce((SELECT {STOPPED} FROM {{schema}}.wish AS w WHERE w.lock_id = $1::bigint),
                (SELECT {DRAINED} FROM {{schema}}.node AS n WHERE n.name = $2::text AND n.drained_since IS NOT NULL))
"""

# Parameters: 1 lock ids, 2 their programs as JSON, 3 author, 4 reason. The latest order is the one that is shown.
STOP_EVERYWHERE: Final = """
INSERT INTO {schema}.wish (lock_id, program, author, reason)
SELECT id, program, $3::text, $4::text
  FROM unnest($1::bigint[], ARRAY(SELECT json_array_elements_text($2::json))) AS t (id, program)
    ON CONFLICT (lock_id) DO UPDATE
   SET author = excluded.author, reason = excluded.reason, role = excluded.role, since = clock_timestamp()
"""

# Parameter: 1 lock ids.
START_EVERYWHERE: Final = "DELETE FROM {schema}.wish WHERE lock_id = ANY ($1::bigint[])"

# Parameters: 1 node, 2 author, 3 reason. A node may be drained whose daemon was never seen.
DRAIN: Final = """
INSERT INTO {schema}.node AS n (name, drained_since, drained_by, drained_reason)
VALUES ($1::text, clock_timestamp(), $2::text || ', role ' || session_user, $3::text)
    ON CONFLICT (name) DO UPDATE
   SET drained_since = excluded.drained_since, drained_by = excluded.drained_by,
       drained_reason = excluded.drained_reason
RETURNING n.drained_since::text, (SELECT json_build_array(o.drained_since, o.drained_by, o.drained_reason)
                                    FROM {schema}.node AS o WHERE o.name = n.name AND o.drained_since IS NOT NULL)
"""

# Parameters: 1 node; as they came with DRAIN, 2 since when that order drains it, 3 the order that stood before. One
# that was given since is left alone.
TAKE_DRAIN_BACK: Final = """
WITH unseen AS (DELETE FROM {schema}.node
                 WHERE name = $1::text AND drained_since = $2::timestamptz AND instance IS NULL AND $3::json IS NULL)
UPDATE {schema}.node
   SET drained_since = ($3::json ->> 0)::timestamptz, drained_by = $3::json ->> 1, drained_reason = $3::json ->> 2
 WHERE name = $1::text AND drained_since = $2::timestamptz AND (instance IS NOT NULL OR $3::json IS NOT NULL)
"""

# Parameter: 1 node. A row that was made by the drain alone says nothing afterwards.
RESUME: Final = """
WITH unseen AS (DELETE FROM {schema}.node WHERE name = $1::text AND instance IS NULL RETURNING 1),
     seen AS (
       UPDATE {schema}.node SET drained_since = NULL, drained_by = NULL, drained_reason = NULL
        WHERE name = $1::text AND drained_since IS NOT NULL AND instance IS NOT NULL
    RETURNING 1)
SELECT (SELECT count(*) FROM unseen) + (SELECT count(*) FROM seen)
"""

# Parameters: 1 event, 2 node, 3 program, 4 lock id, 5 author, 6 reason.
NOTE_EVENT: Final = """
INSERT INTO {schema}.event (event, node, program, lock_id, author, reason)
VALUES ($1::text, $2::text, $3::text, $4::bigint, $5::text, $6::text)
"""

# The same parameters. Of an order that the ledger itself holds: the role that has written it is seen by the server.
NOTE_ORDER: Final = NOTE_EVENT.replace("$5::text", "$5::text || ', role ' || session_user")

ANSWERED: Final = "answered/"
"""What is notified when an order was answered, with the order's number."""

# Parameters: 1 node, 2 verb, 3 program, 4 arguments, 5 author, 6 reason, 7 seconds until nobody may take it any more.
COMMAND: Final = """
INSERT INTO {schema}.command (node, verb, program, arguments, author, reason, deadline)
VALUES ($1::text, $2::text, $3::text, $4::jsonb, $5::text, $6::text,
        clock_timestamp() + make_interval(secs => $7::double precision))
RETURNING id
"""

# Parameters: 1 node, 2 instance. Each order is taken at most once, whatever becomes of the daemon that took it. Longer
# arguments than a request to the control socket may have come as null, which is refused.
TAKE_COMMAND: Final = f"""
UPDATE {{schema}}.command AS c SET taken_by = $2::uuid
 WHERE c.id = (SELECT o.id FROM {{schema}}.command AS o
                WHERE o.node = $1::text AND o.taken_by IS NULL AND o.deadline > clock_timestamp()
                ORDER BY o.id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING c.id, left(c.verb, 100), left(c.program, 100),
          CASE WHEN length(c.arguments::text) <= 65536 THEN c.arguments ELSE 'null' END,
          {SAID.format("c.author")}, c.role, {SAID.format("c.reason")}
"""

# Parameters: 1 number, 2 answer.
ANSWER_COMMAND: Final = """
UPDATE {schema}.command SET answered = clock_timestamp(), answer = $2::jsonb WHERE id = $1::bigint
"""

# Parameters: 1 node, 2 instance, 3 answer. An earlier worker of this daemon has taken these orders.
ANSWER_INHERITED: Final = """
UPDATE {schema}.command SET answered = clock_timestamp(), answer = $3::jsonb
 WHERE node = $1::text AND taken_by = $2::uuid AND answered IS NULL
"""

# Parameter of both: 1 number. Lines of programs do not stay in the ledger once they were read.
ANSWER_OF: Final = """
WITH read AS (DELETE FROM {schema}.command
               WHERE id = $1::bigint AND answered IS NOT NULL AND verb = 'logs' RETURNING answer)
SELECT answer FROM read
UNION ALL
SELECT answer FROM {schema}.command WHERE id = $1::bigint AND answered IS NOT NULL AND verb <> 'logs'
"""
WITHDRAW: Final = "DELETE FROM {schema}.command WHERE id = $1::bigint AND taken_by IS NULL"

# The nodes of daemons that know schema 2 only: they would not heed what keeps programs from being led.
UNAWARE: Final = f"SELECT DISTINCT split_part(a.application_name, '/', 3){_OF_SCHEMA_2}"

# What was ordered is of no use after a day, and an order that was never taken after a minute. The newest 10,000 stay at
# most: who may order may write as many as they like.
_PRUNE_COMMANDS = """
DELETE FROM {schema}.command
 WHERE id IN (SELECT id FROM {schema}.command
               WHERE deadline < clock_timestamp() - interval '1 minute'
                 AND (taken_by IS NULL OR deadline < clock_timestamp() - interval '1 day'
                      OR id <= (SELECT max(id) FROM {schema}.command) - 10000)
               ORDER BY id LIMIT 10000)
"""
_PRUNE_EVENTS = """
DELETE FROM {schema}.event
 WHERE id IN (SELECT id FROM {schema}.event
               WHERE at < clock_timestamp() - interval '90 days'
                  OR id <= (SELECT max(id) FROM {schema}.event) - 10000
               ORDER BY id LIMIT 10000)
"""
# A daemon that comes back writes its row anew. The order that drains a node is kept until it is lifted. The node of a
# run that was killed, ``web-1.run-4711``, does not come back.
_FORGET = f"""
WITH gone AS (DELETE FROM {{schema}}.node AS n
               WHERE (n.seen < clock_timestamp() - interval '7 days' AND n.drained_since IS NULL
                      OR n.seen < clock_timestamp() - interval '1 hour' AND n.name ~ '[.]run-[0-9]+$')
                 AND NOT ({_CONNECTED})
           RETURNING n.name)
DELETE FROM {{schema}}.candidate AS c USING gone WHERE c.node = gone.name
"""
TIDY: Final = {"prune_commands": _PRUNE_COMMANDS, "prune_events": _PRUNE_EVENTS, "forget": _FORGET}
"""What keeps these tables small, by name of the statement."""
