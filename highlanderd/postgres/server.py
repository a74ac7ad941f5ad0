"""From an address to one verified connection, or to the sentence that says why this server must not be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from highlanderd.core.lease import Lease
from highlanderd.errors import HighlanderError
from highlanderd.postgres import ledger
from highlanderd.postgres.addresses import Addresses, Unfit, dressed
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.wire import ConnectFailed, Reply, Wire, WireLost, connect

log = logging.getLogger(__name__)

OLDEST_SERVER: Final = 140000
"""idle_session_timeout and client_connection_check_interval came with PostgreSQL 14."""

FOREIGN_STATEMENTS: Final = frozenset({"42P05", "26000"})
"""SQLSTATE: a prepared statement exists already, or does not. On a new connection of our own neither can be."""

POOLER: Final = (
    "a connection pooler stands between: it could grant one lock to two nodes; "
    "give a dsn that leads to PostgreSQL directly"
)


@dataclass(frozen=True, slots=True)
class Hello:
    """What a verified connection is."""

    wire: Wire
    pid: int
    started: int
    """Start of the backend in microseconds, a bare token: with ``pid`` it names one backend for ever."""
    lease: Lease
    """The ledger's lease, which this session's timeouts were set for."""


class Server:
    """Opens verified connections to the PostgreSQL of one DSN. One attempt at a time goes to one address."""

    def __init__(self, dsn: str, book: Ledger, *, node: str, fresh: Path | None, seen_ledger: bool = False) -> None:
        self._addresses = Addresses(dsn)
        self._book = book
        self._node = node
        self._fresh = fresh
        self._turn = 0
        self._diagnosed = False
        self.seen_ledger = seen_ledger
        self._opened: list[tuple[Wire, str, int]] = []
        self.timeline: int | None = None
        """Of the server that was met last."""
        self.timelines: dict[str, int] = {}
        """By system identifier: the highest timeline seen in this node's life; it outlives the worker."""
        self.lease = Lease(book.lease)
        self.version: str | None = None
        self.role = ""
        self.database = ""
        self.warnings: set[str] = set()
        self.on_alarm: Callable[[str], None] = log.warning

    @property
    def place(self) -> str:
        """Where the server is, without any secret."""
        return self._addresses.place

    @property
    def parallel(self) -> int:
        """How many connections to open at once."""
        return self._addresses.parallel

    def next_address(self, turn: int | None = None) -> None:
        """Try another address next time; many attempts that failed at one of them (at ``turn``) move on by one."""
        if turn is None or turn == self._turn:
            self._turn += 1

    async def open(self) -> Hello:
        """Open and verify one connection, within a fifth of a lease in all. Raises ConnectFailed or Unfit."""
        lease, turn = self.lease, self._turn
        end = asyncio.get_running_loop().time() + lease.renew_every
        try:
            wire = await self._connect(turn, lease, end)
            try:
                hello = await self._greet(wire, lease, end)
            except BaseException:
                wire.drop("not fit for use")
                raise
        except WireLost as lost:
            self.next_address(turn)
            raise ConnectFailed(str(lost)) from lost
        except (ConnectFailed, Unfit):
            self.next_address(turn)
            raise
        self._diagnosed = False
        return hello

    async def _connect(self, turn: int, lease: Lease, end: float) -> Wire:
        address = await self._addresses.choose(turn, _left(end))
        ours = dressed(address, lease, self._node)
        try:
            wire = await connect(ours, _left(end))
        except ConnectFailed as failure:
            if failure.timed_out or self._diagnosed:
                raise
            wire = await self._diagnosis(failure, address, ours, lease.renew_every)
        wire.on_alarm = self.on_alarm
        return wire

    # -------------------------------------------------------------------------------------------------- fitness

    async def _diagnosis(
        self, failure: ConnectFailed, plain: Mapping[str, str], ours: Mapping[str, str], within: float
    ) -> Wire:
        """Once per outage: is it our options that are refused? Old servers die on them before telling their version.

        A server that was just starting takes them at the second try, and its connection is given.
        Raises ``failure`` when a plain connection fails as well, Unfit when only the options are in the way.
        """
        self._diagnosed = True
        try:
            question = await connect({**plain, "gssencmode": "disable"}, within)
        except ConnectFailed:
            raise failure from None
        version = question.server_version
        question.drop("only a question")
        _refuse_old(version)
        try:
            return await connect(ours, within)
        except ConnectFailed as again:
            if again.timed_out:
                raise
            raise Unfit(
                "the server refuses the session settings that highlanderd needs; when a pooler stands between, "
                "give a dsn that leads to PostgreSQL directly"
            ) from again

    async def _greet(self, wire: Wire, lease: Lease, end: float) -> Hello:
        book = self._book
        hello, meta = await wire.ask(
            [(book.statement("hello", ledger.HELLO), ()), (book.statement("meta", ledger.META), ())],
            max(_left(end), lease.renew_every / 4),
        )
        pid, started = self._judge(wire, hello)
        if meta.sqlstate in ledger.UNDEFINED:
            meta = await self._create(wire, lease)
        self._read_meta(meta)
        if self.lease != lease:
            wire.drop("the ledger has another lease")
            raise ConnectFailed(f"connecting anew for the ledger's lease of {self.lease.length:g} s")
        return Hello(wire, pid, started, lease)

    def _judge(self, wire: Wire, reply: Reply) -> tuple[int, int]:
        """Refuse what breaks the promise. Gives the backend's pid and start."""
        _refuse_old(wire.server_version)
        if reply.sqlstate in FOREIGN_STATEMENTS:
            raise Unfit(POOLER)
        if reply.error is not None:
            raise ConnectFailed(reply.error.text)
        standby, pid, started, fsync, version, role, database, system, timeline = reply.rows[0]
        if pid is None or int(pid) != wire.backend_pid:
            raise Unfit(POOLER)
        if standby == "t":
            raise Unfit(
                "the server is a hot standby, which would grant locks of its own; name all servers in the dsn and add "
                "target_session_attrs=read-write"
            )
        if fsync == "off" and self._fresh is None:  # embedded servers are for trying things out
            raise Unfit("the server runs with fsync = off and may forget who leads; switch fsync on")
        self._judge_timeline(wire, system or "", int(timeline or 0))
        self.version, self.role, self.database = version, role or "", database or ""
        return int(pid), int(started or 0)

    def _judge_timeline(self, wire: Wire, system: str, timeline: int) -> None:
        """Refuse a past that this node has left behind, and leave it with all sessions as soon as that shows.

        A leader that went on renewing there would lead beside the one that the promoted server knows.
        """
        newest = self.timelines.get(system, 0)
        if timeline < newest:
            why = (
                f"{self.place} is on timeline {timeline}, but this node has already seen timeline {newest} of the same "
                f"system: an old primary was started again; stop it"
            )
            self.on_alarm(why)
            raise Unfit(why)
        self.timelines[system] = self.timeline = timeline
        self._opened = [opened for opened in self._opened if opened[0].open]
        for opened, theirs, older in self._opened:
            if theirs == system and older < timeline:
                opened.drop(f"its server is still on timeline {older}, another one was promoted to {timeline}")
        self._opened.append((wire, system, timeline))

    async def _create(self, wire: Wire, lease: Lease) -> Reply:
        """Create the ledger, once in this daemon's life: one that vanished was removed by somebody."""
        book = self._book
        if self.seen_ledger:
            raise Unfit(
                f"the ledger in schema {book.schema} is gone; restore it, or restart every daemon to begin a new one"
            )
        fresh = self._fresh is not None and self._fresh.exists()
        asks = [(book.creation(), ()), (book.statement("meta", ledger.META), ())]
        if fresh:
            asks.insert(1, (book.statement("settle_fresh", ledger.SETTLE_FRESH), ()))
        created, *_, meta = await wire.ask(asks, lease.answer_within)
        if created.error is not None:
            raise self._privileges(created.error.sqlstate, created.error.text)
        if fresh and self._fresh is not None:
            self._fresh.unlink(missing_ok=True)
        if not self.seen_ledger:
            log.info("the ledger is new: schema %s of database %s", book.schema, self.database)
        return meta

    def _read_meta(self, reply: Reply) -> None:
        book = self._book
        if reply.error is not None:
            raise self._privileges(reply.error.sqlstate, reply.error.text)
        if not reply.rows:
            raise Unfit(f"the meta row of the ledger in schema {book.schema} is gone; restore it from a backup")
        version, namespace, length = reply.rows[0]
        if version is None or int(version) != ledger.VERSION:
            raise Unfit(f"the ledger has schema version {version}, this daemon knows {ledger.VERSION}: upgrade it")
        if namespace != book.namespace:
            raise Unfit(
                f'the ledger in schema {book.schema} belongs to namespace "{namespace}", this node is configured for '
                f'"{book.namespace}": give all nodes one daemon.namespace, or each namespace its own postgres.schema'
            )
        self.seen_ledger = True
        self.follow(Lease(float(length or 0)))

    def follow(self, lease: Lease) -> None:
        """The ledger's lease rules."""
        book = self._book
        self.lease = lease
        self.warnings = {note for note in self.warnings if not note.startswith("postgres.lease")}
        if lease.length != book.lease:
            note = (
                f"postgres.lease is {book.lease:g} s here but {lease.length:g} s in the ledger, which rules; write the "
                f"ledger's, or change it with `highlanderctl ledger set-lease`"
            )
            self.warnings.add(note)

    def _privileges(self, sqlstate: str, text: str) -> HighlanderError | ConnectFailed:
        if sqlstate != ledger.INSUFFICIENT_PRIVILEGE:
            return ConnectFailed(f"the ledger cannot be used: {text}")
        return Unfit(
            f"role {self.role} may not create or use the ledger in database {self.database} ({text}); let an "
            f"administrator run what `highlanderd -c FILE --print-schema` prints"
        )


def _refuse_old(version: int) -> None:
    if version < OLDEST_SERVER:
        raise Unfit(f"PostgreSQL {version // 10000} is too old: highlanderd needs 14 or later")


def _left(end: float) -> float:
    """Seconds until ``end`` on the loop's clock; what is late gets a moment all the same, and fails by itself."""
    return max(0.01, end - asyncio.get_running_loop().time())
