"""Who is at the other end of a Unix socket, and whether it may give orders."""

from __future__ import annotations

import errno
import socket
import struct

from msgspec import Struct

SO_PEERGROUPS = 59
"""Linux 4.13; the socket module does not name it."""
MOST_GROUPS = 1024
"""Bytes, 256 groups: the most that Python's getsockopt takes. Of a peer with more only the primary group counts."""


class Peer(Struct, frozen=True):
    """The process at the other end of a Unix socket, as the kernel vouches for it."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who connected. Raises OSError when the connection is gone."""
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(pid, uid, frozenset((gid, *_supplementary(connection))))


def _supplementary(connection: socket.socket) -> tuple[int, ...]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MOST_GROUPS)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


def may_command(peer: Peer, own_uid: int, gid: int | None) -> bool:
    """Return whether a peer may give orders: root, the daemon's own user, and members of the group may.

    >>> may_command(Peer(1, 1000, frozenset({1000, 27})), own_uid=33, gid=27)
    True
    >>> may_command(Peer(1, 1000, frozenset({1000})), own_uid=33, gid=None)
    False
    """
    return peer.uid in (0, own_uid) or gid in peer.groups
