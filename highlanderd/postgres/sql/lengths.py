"""Statements that change how long leases are, and that show which standbys have received the change."""

from __future__ import annotations

from typing import Final

from highlanderd.postgres.sql.dialect import SERVER_START, SYSTEM, TIMELINE

# Parameter: 1 seconds.
RAISE_CEILING: Final = """
UPDATE {schema}.meta SET ceiling = greatest(ceiling, make_interval(secs => $1::double precision))
"""

# A ceiling that is still needed stays: maintenance is looked at, and so is each row.
LOWER_CEILING: Final = """
UPDATE {schema}.meta AS m
   SET ceiling = m.lease, maintenance_for = NULL, maintenance_lease = NULL, maintenance_since = NULL,
       maintenance_until = NULL, maintenance_by = NULL, maintenance_reason = NULL
 WHERE m.ceiling = make_interval(secs => $1::double precision) AND m.lease = make_interval(secs => $2::double precision)
   AND NOT coalesce(m.maintenance_until > clock_timestamp(), false)
   AND NOT EXISTS (SELECT 1 FROM {schema}.lease AS r WHERE r.released_at IS NULL AND r.trusted_for > m.lease)
"""

# In schema 1 a function changes the lease, and refuses while any program is led.
SET_LEASE_1: Final = "SELECT {schema}.set_lease(make_interval(secs => $1::double precision))"

# Parameters: 1 new and 2 present lease in seconds. It changes nothing if what was checked before has changed.
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

INSERTED: Final = f"SELECT {SYSTEM}, {TIMELINE}, {SERVER_START}, (pg_current_wal_insert_lsn() - '0/0')::bigint"

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
