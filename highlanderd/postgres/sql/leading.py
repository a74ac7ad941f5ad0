"""Statements of the life of a term: look, settle, take over, renew, reattach, release, and its lines in the history.

Each changes one row or none, is committed by its own Sync, and leaves something safe behind when the next one never
arrives. The history is for people: its statements come last, and nothing waits for them.
"""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import ASKED, LATEST, SERVER_START, SYSTEM, TIMELINE

# Parameters: 1 lock id, 2 program, 3 node. WHOSE is what is asked for: rows of lock id and program.
_LOOK = f"""
SELECT {SYSTEM}, {TIMELINE}, {SERVER_START}, (pg_current_wal_lsn() - '0/0')::bigint, {{place}},
       m.version, {{compatible_from}}, extract(epoch FROM m.lease), extract(epoch FROM {{wanted}}),
       extract(epoch FROM {{ceiling}}), m.settled_system, m.settled_timeline, {{settled_place}},
       m.offsets ->> {SYSTEM}::text, FLOOR,
       (SELECT json_agg(json_build_array(f.program, f.node, f.lock_id, f.epoch, f.renewal, {{elsewhere_for}}))
          FROM {{schema}}.lease AS f WHERE f.system <> {SYSTEM} AND f.released_at IS NULL),
       r.lock_id, r.program, r.epoch, r.renewal, r.node, r.instance, r.system, r.timeline, r.released_at IS NOT NULL,
       extract(epoch FROM {{trusted_for}}), r.reason, {{reserved_for}}, r.reserved_seconds,
       greatest(extract(epoch FROM clock_timestamp() - coalesce(r.released_at, r.expires_at)), 0),
       {{suspension}}, {{clock}}, {{plan}}, pg_backend_pid()
  FROM {{schema}}.meta AS m CROSS JOIN WHOSE
  LEFT JOIN {{schema}}.lease AS r ON r.lock_id = a.lock_id OR r.program = a.program
"""

_LOOK_AT_ONE = _LOOK.replace("WHOSE", "(SELECT $1::bigint AS lock_id, $2::text AS program) AS a")
_FLOOR = "(SELECT max(t.epoch) FROM {schema}.term AS t WHERE t.lock_id = a.lock_id)"

LOOK: Final = _LOOK_AT_ONE.replace("FLOOR", _FLOOR)

LOOK_WITHOUT_HISTORY: Final = _LOOK_AT_ONE.replace("FLOOR", "NULL::bigint")
"""For when another session keeps the history from being read: the history can never veto a takeover."""

# Parameters: 1 lock ids, 2 their programs, 3 node. Behind the columns of LOOK comes the lock id that was asked for.
_LOOK_AT_MANY = _LOOK.replace("WHOSE", "unnest($1::bigint[], $2::text[]) AS a(lock_id, program)").replace(
    "pg_backend_pid()", "pg_backend_pid(), a.lock_id"
)
LOOK_AT_MANY: Final = _LOOK_AT_MANY.replace("FLOOR", _FLOOR)
LOOK_AT_MANY_BARE: Final = _LOOK_AT_MANY.replace("FLOOR", "NULL::bigint")

# A statement of its own, before the takeover: the takeover sees all that was committed before the name was granted. All
# nodes take the name first, because otherwise two that claim at the same moment could refuse each other.
NAME_LOCK: Final = "SELECT pg_try_advisory_lock($1::bigint)"

# A pair of integers is a key in the other of PostgreSQL's two key spaces, and NULL for a key that is one number.
_TRY = """CASE WHEN NOT granted THEN NULL WHEN FIRST::integer IS NULL THEN pg_try_advisory_lock($1::bigint)
                                  ELSE pg_try_advisory_lock(FIRST::integer, SECOND::integer) END"""


def _try(first: str, second: str) -> str:
    return _TRY.replace("FIRST", first).replace("SECOND", second)


# A takeover begins on a released row only: a renewal that arrives late has the same number as the closing that it
# preceded, and must keep its term.
# Parameters: 1 lock id; the server judged, 2 system, 3 timeline; 4 lease asked for; the new 5 epoch, 6 program, 7 node,
# 8 instance, 9 when the backend identified itself; 10 lock id of the program's name, 11 place; 12, 13 the pair; the row
# judged, 14 epoch, 15 renewal, 16 system, 17 timeline.
_GRANT = f"""
WITH name AS MATERIALIZED (SELECT pg_try_advisory_lock($10::bigint) AS granted),
     lock AS MATERIALIZED (SELECT {_try("$12", "$13")} AS granted FROM name),
     server AS MATERIALIZED (SELECT {SYSTEM} AS system, {TIMELINE} AS timeline),
     judged AS (
       SELECT s.system, s.timeline
         FROM lock AS l, server AS s, {{schema}}.meta AS m
             PLANNED
        WHERE l.granted AND s.system = $2::bigint AND s.timeline = $3::bigint AND NOT pg_is_in_recovery()
          AND {{place}} = $11::text AND {{usable}} AND {ASKED} <= {{ceiling}}
          AND (m.settled_system, m.settled_timeline, {{settled_place}}) = (s.system, s.timeline, {{place}})
          AND NOT EXISTS (SELECT 1 FROM {{schema}}.lease AS o
                           WHERE o.program = $6::text AND o.lock_id <> $1::bigint AND o.released_at IS NULL)
          {{allowed}}),
"""

_OUTCOME = "NOTED SELECT name.granted, lock.granted, (SELECT count(*) FROM taken)"

# When a term ended, by its row: one that was closed because it had lapsed ended with its lease.
ENDED: Final = "least({0}.released_at, {0}.expires_at)"

# When the former term began and ended, as its row stood before this statement: afterwards that tells of the new one.
_FORMER = "".join(
    f""", (SELECT (extract(epoch FROM {moment}) * 1000000)::bigint FROM {{schema}}.lease AS o
            WHERE o.lock_id = $1::bigint AND o.epoch = $14::bigint)"""
    for moment in ("o.acquired_at", ENDED.format("o"))
)

_TAKE_OVER: Final = f"""{_GRANT}
     taken AS (
       UPDATE {{schema}}.lease AS r
          SET epoch = $5::bigint, renewal = r.renewal + 1, program = $6::text, node = $7::text,
              instance = $8::uuid, system = j.system, timeline = j.timeline, {{set_trusted}}
              backend_pid = pg_backend_pid(), backend_start = $9::bigint,
              acquired_at = clock_timestamp(), expires_at = clock_timestamp() + {ASKED},
              released_at = NULL, reason = NULL, reserved_for = NULL, reserved_seconds = NULL
         FROM judged AS j
        WHERE r.lock_id = $1::bigint AND r.epoch = $14::bigint AND r.renewal = $15::bigint
          AND r.system = $16::bigint AND r.timeline = $17::bigint AND r.released_at IS NOT NULL
    RETURNING 1)
{_OUTCOME}{_FORMER} FROM name, lock
"""

_FIRST_TAKE_OVER: Final = f"""{_GRANT}
     taken AS (
       INSERT INTO {{schema}}.lease AS r (lock_id, epoch, renewal, program, node, instance, system, timeline,
              backend_pid, backend_start, acquired_at, expires_at{{insert_trusted}})
       SELECT $1::bigint, $5::bigint, 1, $6::text, $7::text, $8::uuid, j.system, j.timeline,
              pg_backend_pid(), $9::bigint, clock_timestamp(), clock_timestamp() + {ASKED}{{trusted_value}}
         FROM judged AS j
           ON CONFLICT DO NOTHING
    RETURNING 1)
{_OUTCOME} FROM name, lock
"""

TAKE_OVER: Final = _TAKE_OVER.replace("PLANNED", "").replace("NOTED", "")
FIRST_TAKE_OVER: Final = _FIRST_TAKE_OVER.replace("PLANNED", "").replace("NOTED", "")


def _for_a_time(statement: str, at: str, after: str) -> str:
    """Return a takeover that begins only together with a scheduled time.

    The row of the schedule is locked first, so that no other transaction changes it in between. The time of a run that
    is repeated has come before, whatever the clock shows.
    """
    planned = f""", (SELECT 1 FROM {{schema}}.schedule AS p
                WHERE p.lock_id = $1::bigint AND {LATEST.format("p")} = {after}::bigint
                  AND to_timestamp({at}::bigint) <= greatest(clock_timestamp(), p.latest) FOR UPDATE) AS planned"""
    noted = f""", noted AS (
       UPDATE {{schema}}.schedule AS p SET latest = to_timestamp({at}::bigint), epoch = $5::bigint
         FROM taken WHERE p.lock_id = $1::bigint)"""
    return statement.replace("PLANNED", planned).replace("NOTED", noted)


# The last parameters of both: the scheduled time, and the latest one that was run or skipped before.
TAKE_OVER_FOR: Final = _for_a_time(_TAKE_OVER, "$18", "$19")
FIRST_TAKE_OVER_FOR: Final = _for_a_time(_FIRST_TAKE_OVER, "$14", "$15")

# Sent before a takeover, in a commit of its own. It changes no key column, so that no assert_leader holds it up. From
# then on assert_leader refuses the lapsed epoch. Parameters: 1 lock id; the version judged, 2 epoch, 3 renewal,
# 4 system, 5 timeline; the server, 6 system, 7 timeline, 8 place. It never writes system or timeline.
CLOSE: Final = f"""
UPDATE {{schema}}.lease AS r
   SET renewal = r.renewal + 1, released_at = clock_timestamp(), reason = 'lapsed',
       reserved_for = NULL, reserved_seconds = NULL
  FROM {{schema}}.meta AS m
 WHERE r.lock_id = $1::bigint AND r.epoch = $2::bigint AND r.renewal = $3::bigint
   AND r.system = $4::bigint AND r.timeline = $5::bigint AND r.released_at IS NULL
   AND {SYSTEM} = $6::bigint AND {TIMELINE} = $7::bigint AND {{place}} = $8::text AND {{usable}}
   AND NOT pg_is_in_recovery()
"""

_OURS = "r.lock_id = $1::bigint AND r.epoch = $2::bigint AND r.instance = $3::uuid AND r.released_at IS NULL"

PROLONGED: Final = f"""renewal = r.renewal + 1, expires_at = clock_timestamp() + {ASKED}, {{set_trusted}}
       system = {SYSTEM}, timeline = {TIMELINE}"""

LENGTHS: Final = "extract(epoch FROM {wanted}), extract(epoch FROM m.lease), m.version, {compatible_from}"

# Parameters of both: 1 lock id, 2 epoch, 3 instance, 4 lease asked for.
RENEW: Final = f"""
UPDATE {{schema}}.lease AS r
   SET {PROLONGED}
  FROM {{schema}}.meta AS m WHERE {_OURS} AND {ASKED} <= {{ceiling}}
RETURNING {LENGTHS}
"""

# For many programs of one node, on a session of one of them, which alone has its lock. It renews only what stays as it
# is: the row was written on this very server, under this lease, and names the session that holds the program's lock. So
# a late one undoes nothing that came after it. A row that another transaction has locked holds up no other one. The
# statement tries to take the lock of each row of ours: it gets those that no session holds, until the transaction ends.
# Each row is looked up by its key, whatever the statistics say: a join compared all with all on a table never analyzed.
# Parameters: 1 lock ids, 2 epochs; 3 instance, 4 lease of all; 5 backends, 6 when they identified themselves; 7 and 8
# the pairs. The last column has the lock ids of the rows that were renewed.
RENEW_MANY: Final = f"""
WITH server AS MATERIALIZED (SELECT {SYSTEM} AS system, {TIMELINE} AS timeline),
     ours AS MATERIALIZED (
       SELECT a.lock_id, a.pid, a.first, a.second
         FROM server AS s CROSS JOIN {{schema}}.meta AS m
        CROSS JOIN unnest($1::bigint[], $2::bigint[], $5::integer[], $6::bigint[], $7::integer[], $8::integer[])
                AS a(lock_id, epoch, pid, identified, first, second)
        CROSS JOIN LATERAL (
              SELECT FROM {{schema}}.lease AS r
               WHERE r.lock_id = a.lock_id AND r.epoch = a.epoch AND r.instance = $3::uuid AND r.released_at IS NULL
                 AND r.backend_pid = a.pid AND r.backend_start = a.identified
                 AND r.system = s.system AND r.timeline = s.timeline AND {{trusted_for}} = {ASKED}
                 FOR NO KEY UPDATE OF r SKIP LOCKED) AS r
        WHERE {ASKED} <= {{ceiling}}),
     held AS MATERIALIZED (
       SELECT o.lock_id FROM ours AS o
        WHERE CASE WHEN o.pid = pg_backend_pid() THEN true
                   WHEN o.first IS NULL THEN NOT pg_try_advisory_xact_lock(o.lock_id)
                   ELSE NOT pg_try_advisory_xact_lock(o.first, o.second) END),
     renewed AS (
       UPDATE {{schema}}.lease AS r
          SET renewal = r.renewal + 1, expires_at = clock_timestamp() + {ASKED}
         FROM held AS h WHERE r.lock_id = h.lock_id
    RETURNING r.lock_id)
SELECT {LENGTHS}, (SELECT json_agg(lock_id) FROM renewed) FROM {{schema}}.meta AS m
"""

# Further parameters: 5 when the backend identified itself, 6 lock id of the program's name, 7 and 8 the pair.
REATTACH: Final = f"""
WITH name AS MATERIALIZED (SELECT pg_try_advisory_lock($6::bigint) AS granted),
     lock AS MATERIALIZED (SELECT {_try("$7", "$8")} AS granted FROM name),
     renewed AS (
       UPDATE {{schema}}.lease AS r
          SET {PROLONGED}, backend_pid = pg_backend_pid(), backend_start = $5::bigint
         FROM lock AS l, {{schema}}.meta AS m WHERE l.granted AND {_OURS} AND {ASKED} <= {{ceiling}}
    RETURNING 1)
SELECT {LENGTHS}, lock.granted, (SELECT count(*) FROM renewed) FROM lock, {{schema}}.meta AS m
"""

# What is known of a backend are its pid, and a moment in its life soon after its start. A backend that has inherited
# the pid started later; the minute is for a clock that was set back in between. Parameters: 1 lock ids, 2 epochs,
# 3 instance; the backends that are remembered, 4 pids and 5 moments; 6 pids of those that live on for other programs.
TERMINATE_OLD: Final = """
SELECT count(pg_terminate_backend(a.pid))
  FROM pg_stat_get_activity(NULL) AS a
  JOIN (SELECT r.backend_pid, r.backend_start FROM unnest($1::bigint[], $2::bigint[]) AS t(lock_id, epoch)
          JOIN {schema}.lease AS r
            ON r.lock_id = t.lock_id AND r.epoch = t.epoch AND r.instance = $3::uuid AND r.released_at IS NULL
         UNION SELECT * FROM unnest($4::integer[], $5::bigint[])) AS o(pid, known) ON o.pid = a.pid
 WHERE a.pid <> pg_backend_pid() AND a.pid <> ALL ($6::integer[])
   AND to_timestamp(o.known / 1000000.0) BETWEEN a.backend_start AND a.backend_start + interval '1 minute'
"""

# It never writes system or timeline: a release proves nothing about the server that it reached. One that PostgreSQL
# hears of late does not make the lease longer: no child has outlived that.
_RELEASED = """
UPDATE {schema}.lease AS r
   SET renewal = r.renewal + 1, released_at = clock_timestamp(),
       expires_at = least(r.expires_at, clock_timestamp()),
       reason = $4::text, reserved_for = $5::text, reserved_seconds = $6::double precision
"""
RELEASE: Final = f"{_RELEASED} WHERE {_OURS}"

# For a joint session: when another transaction has locked this row, the other programs must not wait for that.
RELEASE_AT_ONCE: Final = f"""
WITH free AS MATERIALIZED (SELECT FROM {{schema}}.lease AS r WHERE {_OURS} FOR NO KEY UPDATE NOWAIT)
{_RELEASED} FROM free WHERE {_OURS}
"""

# In a statement that nobody has to wait for: its commit is written to the disk with the next one. What changes a row of
# leases waits for the disk as ever.
_UNHURRIED: Final = "set_config('synchronous_commit', 'off', true)"

UNLOCK: Final = "SELECT pg_advisory_unlock_all()"
NOTIFY: Final = f"SELECT pg_notify($1::text, $2::text), {_UNHURRIED}"

# The history has statements of its own, sent after those that change the row. Where nobody has written when a term
# ended, it ended with the beginning of the next.
_OVERDUE = """
       UPDATE {schema}.term AS t
          SET reason = 'lapsed',
              ended_at = least(BEGUN, (SELECT n.acquired_at FROM {schema}.term AS n
                                        WHERE n.lock_id = t.lock_id AND n.epoch > t.epoch ORDER BY n.epoch LIMIT 1))
"""
_BEGIN = """
INSERT INTO {schema}.term (lock_id, epoch, program, node, acquired_at{begun_with})
SELECT lock_id, epoch, program, node, acquired_at{begun_values} FROM begun ON CONFLICT DO NOTHING
"""

# Parameters: 1 lock ids, 2 their epochs.
BEGIN_TERMS: Final = f"""
WITH begun AS (SELECT r.*, {_UNHURRIED} FROM unnest($1::bigint[], $2::bigint[]) AS a(lock_id, epoch)
                 JOIN {{schema}}.lease AS r ON r.lock_id = a.lock_id AND r.epoch = a.epoch),
     overdue AS ({_OVERDUE.replace("BEGUN", "b.acquired_at")}
         FROM begun AS b WHERE t.lock_id = b.lock_id AND t.epoch < b.epoch AND t.ended_at IS NULL)
{_BEGIN}
"""

_SINCE_EPOCH = "timestamptz 'epoch' + ${}::bigint * interval '1 microsecond'"

# After a takeover, with what the row told of the former term: its leader may have been lost, or kept from the history,
# before it wrote when that began or ended, or have found the new term in the row, not its own. Parameters: 1 lock id,
# 2 epoch; of the former, 3 epoch, 4 program, 5 node, 6 when it began and 7 when it ended, in microseconds of the epoch,
# 8 cause.
SUCCEED_TERM: Final = f"""
WITH begun AS (SELECT r.*, {_UNHURRIED} FROM {{schema}}.lease AS r
                WHERE r.lock_id = $1::bigint AND r.epoch = $2::bigint),
     overdue AS ({_OVERDUE.replace("BEGUN", _SINCE_EPOCH.format(6))}
        WHERE t.lock_id = $1::bigint AND t.epoch < $3::bigint AND t.ended_at IS NULL),
     former AS (
       INSERT INTO {{schema}}.term AS t (lock_id, epoch, program, node, acquired_at, ended_at, reason)
       VALUES ($1::bigint, $3::bigint, $4::text, $5::text, {_SINCE_EPOCH.format(6)}, {_SINCE_EPOCH.format(7)}, $8::text)
           ON CONFLICT (lock_id, epoch) DO UPDATE
          SET ended_at = least(t.ended_at, excluded.ended_at), reason = coalesce(t.reason, excluded.reason)
        WHERE t.ended_at IS NULL OR t.ended_at > excluded.ended_at)
{_BEGIN}
"""

# Parameters: 1 lock id, 2 epoch, 3 cause, 4 exit status, 5 exit signal, 6 author, 7 what he said. The next term may
# have begun already, and have written that this one ended; or be in the row, and not yet in the history. This one ended
# before it, and with its lease at the latest: a release may come long after that, once PostgreSQL is back.
END_TERM: Final = f"""
UPDATE {{schema}}.term AS t
   SET reason = $3::text, {{set_told}}
       ended_at = coalesce(
         (SELECT {ENDED.format("r")} FROM {{schema}}.lease AS r
           WHERE r.lock_id = $1::bigint AND r.epoch = $2::bigint),
         t.ended_at,
         (SELECT min(n.acquired_at)
            FROM (SELECT lock_id, epoch, acquired_at FROM {{schema}}.term
                   UNION ALL SELECT lock_id, epoch, acquired_at FROM {{schema}}.lease) AS n
           WHERE n.lock_id = $1::bigint AND n.epoch > $2::bigint),
         clock_timestamp())
  FROM (SELECT $4::integer AS exit_status, $5::text AS exit_signal, $6::text AS author, $7::text AS remark,
               {_UNHURRIED}) AS f
 WHERE t.lock_id = $1::bigint AND t.epoch = $2::bigint AND (t.ended_at IS NULL OR t.reason = 'lapsed' OR {{untold}})
"""

# Parameter: 1 lock id. Seconds since the last successful run began, NULL for none. The row counts before the history:
# that is written after the release. A program whose `restart` is "never" finishes with any exit status.
LAST_SUCCESS: Final = """
SELECT extract(epoch FROM clock_timestamp() - max(s.acquired_at))
  FROM (SELECT r.acquired_at FROM {schema}.lease AS r
         WHERE r.lock_id = $1::bigint AND r.released_at IS NOT NULL AND r.reason = 'finished'
           AND NOT EXISTS (SELECT FROM {schema}.term AS o
                            WHERE o.lock_id = r.lock_id AND o.epoch = r.epoch
                              AND (to_jsonb(o) ->> 'exit_signal' IS NOT NULL OR to_jsonb(o) ->> 'exit_status' <> '0'))
        UNION ALL
        SELECT t.acquired_at FROM {schema}.term AS t
         WHERE t.lock_id = $1::bigint AND t.reason = 'finished' AND to_jsonb(t) ->> 'exit_signal' IS NULL
           AND coalesce(to_jsonb(t) ->> 'exit_status', '0') = '0') AS s
"""

# Parameters: what was waited out, 1 system, 2 timeline, 3 place; 4 the upper half of the highest epoch that we know.
# Epochs begin above that one: a server that was restored knows nothing of the epochs since its backup, and its timeline
# may be one that there was before.
SETTLE: Final = f"""
UPDATE {{schema}}.meta AS m
   SET settled_system = $1::bigint, settled_timeline = $2::bigint, {{set_settled}}
       offsets = m.offsets || jsonb_build_object($1::text, CASE WHEN m.offsets ? $1::text AND {{same_place}}
                   THEN greatest((m.offsets ->> $1::text)::bigint, $4::bigint + 2 - $2::bigint)
                   ELSE greatest($4::bigint, (SELECT max(epoch >> 32) FROM {{schema}}.lease), -1) + 1 END)
 WHERE {SYSTEM} = $1::bigint AND {TIMELINE} = $2::bigint AND {{place}} = $3::text AND NOT pg_is_in_recovery()
"""

# For a server that this daemon has just created: no program can have been led through it.
SETTLE_FRESH: Final = f"""
UPDATE {{schema}}.meta AS m
   SET settled_system = {SYSTEM}, settled_timeline = {TIMELINE}, settled_place = {{place}}
 WHERE settled_system IS NULL
"""

# Parameters: 1 system, 2 timeline. What the ledger holds was restored or overwritten, so all nodes wait once more.
UNSETTLE: Final = """
UPDATE {schema}.meta SET settled_system = NULL, settled_timeline = NULL
 WHERE (settled_system, settled_timeline) = ($1::bigint, $2::bigint)
"""
