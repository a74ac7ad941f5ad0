"""One PostgreSQL connection, driven on libpq's pipeline mode: one statement, one Sync, one acknowledgement.

A statement counts as answered when its own ReadyForQuery has come back after its Sync, never at its command tag: the
commit happens at the Sync. Nothing is ever cancelled here, neither by asyncio nor by a cancel request; a connection
that does not answer in time is dropped whole. This module knows nothing of leases.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from psycopg import OperationalError, pq
from psycopg.conninfo import make_conninfo

log = logging.getLogger(__name__)

Value = str | int | float | bool | None | Sequence[int]

WRAPAROUND_SOURCES: Final = frozenset({"GetNewTransactionId", "GetNewMultiXactId"})
"""Server functions whose warnings announce a transaction id wraparound: an alarm, and no doubt about the commit."""
_OF_COMMITS: Final = re.compile(r"sync|commit|repl|xlog|quorum", re.IGNORECASE)
"""In the names of server functions that may warn of a commit: PostgreSQL's is SyncRepWaitForLSN, others have theirs."""


class WireLost(Exception):
    """The connection is gone, and what was asked may or may not have happened."""


class ConnectFailed(Exception):
    """No connection came about. ``timed_out`` says that nobody answered, not even with a refusal."""

    def __init__(self, why: str, *, timed_out: bool = False) -> None:
        super().__init__(why)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that is prepared under ``name`` once per connection, when it is first asked."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """An error or a warning. Only ``sqlstate`` and ``source`` are for decisions; ``text`` is for people."""

    sqlstate: str
    text: str
    source: str
    """The server's function; unlike ``text`` it is never translated."""

    @property
    def doubtful(self) -> bool:
        """Whether a warning leaves it open if the commit is safe; extensions and triggers warn of other things."""
        return not self.source or _OF_COMMITS.search(self.source) is not None


@dataclass(slots=True)
class Reply:
    """All that came back for one statement, up to its own ReadyForQuery."""

    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    affected: int = 0
    error: ServerMessage | None = None
    warnings: list[ServerMessage] = field(default_factory=list)
    """Those that leave it open if the commit is safe."""

    @property
    def sqlstate(self) -> str | None:
        """The error's SQLSTATE, or None."""
        return self.error.sqlstate if self.error else None

    @property
    def acknowledged(self) -> bool:
        """Whether the commit is beyond doubt: no error, and no warning such as of a cancelled wait for a standby."""
        return self.error is None and not self.warnings


Ask = tuple[Statement, Sequence[Value]]


def _ignore(*_: object) -> None:
    """What a connection tells when nobody has asked to be told."""


class Wire:
    """One open connection in pipeline mode. Made by ``connect``; all methods are to be called on its event loop."""

    def __init__(self, pg: pq.abc.PGconn) -> None:
        self._pg = pg
        self._fd = pg.socket
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_Pending] = deque()
        self._prepared: set[str] = set()
        self._last_words = ""
        self._open = True
        self.backend_pid = pg.backend_pid
        self.on_lost: Callable[[str], None] = _ignore
        self.on_notify: Callable[[str], None] = _ignore
        self.on_alarm: Callable[[str], None] = _ignore
        self.on_notice: Callable[[ServerMessage], None] = _ignore
        """Told of each warning that puts nothing in doubt."""
        self.on_silence: Callable[[], None] = lambda: None
        pg.nonblocking = 1
        pg.notice_handler = self._noticed
        pg.enter_pipeline_mode()
        self._loop.add_reader(self._fd, self._readable)

    @property
    def open(self) -> bool:
        """Whether it can still be asked."""
        return self._open

    @property
    def descriptor(self) -> int:
        """Its socket, for who wants to ask the kernel about it: nobody else reads, writes or closes it."""
        return self._fd

    @property
    def server_version(self) -> int:
        """As libpq gives it, e.g. 150018."""
        return self._pg.server_version

    def told(self, name: str) -> str:
        """Return the server's value of a parameter that it tells by itself; empty for one that it does not."""
        return (self._pg.parameter_status(name.encode()) or b"").decode(errors="replace")

    def ask(self, asks: Sequence[Ask], within: float) -> asyncio.Future[list[Reply]]:
        """Send statements one behind the other, each with its own Sync; the future gives their replies in order.

        The future fails with WireLost when the connection ends first, which it does by our own hand when not all has
        been answered ``within`` seconds.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if not self._open:
            future.set_exception(WireLost(self._last_words or "the connection is closed"))
            return future
        timer = self._loop.call_later(within, self._expire, within)
        batch = _Batch(future, timer, [Reply() for _ in asks])
        try:
            for reply, (statement, values) in zip(batch.replies, asks, strict=True):
                self._pending.append(_Pending(statement.name, reply, batch))
                self._send(statement, values)
            self._flush()
        except OperationalError as error:
            self.drop(_sentence(str(error)))
        return future

    def _send(self, statement: Statement, values: Sequence[Value]) -> None:
        name = statement.name.encode()
        if statement.name not in self._prepared:
            self._pg.send_prepare(name, statement.sql.encode())
            self._prepared.add(statement.name)
        self._pg.send_query_prepared(name, [_encoded(value) for value in values])
        self._pg.pipeline_sync()

    def _expire(self, within: float) -> None:
        """Nothing came, not even an end: the road or the server is gone, and ``on_silence`` is told first."""
        self.on_silence()
        self.drop(f"no answer within {within:.3g} s")

    def _flush(self) -> None:
        if self._pg.flush():
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        self._loop.remove_writer(self._fd)
        try:
            self._flush()
        except OperationalError as error:
            self.drop(_sentence(str(error)))

    def _readable(self) -> None:
        try:
            self._pg.consume_input()
            self._read_notifications()
            self._read_results()
        except OperationalError as error:
            self.drop(self._last_words or _sentence(str(error)))
        except Exception as error:  # nobody else would end what waits for an answer
            log.exception("what PostgreSQL sent cannot be read")
            self.drop(f"what PostgreSQL sent cannot be read: {error}")

    def _read_notifications(self) -> None:
        while notification := self._pg.notifies():
            self.on_notify(notification.extra.decode())

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
                self._pending.popleft()
                batch.closed += 1
                if batch.closed == len(batch.replies):
                    batch.finish()
            case pq.ExecStatus.TUPLES_OK:
                width = range(result.nfields)
                reply.rows = [
                    tuple(_decoded(result.get_value(row, column)) for column in width) for row in range(result.ntuples)
                ]
            case pq.ExecStatus.COMMAND_OK:
                reply.affected = result.command_tuples or 0
            case pq.ExecStatus.PIPELINE_ABORTED:  # its Prepare has failed just before
                self._prepared.discard(pending.name)
            case _:
                reply.error = _message(result)
                self._last_words = reply.error.text

    def _noticed(self, result: pq.abc.PGresult) -> None:
        """A warning belongs to the statement under way; what comes while none is are the server's last words."""
        message = _message(result)
        if message.source in WRAPAROUND_SOURCES:
            self.on_alarm(message.text)
        elif not self._pending:
            self._last_words = message.text
        elif message.doubtful:
            self._pending[0].reply.warnings.append(message)
        else:
            self.on_notice(message)

    def drop(self, why: str) -> None:
        """Close the socket at once. What is under way fails with WireLost; ``on_lost`` is told ``why``."""
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
        self.on_lost(why)


@dataclass(slots=True)
class _Batch:
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


@dataclass(frozen=True, slots=True)
class _Pending:
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
    return ("{" + ",".join(str(item) for item in value) + "}").encode()


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _message(result: pq.abc.PGresult) -> ServerMessage:
    fields = (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.SOURCE_FUNCTION)
    sqlstate, text, source = ((result.error_field(name) or b"").decode(errors="replace") for name in fields)
    return ServerMessage(sqlstate, text or result.get_error_message().strip(), source)


def _sentence(text: str) -> str:
    """Return what libpq says, which is often several lines, as one."""
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


async def connect(parameters: Mapping[str, str], within: float) -> Wire:
    """Open a connection, bounded to ``within`` seconds whatever the network does.

    ``parameters`` are libpq's, one host only, its name already resolved to ``hostaddr``: libpq would block on it.
    Raises ConnectFailed.
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
    return Wire(pg)


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
            self.done.set_exception(ConnectFailed(_sentence(self._pg.get_error_message())))
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
        """Leave the socket to its next owner."""
        self._timer.cancel()
        self._unwatch()
