"""libpq as psycopg wraps it, and its connection strings."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import pq
from psycopg.errors import OperationalError

__all__ = ["OperationalError", "connection_string", "parsed", "pq"]


def parsed(words: str) -> dict[str, str]:
    """Return what a connection string or URI says, by libpq's names of options.

    Raises OperationalError with libpq's complaint, which may quote a secret.

    >>> parsed("postgresql://a@db1/ops")
    {'user': 'a', 'dbname': 'ops', 'host': 'db1'}
    """
    found = pq.Conninfo.parse(words.encode())
    return {option.keyword.decode(): option.val.decode() for option in found if option.val is not None}


def connection_string(parameters: Mapping[str, str]) -> bytes:
    r"""Return libpq's parameters as one string.

    >>> connection_string({"host": "db1", "password": "it's", "options": "-c a=b"})
    b"host='db1' password='it\\'s' options='-c a=b'"
    """
    return " ".join(f"{name}='{_escaped(value)}'" for name, value in parameters.items()).encode()


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("'", r"\'")
