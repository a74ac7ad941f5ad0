"""Listening sockets that this module binds itself, and aiohttp served behind them.

Both listeners need what aiohttp's own sites do not have: a Unix socket with the right mode from its first moment, a
live owner noticed before a stale file is removed, and a bound on connections, because a daemon without descriptors
cannot reach PostgreSQL again.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from highlanderd.config.identity import NotAnswered, find_group
from highlanderd.errors import HighlanderError
from highlanderd.listeners.peers import peer_of
from highlanderd.listeners.places import AT_A_TIME, Places
from highlanderd.threads import in_thread

Closer = Callable[[], Coroutine[None, None, None]]
"""Call and await it once to close the door; it takes a second at most, whatever the clients do."""

Lend = Callable[[socket.socket], None]
"""Called with a socket on which somebody listens: it is to be shut should this process be dead without ending."""
IDLE = 75.0
"""Seconds after which a connection without a whole request is closed; scrapers ask every minute at the slowest."""
BACKLOG = 1024
"""Clients that the kernel keeps waiting. asyncio would accept as many in a row, so it is given ``AT_A_TIME``."""
FAREWELL = 0.3
"""Seconds that requests under way get at the end, and once more when they are cancelled."""
UNREAD = 30_000
"""Milliseconds for which a TCP client may leave an answer unread."""
BINDING = 2.0
"""Seconds to wait for another process that binds a socket in the same directory; that takes milliseconds."""


async def group_id(group: str | None) -> int | None:
    """Return the number of ``[control] group``. Raises HighlanderError when there is no such group."""
    if group is None:
        return None
    try:
        return await in_thread(lambda: find_group(group), "look up a group")
    except NotAnswered as error:
        raise HighlanderError(f"cannot look up [control] group {group!r}: {error.args[0]}") from None
    except LookupError:
        raise HighlanderError(
            f"there is no group {group!r} on this machine: create it with 'groupadd --system {group}', "
            "or change [control] group"
        ) from None
    except OSError as error:
        raise HighlanderError(f"cannot look up [control] group {group!r}: {error}") from error


@asynccontextmanager
async def unix_door(path: Path, mode: int, gid: int | None) -> AsyncIterator[tuple[socket.socket, Callable[[], None]]]:
    """Bind ``path``; yield its socket, and a function that removes the file unless a later daemon has made it anew.

    The block must begin to listen; until it ends, no other daemon can bind. Raises HighlanderError when a live daemon
    owns the file, when it is not a socket, or when it cannot be made.
    """
    async with _directory_locked(path):
        _remove_stale(path)
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made = _bind(door, path, mode, gid)
            yield door, lambda: _remove(path, made)
        except OSError as error:
            door.close()
            raise HighlanderError(f"cannot make the control socket {path}: {_cure(error, path)}") from error


def _bind(door: socket.socket, path: Path, mode: int, gid: int | None) -> os.stat_result:
    os.fchmod(door.fileno(), 0)  # Linux makes the file with it, so nobody gets in before its group is set
    door.bind(str(path))
    made = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # no link that was put in its place is followed
    try:
        found, itself = os.fstat(made), f"/proc/self/fd/{made}"
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(errno.EEXIST, "something else was put in its place")
        if gid not in (None, found.st_gid):  # a filter of system calls may forbid even what changes nothing
            os.chown(itself, -1, -1 if gid is None else gid)
        os.chmod(itself, mode if gid is not None else mode & ~stat.S_IRWXG)  # noqa: PTH101 - it is no path
        return found
    finally:
        os.close(made)


def _remove(path: Path, made: os.stat_result) -> None:
    try:
        found = path.lstat()
        if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()
    except FileNotFoundError:
        pass


@asynccontextmanager
async def _directory_locked(path: Path) -> AsyncIterator[None]:
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HighlanderError(f"cannot make the control socket {path}: {_cure(error, path)}") from error
    try:
        await _lock(directory, path)
        yield
    finally:
        os.close(directory)


async def _lock(directory: int, path: Path) -> None:
    end = time.monotonic() + BINDING
    while True:
        try:
            return fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise HighlanderError(
                    f"another process holds a lock on {path.parent}, so that {path} cannot be made: "
                    f"find it with 'fuser -v {path.parent}', and start again once it is gone"
                ) from error
            await asyncio.sleep(0.01)


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise HighlanderError(f"{path} is not a socket: remove it, or change [control] socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog is a live owner: EAGAIN at once
        answer = probe.connect_ex(str(path))
    if answer == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif answer != errno.ENOENT:
        raise HighlanderError(
            f"a running daemon already answers on {path}: stop it with 'highlanderctl --socket {path} shutdown', "
            "or give this one another [control] socket"
        )


def _cure(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"the directory {path.parent} does not exist; create it, or change [control] socket"
        case errno.EACCES | errno.EPERM:
            return f"{error.strerror}; run highlanderd as a user who may write {path.parent} and belongs to the group"
        case None:  # Python's own: the address does not fit
            return f"{error}; Unix sockets take 107 bytes at most, choose a shorter [control] socket"
    return str(error.strerror)


async def tcp_door(listen: str) -> socket.socket:
    """Bind ``host:port``, ``[v6]:port`` or ``:port`` (every address). Raises HighlanderError with the cure.

    To look a name up can take minutes without a network; the event loop runs meanwhile.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65535 or not _may_be_a_host(host):
        raise HighlanderError(f"[metrics] listen = {listen!r} is not an address: write it as '127.0.0.1:9841'")
    try:
        door = await in_thread(lambda: _bound(host, int(port)), "bind a listener")
    except OSError as error:
        raise HighlanderError(
            f'cannot listen on {listen}: {_reason(error)}; change [metrics] listen, or switch it off with listen = ""'
        ) from error
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)  # connections inherit it
    return door


def _may_be_a_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def _reason(error: OSError) -> str:
    """Return what the kernel says, without the address that Python adds. A resolver's errors have their own numbers."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error.strerror or error)


def _bound(host: str, port: int) -> socket.socket:
    if host not in ("", "*"):
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


_NOT_OURS = (HttpProcessingError, ConnectionError, web.RequestPayloadError, asyncio.InvalidStateError)
"""The last one is aiohttp's own: a request is answered just when the end has given up waiting for it."""


class _OnlyBugs(logging.Filter):
    """Lets only this project's bugs through: a port scanner fills no log with tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], _NOT_OURS))


_only_bugs = _OnlyBugs()


class _Entrance(asyncio.Protocol):
    """Gives a new connection a place, or closes it at once."""

    def __init__(self, server: web.Server, places: Places) -> None:
        self._server, self._places = server, places

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection on to aiohttp, if there is a place for it."""
        connected = cast("asyncio.Transport", transport)
        client = _client(connected)
        if client is None or not self._places.take(client, self._server.connections):
            connected.abort()
            return
        connection = self._server()
        self._places.fill(connection, client)
        connected.set_protocol(connection)
        connection.connection_made(connected)


def _client(transport: asyncio.Transport) -> Hashable:
    """Return whom a connection counts for: a user, or an address; None when it is gone already."""
    connection = transport.get_extra_info("socket")
    try:
        if connection.family == socket.AF_UNIX:
            return peer_of(connection).uid
        return str(connection.getpeername()[0])
    except OSError:
        return None


def keep(_: socket.socket) -> None:
    """Lend a socket to nobody."""


async def serve(app: web.Application, door: socket.socket, limit: int, lend: Lend = keep) -> Closer:
    """Serve ``app`` on a bound socket with at most ``limit`` connections at once, which clients share fairly.

    A few places of a Unix socket are kept for root and the daemon's own user.
    """
    places = Places(limit, {0, os.geteuid()} if door.family == socket.AF_UNIX else ())
    app.middlewares.insert(0, places.middleware())
    log = logging.getLogger(f"{__name__}.http")
    log.addFilter(_only_bugs)
    runner = web.AppRunner(app, access_log=None, logger=log, keepalive_timeout=IDLE, shutdown_timeout=FAREWELL)
    await runner.setup()
    server = cast("web.Server", runner.server)

    lend(door)
    listener = await asyncio.get_running_loop().create_server(
        lambda: _Entrance(server, places), sock=door, backlog=AT_A_TIME
    )
    door.listen(BACKLOG)

    async def close() -> None:
        listener.close()
        await runner.cleanup()

    return close
