"""What is asked of a server, and how its answers are read. Each question is one plain SELECT.

Nothing is written and nothing created. The one question that commits takes a key-share lock on the ledger's single
meta row, which only the removal of that row would wait for, and so makes the server write and flush a commit.
"""

from __future__ import annotations

from typing import Final

from highlanderd.doctor.facts import Limit, Replication, SchemaAccess, Setting
from highlanderd.postgres.ledger import Ledger, identifier, literal
from highlanderd.postgres.replies import Reply, Statement
from highlanderd.postgres.sql import dialect, lengths

HURTFUL: Final = (
    "lock_timeout",
    "statement_timeout",
    "idle_session_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_read_only",
    "default_transaction_isolation",
    "synchronous_commit",
    "client_min_messages",
)
"""Settings of a role, a database or a server that would end a leader's session or weaken its writes."""

TABLES: Final = ("meta", "lease", "term")

EFFECTIVE: Final = Statement("effective", "SELECT name, setting FROM pg_settings")
_DEFAULTS = "SELECT name, reset_val || coalesce(' ' || unit, ''), source FROM pg_settings"
PLAIN: Final = Statement("plain", _DEFAULTS)
PATIENT: Final = Statement("patient", "SET statement_timeout = 0")
PLAIN_AGAIN: Final = Statement("plain_again", _DEFAULTS)

CLOCK: Final = Statement("clock", "SELECT extract(epoch FROM clock_timestamp())")

# A client's session has a user and a database; workers and standbys' senders lack one of them, and count elsewhere.
# Every role sees the user and the database of a row; only some may see the other columns.
CENSUS: Final = Statement(
    "census",
    """
WITH client AS (
       SELECT datid, usesysid, application_name LIKE 'highlander%' AS ours,
              CASE WHEN application_name LIKE 'highlanderd/%' THEN split_part(application_name, '/', 2)
                   WHEN application_name LIKE 'highlander/%' THEN split_part(application_name, '/', 3) END AS node
         FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL),
     me AS (SELECT oid, rolname, rolsuper, rolconnlimit FROM pg_roles WHERE rolname = current_user),
     here AS (SELECT oid, datname, datconnlimit FROM pg_database WHERE datname = current_database())
SELECT me.rolname, here.datname, me.rolsuper,
       current_setting('max_connections')::integer, current_setting('superuser_reserved_connections')::integer,
       coalesce(current_setting('reserved_connections', true), '0')::integer, me.rolconnlimit, here.datconnlimit,
       (SELECT count(*) FROM client WHERE NOT ours),
       (SELECT count(*) FROM client WHERE NOT ours AND usesysid = me.oid),
       (SELECT count(*) FROM client WHERE NOT ours AND datid = here.oid),
       (SELECT count(DISTINCT node) FROM client WHERE datid = here.oid)
  FROM me, here
""",
)
STANDBYS: Final = Statement(
    "standbys",
    f"""
SELECT current_setting('synchronous_standby_names'), count(pid),
       count(pid) FILTER (WHERE {lengths.PROMOTABLE}),
       count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR pg_has_role('pg_read_all_stats', 'USAGE'),
       current_setting('full_page_writes'), host(inet_client_addr()), inet_client_port()
  FROM pg_stat_replication
""",
)
ACCESS: Final = """
WITH place AS (SELECT oid FROM pg_namespace WHERE nspname = {schema_text}),
     present AS (SELECT c.oid, c.relname FROM pg_class AS c, place AS s
               WHERE c.relnamespace = s.oid AND c.relkind = 'r'),
     needed (tables, privileges) AS (VALUES {needed}),
     lacking AS (
       SELECT privilege || ' on ' || b.relname AS words
         FROM needed AS n CROSS JOIN LATERAL unnest(string_to_array(n.privileges, ', ')) AS privilege
         JOIN present AS b ON b.relname = ANY (string_to_array(n.tables, ' '))
        WHERE NOT has_table_privilege(b.oid, privilege)
       UNION ALL
       SELECT 'USAGE on schema' FROM place WHERE NOT has_schema_privilege(oid, 'USAGE'))
SELECT (SELECT count(*) FROM present WHERE relname IN ({names})),
       coalesce((SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') FROM place),
                has_database_privilege(current_database(), 'CREATE')),
       (SELECT coalesce(string_agg(words, ', ' ORDER BY words), '') FROM lacking)
"""
COMMIT: Final = "SELECT 1 FROM {schema}.meta FOR KEY SHARE"


def access_of(ledger: Ledger) -> Statement:
    """Return the question for the tables of the ledger and the privileges of the role."""
    needed = ", ".join(f"({literal(tables)}, {literal(privileges)})" for tables, privileges in dialect.NEEDED)
    values = {"schema_text": literal(ledger.schema), "names": ", ".join(map(literal, TABLES)), "needed": needed}
    sql = ACCESS
    for name, value in values.items():
        sql = sql.replace(f"{{{name}}}", value)
    return Statement("access", sql)


def plain(replies: list[Reply]) -> dict[str, Setting]:
    """Read what a plain session has: at once, or after its statement_timeout was lifted."""
    answered = next((reply for reply in replies if reply.rows), None)
    rows = answered.rows if answered else []
    return {name: Setting(value or "", source or "") for name, value, source in rows if name in HURTFUL}


def limits(reply: Reply) -> tuple[tuple[Limit, ...], int]:
    """Read the limits on connections that hold for this role, and the number of nodes that are connected."""
    role, database, superuser, *rest = reply.rows[0]
    most, top, reserved, of_role, of_database, others, roles, databases, nodes = (int(value or 0) for value in rest)
    if superuser == "t":
        return (Limit("max_connections", most, others, "raise max_connections to {}"),), nodes
    kept = top + reserved
    found = [Limit("max_connections", most - kept, others, "raise max_connections to {}", kept)]
    if of_role >= 0:
        cure = f"ALTER ROLE {identifier(role or '')} CONNECTION LIMIT {{}}"
        found.append(Limit(f"the CONNECTION LIMIT of role {role}", of_role, roles, cure))
    if of_database >= 0:
        cure = f"ALTER DATABASE {identifier(database or '')} CONNECTION LIMIT {{}}"
        found.append(Limit(f"the CONNECTION LIMIT of database {database}", of_database, databases, cure))
    return tuple(found), nodes


def standbys(reply: Reply) -> tuple[Replication, bool, str]:
    """Read replication, whether whole pages are written, and our address as the server sees it."""
    names, attached, promotable, synchronous, visible, whole_pages, address, port = reply.rows[0]
    known = int(synchronous or 0) if visible == "t" else None
    place = f"{address}:{port}" if address else ""
    return Replication(names or "", int(attached or 0), int(promotable or 0), known), whole_pages != "off", place


def access(reply: Reply) -> SchemaAccess:
    """Read the answer to ``access_of``."""
    tables, creatable, missing = reply.rows[0]
    lacking = tuple(missing.split(", ")) if missing else ()
    return SchemaAccess(int(tables or 0), creatable == "t", lacking)
