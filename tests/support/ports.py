"""Ports of loopback that nobody else gets, from the moment they are named until this process ends.

A port that is merely free can be anybody's a moment later: another test's, or that of an outgoing connection. So each
is kept bound by a socket that never listens. Whoever binds it with SO_REUSEADDR, as servers do, gets it all the same.
"""

from __future__ import annotations

import socket

_reserved: list[socket.socket] = []


def reserved_port() -> int:
    """Return a port that a server of ours can bind at any time, again and again; until then connections are refused."""
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    _reserved.append(reservation)
    return int(reservation.getsockname()[1])
