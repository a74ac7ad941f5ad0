"""Open a connection without ever blocking the event loop: libpq's own steps, each when its socket is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from psycopg import pq
from psycopg.conninfo import make_conninfo

from highlanderd.postgres.replies import ConnectFailed, RefusedConnection
from highlanderd.postgres.wire import UNWATCHED, Reports, Wire, one_line


async def connect(parameters: Mapping[str, str], within: float, reports: Reports = UNWATCHED) -> Wire:
    """Return an open connection, within ``within`` seconds whatever the network does. Raises ConnectFailed.

    ``parameters`` are libpq's, for one host, whose name is resolved to ``hostaddr``: libpq would block on a name.
    """
    pg = pq.PGconn.connect_start(make_conninfo(**parameters).encode())
    dial = _Dial(pg, within)
    try:
        await dial.done
    except BaseException:
        dial.close()
        pg.finish()
        raise
    dial.close()
    return Wire(pg, reports)


def _failure(said: str) -> ConnectFailed:
    """Return what libpq's message means. Of a server's own message it puts two spaces after the severity.

    >>> _failure('connection to server failed: FATAL:  role "x" does not exist')
    RefusedConnection('connection to server failed: FATAL: role "x" does not exist')
    >>> _failure("connection to server failed: Connection refused")
    ConnectFailed('connection to server failed: Connection refused')
    """
    kind = RefusedConnection if ":  " in said else ConnectFailed
    return kind(one_line(said))


class _Dial:
    """libpq's connection state machine, on the event loop."""

    def __init__(self, pg: pq.abc.PGconn, within: float) -> None:
        self._pg = pg
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._timer = self._loop.call_later(within, self._expire, within)
        self._step(pq.PollingStatus.WRITING)

    def _poll(self) -> None:
        self._unwatch()
        self._step(pq.PollingStatus(self._pg.connect_poll()))

    def _step(self, status: pq.PollingStatus) -> None:
        if self.done.done():
            return
        if self._pg.status == pq.ConnStatus.BAD or status == pq.PollingStatus.FAILED:
            self.done.set_exception(_failure(self._pg.get_error_message()))
        elif status == pq.PollingStatus.OK:
            self.done.set_result(None)
        else:
            self._fd = self._pg.socket
            watch = self._loop.add_reader if status == pq.PollingStatus.READING else self._loop.add_writer
            watch(self._fd, self._poll)

    def _expire(self, within: float) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectFailed(f"no connection within {within:.3g} s", timed_out=True))

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Stop watching the socket: it belongs to the connection now."""
        self._timer.cancel()
        self._unwatch()
