"""Which servers must not be used, and the sentence that says so and names the cure.

These are judgements only: an answer goes in, and what it means or a refusal comes out. The questions are asked by the
daemon before each session (``server.py``), and by ``--doctor``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from highlanderd.core.lease import Lease
from highlanderd.postgres.addresses import Unfit, startup_options
from highlanderd.postgres.ledger import Ledger, identifier
from highlanderd.postgres.replies import ConnectFailed, Reply
from highlanderd.postgres.sql import connecting, dialect

OLDEST_SERVER: Final = 140000
"""idle_session_timeout and client_connection_check_interval came with PostgreSQL 14."""
LIMITS_TRANSACTIONS: Final = 170000
"""transaction_timeout came with PostgreSQL 17."""

FOREIGN_STATEMENTS: Final = frozenset({"42P05", "26000"})
"""SQLSTATE: a prepared statement exists already, or does not. On a connection of our own neither can be."""

POOLER: Final = (
    "a connection pooler stands between, or the proxy of a service that hides PostgreSQL's own pids (--doctor cannot "
    "tell them apart): it could grant one lock to two nodes; give a dsn that leads to PostgreSQL directly"
)
STANDBY: Final = (
    "the server is a hot standby, which would grant locks of its own; name all servers in the dsn and add "
    "target_session_attrs=read-write"
)
SETTINGS_REFUSED: Final = (
    "the server refuses the session settings that highlanderd needs ({}); when a pooler stands between, "
    "give a dsn that leads to PostgreSQL directly"
)

_NO_AURORA: Final = (
    "this is Amazon Aurora, which does not show its WAL position, and is not supported ({}); use RDS for PostgreSQL or "
    "another PostgreSQL"
)
_NOT_PLAIN: Final = "the server lacks something that every PostgreSQL has ({}); use a plain PostgreSQL"
_FORESEEN: Final = (
    (
        "",
        r"unsupported startup parameter",
        "pgbouncer stands between, and refuses the session settings ({}); give a dsn that leads to PostgreSQL directly "
        "(its own port, often 5432)",
    ),
    (
        "",
        r"RDS Proxy.*(command-line options|doesn.t support)",
        "RDS Proxy stands between, and refuses the session settings ({}); name the endpoint of the database instead",
    ),
    (
        "",
        r"client_connection_check_interval.*(must be set to 0|invalid value)"
        r"|invalid value.*client_connection_check_interval",
        "the server's platform cannot watch connections, as PostgreSQL on Windows or 14 on macOS ({}); use a server on "
        "Linux",
    ),
    ("55000", r"wal_level", _NO_AURORA),
    ("0A000", r"Aurora", _NO_AURORA),
    ("0A000", r"", _NOT_PLAIN),
    ("42883", r"", _NOT_PLAIN),
    (
        dialect.INSUFFICIENT_PRIVILEGE,
        r"\b(?P<function>pg_\w+)",
        "role {role} may not call a function that highlanderd needs ({}); let an administrator run: GRANT EXECUTE ON "
        "FUNCTION {function} TO {role}",
    ),
)
"""SQLSTATE (empty for a connection that was refused: libpq has none), a pattern of the text, and the sentence.

``docs/reference/managed-servers.md`` says where each of the texts comes from.
"""

STRONGER: Final = {"synchronous_commit": ("remote_apply",)}
"""Values of settings that promise more than the daemon's own."""


class Forgetful(Unfit):
    """The ledger's tables are emptied by a crash of the server, and perhaps were."""


class ServerFacts(Struct, frozen=True):
    """What a server says of itself and of the session: the answer to IDENTIFY."""

    standby: bool
    pid: int
    identified: int
    """When it said so, in microseconds of its clock."""
    fsync: bool
    version: str
    role: str
    database: str
    system: str
    timeline: int
    """0 for a standby, which does not show it."""


def refuse_old(version: int) -> None:
    """Refuse a server by its version as libpq has it. Raises Unfit."""
    if version < OLDEST_SERVER:
        raise Unfit(f"PostgreSQL {version // 10000} is too old: highlanderd needs 14 or later")


def refuse_software(version: int, parameter: Callable[[str], str]) -> None:
    """Refuse what is no PostgreSQL, or too old, by what it reported when the session began.

    ``version`` is libpq's. ``parameter`` returns the server's value of a parameter, empty for an unknown one.
    Raises Unfit.
    """
    if parameter("crdb_version"):
        raise Unfit("this is CockroachDB, which grants one advisory lock to many sessions at once; use PostgreSQL")
    if "-YB-" in parameter("server_version"):
        raise Unfit("this is YugabyteDB, which has no WAL position and no timelines; use PostgreSQL")
    refuse_old(version)


def foreseen(text: str, sqlstate: str = "", role: str = "") -> str:
    """Return the sentence about a refusal that other software is known for; empty for any other text.

    Without an SQLSTATE, ``text`` is that of a connection that was refused.
    """
    words = text.rpartition("FATAL:")[2].strip()
    for state, pattern, sentence in _FORESEEN:
        found = re.search(pattern, words, re.IGNORECASE | re.DOTALL) if state == sqlstate else None
        if found is not None:
            return sentence.format(words, role=identifier(role), **found.groupdict())
    return ""


def server_facts(reply: Reply, backend_pid: int, login: str) -> ServerFacts:
    """Read the answer to IDENTIFY. ``backend_pid`` and the role ``login`` are what the protocol said when it began.

    Raises Unfit when the answer is not that of a plain PostgreSQL, ConnectFailed for another error.
    """
    if reply.sqlstate in FOREIGN_STATEMENTS:
        raise Unfit(POOLER)
    if reply.error is not None:
        if sentence := foreseen(reply.error.text, reply.error.sqlstate, login):
            raise Unfit(sentence)
        raise ConnectFailed(reply.error.text)
    standby, pid, identified, fsync, version, role, database, system, timeline = reply.rows[0][:9]
    if pid is None or int(pid) != backend_pid:
        raise Unfit(POOLER)
    return ServerFacts(
        standby=standby == "t",
        pid=backend_pid,
        identified=int(identified or 0),
        fsync=fsync != "off",
        version=version or "",
        role=role or "",
        database=database or "",
        system=system or "",
        timeline=int(timeline or 0),
    )


def of_backend(reply: Reply, backend_pid: int) -> list[tuple[str | None, ...]]:
    """Return the rows of an answer without their last column, the pid of the backend that answered.

    Raises Unfit when that was not the session's backend: something spreads its statements over several.
    """
    if any(row[-1] != str(backend_pid) for row in reply.rows):
        raise Unfit(POOLER)
    return [row[:-1] for row in reply.rows]


def unlogged(tables: str) -> str:
    """Return the refusal of tables, separated by commas, that do not survive a crash."""
    cures = "; ".join(f"ALTER TABLE {table} SET LOGGED" for table in tables.split(", "))
    return (
        f"the ledger's tables {tables} are UNLOGGED: a crash of the server empties them, and it forgets who leads; run "
        f"{cures}"
    )


def refuse_forgetful(said: ServerFacts, *, embedded: bool) -> None:
    """Refuse a server whose locks other nodes do not see, or that may forget who leads. Raises Unfit."""
    if said.standby:
        raise Unfit(STANDBY)
    if not embedded:  # embedded servers are for trying things out
        refuse_fsync_off(said.fsync)


def refuse_fsync_off(fsync: bool) -> None:
    """Refuse a server by its setting. Raises Unfit."""
    if not fsync:
        raise Unfit("the server runs with fsync = off and may forget who leads; switch fsync on")


def refuse_changed(reply: Reply, lease: Lease) -> None:
    """Refuse a session whose settings are not those that it was opened with. Raises Unfit.

    Startup options win over those of role and database; a login trigger comes later, and may change anything.
    """
    wanted = {**startup_options(lease), "transaction_timeout": "0"}
    shown = dict(zip(connecting.READ_BACK, reply.rows[0][-len(connecting.READ_BACK) :], strict=True))
    changed = [
        f"{name} is {value}, not {wanted[name]}"
        for name, value in shown.items()
        if value not in (wanted[name], *STRONGER.get(name, ())) and value is not None
    ]
    if changed:
        raise Unfit(
            f"the server has changed settings that the promise stands on: {'; '.join(changed)}; a login trigger may do "
            "that: exempt the role of highlanderd from it"
        )


def refuse_newer(compatible_from: int) -> None:
    """Refuse a ledger that daemons as old as this one must not use any more. Raises Unfit."""
    if compatible_from > dialect.VERSION:
        raise Unfit(
            f"the ledger is for daemons that know schema {compatible_from} or later, and this one knows "
            f"{dialect.VERSION}: upgrade highlanderd on this node"
        )


def ledgers_meta(reply: Reply, ledger: Ledger, said: ServerFacts) -> tuple[Lease, int]:
    """Read the answer to META: the ledger's lease, and the version of its schema as far as this daemon knows it.

    Raises Unfit for a ledger that this node must not use, ConnectFailed for another error.
    """
    if reply.error is not None:
        raise unusable(reply, said)
    if not reply.rows:
        raise Unfit(f"the meta row of the ledger in schema {ledger.schema} is gone; restore it from a backup")
    [(version, namespace, length, compatible_from, emptied)] = of_backend(reply, said.pid)[:1]
    refuse_newer(int(compatible_from or 1))
    if namespace != ledger.namespace:
        raise Unfit(
            f'the ledger in schema {ledger.schema} belongs to namespace "{namespace}", this node is configured for '
            f'"{ledger.namespace}": give all nodes one daemon.namespace, or each namespace its own postgres.schema'
        )
    if emptied:
        raise Forgetful(unlogged(emptied))
    return Lease(float(length or 0)), min(int(version or 1), dialect.VERSION)


def unusable(reply: Reply, said: ServerFacts) -> Unfit | ConnectFailed:
    """Return the refusal for a statement on the ledger that failed."""
    text = reply.error.text if reply.error else "no answer"
    if reply.sqlstate != dialect.INSUFFICIENT_PRIVILEGE:
        return ConnectFailed(f"the ledger cannot be used: {text}")
    return Unfit(
        f"role {said.role} may not create or use the ledger in database {said.database} ({text}); let an "
        f"administrator run what `highlanderd -c FILE --print-schema` prints"
    )


def overruled(configured: float, ledger_lease: Lease) -> str:
    """Return the warning that the ledger and this node's configuration have different leases; empty if they agree."""
    if ledger_lease.length == configured:
        return ""
    return (
        f"postgres.lease is {configured:g} s here but {ledger_lease.length:g} s in the ledger, which rules; write the "
        f"ledger's, or change it with `highlanderctl ledger set-lease`"
    )
