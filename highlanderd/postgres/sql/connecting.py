"""Statements that begin a session and keep it: which server is this, with which settings, and is the ledger there."""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import SERVER_START, SYSTEM, TIMELINE, UNLOGGED, VERSION

SESSIONS: Final = f"highlander/{VERSION}/"
"""How the application_name of each session begins; daemons that know schema 1 only say ``highlanderd/``."""


def application_name(whose: str) -> str:
    """Return the name of a session that belongs to a node, or to ``node/program``: as much as PostgreSQL keeps."""
    return f"{SESSIONS}{whose}"[:63]


# Not when the backend started: to look that up, a server copies what it knows of each of its sessions.
_BACKEND_KNOWN = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

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
"""The settings of its own session that each answer to IDENTIFY ends with, limits in milliseconds."""

_READ_BACK = ", ".join(
    [f"current_setting('{name}')" for name in _SETTINGS]
    + [f"(extract(epoch FROM current_setting('{name}', true)::interval) * 1000)::bigint" for name in _LIMITS]
)

IDENTIFY: Final = f"""
SELECT pg_is_in_recovery(), pg_backend_pid(), {_BACKEND_KNOWN}, current_setting('fsync'),
       current_setting('server_version'), current_user, current_database(), {SYSTEM},
       CASE WHEN NOT pg_is_in_recovery() THEN {TIMELINE} END,
       {_READ_BACK}
"""

# What a question without a daemon has found where there is no ledger.
PLACE: Final = "SELECT current_setting('fsync'), current_database(), current_user"

# Only for servers that know the name. As a startup option it would have the others refuse the whole session.
NO_TRANSACTION_LIMIT: Final = """
SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL
"""

LIMITS: Final = """
SELECT set_config('lock_timeout', $1::text, false), set_config('statement_timeout', $2::text, false),
       set_config('idle_session_timeout', $3::text, false),
       set_config('idle_in_transaction_session_timeout', $4::text, false),
       set_config('client_connection_check_interval', $5::text, false)
"""

# For what is not worth waiting, until LIMITS again.
NO_WAITING: Final = "SELECT set_config('lock_timeout', '1ms', false)"

# Asked before anything is known of the schema's version. The answer ends with the backend's pid, as those to SURVEY and
# FACTS do: a proxy that spreads statements over servers sends plain reads to another one than IDENTIFY.
META: Final = f"""
SELECT version, namespace, extract(epoch FROM lease), to_jsonb(m) ->> 'compatible_from', {UNLOGGED}, pg_backend_pid()
  FROM {{schema}}.meta AS m
"""

HOST: Final = f"""
SELECT {SYSTEM}, pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery()
            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT received_tli FROM pg_stat_wal_receiver))
            ELSE {TIMELINE} END,
       {SERVER_START},
       CASE WHEN pg_is_in_recovery()
            THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0', 0)
            ELSE pg_current_wal_lsn() - '0/0' END::bigint
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

# For a program's session. It asks by keys alone, so values change no plan; to plan a takeover anew takes as long as its
# commit, and PostgreSQL does that for each of the first five.
BEGIN_SESSION: Final = """
SELECT set_config('application_name', $1::text, false), set_config('plan_cache_mode', 'force_generic_plan', false)
"""
