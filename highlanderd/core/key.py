"""Derive the 64-bit number that the advisory lock is taken on from a program's lock key.

The derivation can never change: two versions of it in one cluster would let two nodes lead one program.
"""

from __future__ import annotations

import hashlib

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def lock_id(namespace: str, lock_key: str | int) -> int:
    """Return the lock id of a program's key: an integer is the id itself, a string is hashed with its namespace.

    The string's id is the first 8 bytes, big-endian and signed, of SHA-256 of ``<namespace>/<lock_key>``; in SQL:
    ``('x' || substr(encode(sha256('highlander/beat'), 'hex'), 1, 16))::bit(64)::bigint``.

    Raises ValueError for an integer outside PostgreSQL's ``bigint``.

    >>> lock_id("highlander", "beat")
    8735414648771611572
    >>> lock_id("highlander", 42)
    42
    """
    if isinstance(lock_key, int):
        if not LOWEST <= lock_key <= HIGHEST:
            raise ValueError(f"{lock_key} does not fit PostgreSQL's bigint ({LOWEST} to {HIGHEST})")
        return lock_key
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
