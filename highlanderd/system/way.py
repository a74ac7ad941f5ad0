"""Who could put something in the place of a path: its directories and links, from the root down.

Standard library only: loggers use it, and the process that looks at paths as a program's user.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False  # ``typing`` costs more memory than a keeper has
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MOST_LINKS = 40  # as the kernel has it
ACCESS_LIST = "system.posix_acl_access"


def steps(path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield each directory and link on the way to an absolute path, and at last what it names. Raises OSError.

    A link is yielded itself, and then followed.
    """
    links = 0
    way, left = b"/", path.split(b"/")
    while left:
        name = left.pop(0)
        if name in (b"", b"."):
            continue
        way = os.path.dirname(way) if name == b".." else os.path.join(way, name)
        found = os.lstat(way)
        yield way, found
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(way)
            left = target.split(b"/") + left
            way = b"/" if target.startswith(b"/") else os.path.dirname(way)


def sheltered(path: bytes, gids: Collection[int]) -> bool:
    """Return whether only root, or the user we run as, can put anything in the place of ``path``. Raises OSError."""
    return gap(path, gids) is None


def gap(path: bytes, gids: Collection[int]) -> bytes | None:
    """Return the first thing on the way by which others could put something in the place of ``path``. Raises OSError.

    Everything on the way has to belong to root or to the user we run as, and no other user may write to it: not the
    world, and no group of ``gids``, the program's. Links are followed and judged in the same way, and so is what the
    path names.
    """
    for way, found in steps(path):
        ours = found.st_uid in (0, os.geteuid())
        if not ours or (not stat.S_ISLNK(found.st_mode) and _others_may_write(way, found, gids)):
            return way
    return None


def _others_may_write(path: bytes, found: os.stat_result, gids: Collection[int]) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    if found.st_mode & stat.S_IWGRP:
        return found.st_gid in gids or ACCESS_LIST in os.listxattr(path)
    return False
