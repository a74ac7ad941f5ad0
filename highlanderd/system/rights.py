"""Give up root's rights for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def acting(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """Have the rights of another user only. For root, and for processes with a single thread."""
    own_gid, own_groups = os.getegid(), os.getgroups()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_gid)
        os.setgroups(own_groups)
