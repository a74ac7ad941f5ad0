"""The library that the listeners are made of takes a sixth of a daemon's start to import: programs come first."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Final

CERTIFICATES: Final = "SSL_CERT_FILE"
"""The variable by which OpenSSL finds the machine's certificates."""
USERS: Final = ("highlanderd.listeners.control", "highlanderd.listeners.health")
"""The modules whose import brings it."""


def imported() -> bool:
    """Return whether to open a listener takes no import."""
    return all(name in sys.modules for name in USERS)


def bring() -> None:
    """Import it, which takes some 0.1 s. The first spare does that once nothing waits for it; a daemon, for a door."""
    with without_certificates():
        for name in USERS:
            importlib.import_module(name)


@contextlib.contextmanager
def without_certificates() -> Iterator[None]:
    """Import in the block what imports aiohttp. Its client, which is not used, loads the machine's certificates then.

    That takes as long as a fifth of all imports.
    """
    given = os.environ.get(CERTIFICATES)
    os.environ[CERTIFICATES] = os.devnull
    try:
        yield
    finally:
        del os.environ[CERTIFICATES]
        if given is not None:
            os.environ[CERTIFICATES] = given
