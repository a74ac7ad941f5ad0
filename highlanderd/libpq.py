"""libpq as psycopg wraps it, without the rest of psycopg: that is not used, and takes a tenth of a second to import.

The package's own code is executed when something of it is asked for that is no part of the wrapper.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping


def _defer() -> None:
    """Make ``psycopg`` a package whose modules can be imported, and that executes its own code at the first use."""
    spec = importlib.util.find_spec("psycopg")
    if spec is None or spec.loader is None:
        return  # the import says what is missing
    loader, package = spec.loader, importlib.util.module_from_spec(spec)

    def find(name: str) -> object:
        if name in ("pq", "errors"):
            return importlib.import_module(f"psycopg.{name}")
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = find  # type: ignore[method-assign]
    sys.modules["psycopg"] = package


if "psycopg" not in sys.modules:
    _defer()

from psycopg import pq  # noqa: E402 - after the package is ready for it
from psycopg.errors import OperationalError  # noqa: E402

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
