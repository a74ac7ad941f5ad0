"""From a DSN to the parameters of one attempt: its addresses, and the startup options that make a session safe.

They travel as startup options, so that they hold from the first statement, whatever the role's or the database's own
settings say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from highlanderd.config.dsn import check_ports
from highlanderd.core.lease import Lease
from highlanderd.errors import HighlanderError
from highlanderd.postgres.replies import ConnectFailed
from highlanderd.postgres.resolver import Resolver
from highlanderd.postgres.sql import connecting
from highlanderd.postgres.wire import one_line

log = logging.getLogger(__name__)

CREDENTIALS: Final = frozenset({"user", "password", "passfile", "sslcert", "sslkey", "sslpassword", "sslrootcert"})
"""Options that name the client and what it trusts. Others say where PostgreSQL is, or how to speak to it."""
USUAL_PORT: Final = "5432"
"""It is not shown unless it was written."""
NO_CONNECTION: Final = "no-connection"
"""A value of ``gssencmode`` that libpq refuses once it has read everything else, and before it connects."""


class Unfit(HighlanderError):
    """A server that must not be used, or a connection to it. ``str()`` names the cure."""


class Addresses:
    """All addresses that a DSN names. One attempt goes to one of them.

    libpq completes a DSN from a service file, the environment and its own defaults. It is asked anew for each attempt,
    because a service file may have changed.
    """

    def __init__(self, dsn: str) -> None:
        self._parameters = parse(dsn)
        self._resolver = Resolver()
        self._latest: dict[str, str] | None = None
        """The parameters as the latest attempt had them completed: to ask libpq takes a quarter of a millisecond."""

    def follow(self, dsn: str) -> bool:
        """Use the credentials of ``dsn`` from now on, and return whether they are others.

        Raises Unfit when it names another place: that could be another coordinator.
        """
        parameters = parse(dsn)
        if parameters == self._parameters:
            return False
        if _place(parameters) != _place(self._parameters):
            raise Unfit("postgres.dsn differs in more than its credentials; restart the daemon for that")
        self._parameters, self._latest = parameters, None
        return True

    @property
    def address(self) -> str:
        """The hosts, ports and the database of the DSN, without any secret."""
        given = self._complete_or_given()
        if "port" not in self._parameters and given.get("port") == USUAL_PORT:
            del given["port"]
        hosts = (given.get("host") or given.get("hostaddr") or "local socket").split(",")
        ports = _stretched(given.get("port", "").split(","), len(hosts))
        where = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
        return f"{where}/{given.get('dbname', given.get('user', ''))}"

    @property
    def parallel(self) -> int:
        """How many connections to open at once; TLS handshakes cost the server's cores."""
        sslmode = self._complete_or_given().get("sslmode")
        return 8 if sslmode in ("require", "verify-ca", "verify-full") else 16

    def _complete(self) -> dict[str, str]:
        """Return what libpq would connect with now. Raises Unfit when it cannot complete the DSN."""
        self._latest = completed(self._parameters)
        return self._latest

    def _complete_or_given(self) -> dict[str, str]:
        try:
            return dict(self._latest or self._complete())
        except Unfit:  # the next attempt to connect says why
            return dict(self._parameters)

    async def choose(self, turn: int, within: float) -> dict[str, str]:
        """Return libpq's parameters for one address, ``turn`` saying which. Raises ConnectFailed when none is known."""
        choices = await self.every(within)
        return choices[turn % len(choices)]

    async def every(self, within: float) -> list[dict[str, str]]:
        """Return libpq's parameters for each address, in the DSN's order. Raises ConnectFailed when none is known.

        Raises Unfit when libpq cannot complete the DSN, or when its ports and hosts do not match.
        """
        given = self._complete()
        options = {"options": given["options"]} if "options" in given else {}
        return [{**self._parameters, **options, **choice} for choice in await self._all(_hosts(given), within)]

    @property
    def many(self) -> bool:
        """Whether the DSN names more than one host."""
        given = self._complete_or_given()
        return any("," in given.get(name, "") for name in ("host", "hostaddr", "port"))

    def hosts(self) -> list[tuple[str, str, str]]:
        """Return name, numeric address (empty where the name has to be resolved) and port of each host in the DSN.

        Raises Unfit when libpq cannot complete the DSN, or when its ports and hosts do not match.
        """
        return _hosts(self._complete())

    async def _all(self, hosts: list[tuple[str, str, str]], within: float) -> list[dict[str, str]]:
        found = await asyncio.gather(*(self._numbers(name, number, within) for name, number, _ in hosts))
        choices = [
            _parameters_of(name, number, port)
            for (name, _, port), numbers in zip(hosts, found, strict=True)
            for number in numbers
        ]
        if not choices:
            names = ", ".join(name for name, _, _ in hosts)
            raise ConnectFailed(f"none of the names {names} could be resolved", timed_out=True)
        return choices

    async def _numbers(self, host: str, number: str, within: float) -> tuple[str, ...]:
        if number or not host or host.startswith(("/", "@")):
            return (number,)
        try:
            return await self._resolver.addresses(host, within)
        except OSError as error:
            log.debug("cannot resolve %s: %s", host, error)
            return ()


def _hosts(given: Mapping[str, str]) -> list[tuple[str, str, str]]:
    names, ports = given.get("host", "").split(","), given.get("port", "").split(",")
    numbers = given["hostaddr"].split(",") if "hostaddr" in given else [""] * len(names)
    names = names if len(names) == len(numbers) else numbers
    return list(zip(names, numbers, _matched(ports, len(numbers)), strict=True))


def with_options(address: Mapping[str, str], lease: Lease, node: str) -> dict[str, str]:
    """Return libpq's parameters, and last those that make a session safe: they win over the user's.

    ``address`` is one of ``Addresses``, whose ``options`` are complete. The kernel's own probes are off: beside
    ``tcp_user_timeout`` the first one that gets lost would end the session.
    """
    theirs = address.get("options", "")
    ours = " ".join(f"-c {name}={_escaped(value)}" for name, value in startup_options(lease).items())
    return {
        **address,
        "options": f"{theirs} {ours}".strip(),
        "application_name": connecting.application_name(node),
        "client_encoding": "UTF8",
        "gssencmode": "disable",
        "keepalives": "0",
        "tcp_user_timeout": str(round(lease.answer_within * 1000)),
    }


def same_place(one: str, other: str) -> bool:
    """Return whether two DSNs differ in their credentials at most. An embedded server's is no DSN."""
    try:
        return one == other or _place(parse(one)) == _place(parse(other))
    except Unfit:
        return False


def _place(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return what is left without the credentials. A database without a name is that of the user's name."""
    dbname = parameters.get("dbname") or parameters.get("user", "")
    return {**{name: value for name, value in parameters.items() if name not in CREDENTIALS}, "dbname": dbname}


def parse(dsn: str) -> dict[str, str]:
    """Return the parameters of a DSN or URI. Raises Unfit with a sentence that repeats nothing of it."""
    try:
        return {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except ProgrammingError as error:
        raise Unfit(
            "postgres.dsn is not a PostgreSQL connection string (postgresql://... or host=... user=...)"
        ) from error


def completed(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that libpq would connect with: those given, a service's, PG* variables, and its defaults.

    Raises Unfit when it cannot complete them, as when the service is not defined. Nothing is connected to.
    """
    unusable = {**parameters, "gssencmode": NO_CONNECTION}
    pg = pq.PGconn.connect_start(make_conninfo(**unusable).encode())
    try:
        found = {one.keyword.decode(): one.val.decode() for one in pg.info if one.val}
        if found.get("gssencmode") != NO_CONNECTION:
            raise Unfit(f"libpq cannot complete postgres.dsn: {one_line(pg.get_error_message())}")
        return found
    finally:
        pg.finish()


def startup_options(lease: Lease) -> dict[str, str]:
    """Return the server settings of every session; times in milliseconds.

    Limits of statements stay below half a lease, and the server ends a session that is silent for a whole one.
    """
    seconds = max(1, round(lease.renew_every))
    return {
        "default_transaction_read_only": "off",
        "default_transaction_isolation": "read committed",
        "synchronous_commit": "on",
        "client_min_messages": "warning",
        **limits(lease),
        "search_path": "pg_catalog",
        "tcp_keepalives_idle": str(seconds),
        "tcp_keepalives_interval": str(seconds),
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": str(round(lease.length * 1000)),
    }


def limits(lease: Lease) -> dict[str, str]:
    """Return the time limits of a session, which follow the ledger's lease, in the order of ``connecting.LIMITS``."""
    length = round(lease.length * 1000)
    return {
        "lock_timeout": str(length // 5),
        "statement_timeout": str(length // 4),
        "idle_session_timeout": str(length),
        "idle_in_transaction_session_timeout": str(length),
        "client_connection_check_interval": str(length // 5),
    }


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _stretched(values: list[str], length: int) -> list[str]:
    return values * length if len(values) == 1 else values


def _matched(ports: list[str], hosts: int) -> list[str]:
    try:
        check_ports(hosts, len(ports))
    except ValueError as refusal:
        raise Unfit(f"postgres.dsn, with its service and PG* variables, {refusal}") from None
    return _stretched(ports, hosts)


def _parameters_of(host: str, number: str, port: str) -> dict[str, str]:
    parameters = {"host": host, "hostaddr": number, "port": port}
    return {name: value for name, value in parameters.items() if value}
