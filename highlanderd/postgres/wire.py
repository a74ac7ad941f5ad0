"""One PostgreSQL connection, driven on libpq's pipeline mode: one statement, one Sync, one acknowledgement.

A statement counts as answered when its own ReadyForQuery has come back after its Sync, never at its command tag: the
commit happens at the Sync. Nothing is ever cancelled here, neither by asyncio nor by a cancel request; a connection
that does not answer in time is dropped whole. This module knows nothing of leases.

A connection calls two others. ``Reports`` is given to the constructor, and called with what the server says about
itself. ``Owner`` is the one user of the connection, and is called with notifications, and at the end. ``assign`` names
it: while the connection is being verified it has none, and then it is one session.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct
from psycopg import OperationalError, pq

from highlanderd.postgres.replies import WRAPAROUND_SOURCES, Ask, Reply, ServerMessage, Statement, Value, WireLost

log = logging.getLogger(__name__)


class Reports(Protocol):
    """What the server says that belongs to no statement's outcome."""

    def alarm(self, text: str) -> None:
        """Called with an announcement of a transaction id wraparound."""

    def server_warned(self, message: ServerMessage) -> None:
        """Called with each warning that puts nothing in doubt."""


class Owner(Protocol):
    """The one user of a connection."""

    def notified(self, payload: str) -> None:
        """Called with the payload of each notification."""

    def lost(self, why: str) -> None:
        """Called once, when the connection has ended."""


class _Unwatched:
    """For a connection that lives for one question."""

    def alarm(self, text: str) -> None:
        """Ignore it."""

    def server_warned(self, message: ServerMessage) -> None:
        """Ignore it."""

    def notified(self, payload: str) -> None:
        """Ignore it."""

    def lost(self, why: str) -> None:
        """Ignore it."""


UNWATCHED: Final = _Unwatched()


class Wire:
    """One open connection in pipeline mode. ``connect`` makes it. Call all methods on its event loop."""

    def __init__(self, pg: pq.abc.PGconn, reports: Reports) -> None:
        self._pg = pg
        self._fd = pg.socket
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_Pending] = deque()
        self._nobody: asyncio.Future[list[Reply]] = self._loop.create_future()
        """Done, for what nobody waits for."""
        self._nobody.set_result([])
        self._prepared: set[str] = set()
        self._last_words = ""
        self._open = True
        self.backend_pid = pg.backend_pid
        self.silent = False
        """Whether it was dropped because an answer did not come in time."""
        self._reports = reports
        self._owner: Owner = UNWATCHED
        pg.nonblocking = 1
        pg.notice_handler = self._noticed
        pg.enter_pipeline_mode()
        self._loop.add_reader(self._fd, self._readable)

    @property
    def open(self) -> bool:
        """Whether it can still be asked."""
        return self._open

    @property
    def idle(self) -> bool:
        """Whether all that was asked is answered."""
        return not self._pending

    def assign(self, owner: Owner) -> None:
        """Name the one user of this connection."""
        self._owner = owner

    @property
    def descriptor(self) -> int:
        """Its socket, to ask the kernel about. Only this object reads, writes or closes it."""
        return self._fd

    @property
    def server_version(self) -> int:
        """The server's version as libpq has it, e.g. 150018."""
        return self._pg.server_version

    def parameter(self, name: str) -> str:
        """Return the server's value of a parameter that it reports by itself; empty for one that it does not."""
        return (self._pg.parameter_status(name.encode()) or b"").decode(errors="replace")

    def ask(self, asks: Sequence[Ask], within: float) -> asyncio.Future[list[Reply]]:
        """Send statements one behind the other, each with its own Sync. The future's result is their replies, in order.

        The future fails with WireLost when the connection ends first. When not all is answered ``within`` seconds, the
        connection is dropped.
        """
        if not self._open:
            closed: asyncio.Future[list[Reply]] = self._loop.create_future()
            closed.set_exception(WireLost(self._last_words or "the connection is closed"))
            return closed
        batch = self._batch(self._loop.create_future(), len(asks), within)
        try:
            for reply, (statement, values) in zip(batch.replies, asks, strict=True):
                self._pending.append(_Pending(statement.name, reply, batch))
                self._send(statement, values)
            self._flush()
        except OperationalError as error:
            self.drop(one_line(str(error)))
        return batch.future

    def _batch(self, future: asyncio.Future[list[Reply]], count: int, within: float) -> _Batch:
        timer = self._loop.call_later(within, self._expire, within)
        return _Batch(future, timer, [Reply() for _ in range(count)])

    def keep_alive(self, within: float) -> None:
        """Have the server see that this end lives: a Sync alone, for which it executes nothing.

        The connection is dropped when that is not answered ``within`` seconds.
        """
        if not self._open:
            return
        batch = self._batch(self._nobody, 1, within)
        self._pending.append(_Pending("", batch.replies[0], batch))
        try:
            self._pg.pipeline_sync()
            self._flush()
        except OperationalError as error:
            self.drop(one_line(str(error)))

    def _send(self, statement: Statement, values: Sequence[Value]) -> None:
        name = statement.name.encode()
        if statement.name not in self._prepared:
            self._pg.send_prepare(name, statement.sql.encode())
            self._prepared.add(statement.name)
        self._pg.send_query_prepared(name, [_encoded(value) for value in values])
        self._pg.pipeline_sync()

    def _expire(self, within: float) -> None:
        """Give the connection up: no answer came, not even an end, so the network or the server is gone."""
        self.silent = True
        self.drop(f"no answer within {within:.3g} s")

    def _flush(self) -> None:
        if self._pg.flush():
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._fd)
        try:
            self._flush()
        except OperationalError as error:
            self.drop(one_line(str(error)))

    def _readable(self) -> None:
        try:
            self._pg.consume_input()
            self._read_notifications()
            self._read_results()
        except OperationalError as error:
            self.drop(self._last_words or one_line(str(error)))
        except Exception as error:  # nothing else would end what waits for an answer
            log.exception("what PostgreSQL sent cannot be read")
            self.drop(f"what PostgreSQL sent cannot be read: {error}")

    def _read_notifications(self) -> None:
        while notification := self._pg.notifies():
            self._owner.notified(notification.extra.decode(errors="replace"))

    def _read_results(self) -> None:
        while self._pending and not self._pg.is_busy():
            result = self._pg.get_result()
            if result is not None:
                self._take(result)
        if self._pg.status == pq.ConnStatus.BAD:
            raise OperationalError(self._pg.get_error_message())

    def _take(self, result: pq.abc.PGresult) -> None:
        pending = self._pending[0]
        reply, batch = pending.reply, pending.batch
        match result.status:
            case pq.ExecStatus.PIPELINE_SYNC:
                self._last_words = ""  # the session has outlived what failed before
                self._pending.popleft()
                batch.closed += 1
                if batch.closed == len(batch.replies):
                    batch.finish()
            case pq.ExecStatus.TUPLES_OK:
                reply.rows = _rows(result)
            case pq.ExecStatus.COMMAND_OK:
                reply.affected = result.command_tuples or 0
            case pq.ExecStatus.PIPELINE_ABORTED:  # its Prepare has failed just before
                self._prepared.discard(pending.name)
            case _:
                reply.error = _message(result)
                self._last_words = reply.error.text

    def _noticed(self, result: pq.abc.PGresult) -> None:
        """Sort a warning: it belongs to the statement under way; without one, the server says why it ends."""
        message = _message(result)
        if message.source in WRAPAROUND_SOURCES:
            self._reports.alarm(message.text)
        elif not self._pending:
            self._last_words = message.text
        elif message.doubtful:
            self._pending[0].reply.warnings.append(message)
        else:
            self._reports.server_warned(message)

    def drop(self, why: str) -> None:
        """Close the socket at once. What is under way fails with WireLost, and the owner's ``lost`` is called."""
        if not self._open:
            return
        self._open = False
        self._last_words = why
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._pg.notice_handler = None
        self._pg.finish()
        pending, self._pending = self._pending, deque()
        for statement in pending:
            statement.batch.fail(why)
        self._owner.lost(why)


class _Batch(Struct):
    """Statements that were asked together."""

    future: asyncio.Future[list[Reply]]
    timer: asyncio.TimerHandle
    replies: list[Reply]
    closed: int = 0

    def finish(self) -> None:
        self.timer.cancel()
        if not self.future.done():
            self.future.set_result(self.replies)

    def fail(self, why: str) -> None:
        self.timer.cancel()
        if not self.future.done():
            self.future.set_exception(WireLost(why))


class _Pending(Struct, frozen=True):
    """A statement that waits for its Sync."""

    name: str
    reply: Reply
    batch: _Batch


def _encoded(value: Value) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, str | int | float):
        return str(value).encode()
    return ("{" + ",".join(_element(item) for item in value) + "}").encode()


def _element(item: str | int | None) -> str:
    """Return an element of an array; a text may hold what separates elements."""
    if item is None:
        return "NULL"
    if isinstance(item, int):
        return str(item)
    return '"' + item.replace("\\", r"\\").replace('"', r"\"") + '"'


def _rows(result: pq.abc.PGresult) -> list[tuple[str | None, ...]]:
    """Return the rows as text. A survey of a thousand programs has sixteen thousand values: no call for each."""
    value_of, columns = result.get_value, range(result.nfields)
    return [
        tuple([None if (value := value_of(row, column)) is None else value.decode() for column in columns])
        for row in range(result.ntuples)
    ]


def _message(result: pq.abc.PGresult) -> ServerMessage:
    fields = (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.SOURCE_FUNCTION)
    sqlstate, text, source = ((result.error_field(name) or b"").decode(errors="replace") for name in fields)
    return ServerMessage(sqlstate, text or result.get_error_message().strip(), source)


def one_line(text: str) -> str:
    """Return a message of libpq, which often has several lines, as one line."""
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
