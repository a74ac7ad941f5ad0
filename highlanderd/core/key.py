"""Derive a program's lock id, and the advisory lock that is taken, from its lock key.

The derivation can never change: two versions of it in one cluster would let two nodes lead one program.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

LOWEST, HIGHEST = -(2**63), 2**63 - 1
LOWEST_OF_PAIR, HIGHEST_OF_PAIR = -(2**31), 2**31 - 1

LABEL: Final = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}"
"""What a program or a node may be called: it stands in lock keys, URLs and application names."""
LABEL_WORDS: Final = "at most 63 letters, digits and _ . -, beginning with a letter, a digit or _"

Pair = tuple[int, int]
"""A key in the other of PostgreSQL's two key spaces. ``(0, 5)`` and ``5`` are two locks."""
LockKey = str | int | Pair


class AdvisoryLock(NamedTuple):
    """An advisory lock as ``pg_locks`` shows it."""

    number: int
    """The 64 bits of the key: ``classid`` and ``objid``."""
    space: int = 1
    """``objsubid``: 1 for a key that is one number, 2 for a pair."""

    @property
    def pair(self) -> tuple[int, int] | tuple[None, None]:
        """Return the two numbers of a pair; None twice for a key that is one number."""
        if self.space == 1:
            return None, None
        low = self.number & (2**32 - 1)
        return self.number >> 32, low - 2**32 if low > HIGHEST_OF_PAIR else low


def advisory_lock(namespace: str, lock_key: LockKey) -> AdvisoryLock:
    """Return the advisory lock that the leader of a program holds. Raises ValueError as ``lock_id`` does.

    >>> advisory_lock("highlander", (1, -2)).pair
    (1, -2)
    """
    if isinstance(lock_key, tuple):
        lock_id(namespace, lock_key)
        return AdvisoryLock(lock_key[0] << 32 | lock_key[1] & (2**32 - 1), 2)
    return AdvisoryLock(lock_id(namespace, lock_key))


@lru_cache(4096)
def lock_id(namespace: str, lock_key: LockKey) -> int:
    """Return the lock id of a program's key: an integer is the id itself, a string is hashed with its namespace.

    A pair's id is the same hash of ``pair/<first>,<second>``, without the namespace: as an integer, it is one lock for
    all namespaces.

    The string's id is the first 8 bytes, big-endian and signed, of SHA-256 of ``<namespace>/<lock_key>``; in SQL:
    ``('x' || substr(encode(sha256('highlander/beat'), 'hex'), 1, 16))::bit(64)::bigint``.

    Raises ValueError for an integer outside PostgreSQL's ``bigint``, and for a pair outside its ``integer``.

    >>> lock_id("highlander", "beat")
    8735414648771611572
    >>> lock_id("highlander", 42)
    42
    """
    if isinstance(lock_key, int):
        if not LOWEST <= lock_key <= HIGHEST:
            raise ValueError(f"{lock_key} does not fit PostgreSQL's bigint ({LOWEST} to {HIGHEST})")
        return lock_key
    if isinstance(lock_key, tuple):
        for half in lock_key:
            if not LOWEST_OF_PAIR <= half <= HIGHEST_OF_PAIR:
                raise ValueError(f"{half} does not fit PostgreSQL's integer ({LOWEST_OF_PAIR} to {HIGHEST_OF_PAIR})")
        namespace, lock_key = "pair", f"{lock_key[0]},{lock_key[1]}"
    digest = hashlib.sha256(f"{namespace}/{lock_key}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def name_lock(namespace: str, program: str) -> int:
    """Return the lock id of a program's name. Its leader holds this lock as well as the one of the program's key.

    Two nodes whose files give one program different keys meet at this lock, so only one of them leads. The number is
    derived as every lock id, from ``program:<namespace>/<program>``.

    >>> name_lock("highlander", "beat") == lock_id("program:highlander", "beat")
    True
    """
    return lock_id(f"program:{namespace}", program)
