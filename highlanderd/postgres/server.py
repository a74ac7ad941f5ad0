"""From an address to one verified connection, or to the sentence that says why this server must not be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

from highlanderd.core.lease import Lease
from highlanderd.postgres import fitness, ledger
from highlanderd.postgres.addresses import Addresses, Unfit, dressed
from highlanderd.postgres.fitness import Greeting
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.wire import ConnectFailed, Reply, Wire, WireLost, connect

log = logging.getLogger(__name__)


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
        self._latest = 0
        """The turn that the latest attempt was made in."""
        self._moved = -inf
        """When a silent session made the next attempts go elsewhere, on the loop's clock."""
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
        self.on_lease: Callable[[], None] = lambda: None
        """Told that the ledger has another lease than was known."""

    @property
    def place(self) -> str:
        """Where the server is, without any secret."""
        return self._addresses.place

    @property
    def parallel(self) -> int:
        """How many connections to open at once."""
        return self._addresses.parallel

    def next_address(self, turn: int | None = None) -> None:
        """Try another address next time than in ``turn``, or than the latest attempt did.

        Many attempts that failed at one address move on by one: the one behind it is not to be passed over.
        """
        if (self._latest if turn is None else turn) == self._turn:
            self._turn += 1

    def _fell_silent(self, opened: float) -> None:
        """Try another address: this one would swallow the next attempt as well, and the lease is half over.

        ``opened`` is when the silent session was: all that were on the same address move on once.
        """
        if opened > self._moved:
            self._moved = asyncio.get_running_loop().time()
            self._turn += 1

    async def open(self) -> Hello:
        """Open and verify one connection, within a fifth of a lease in all. Raises ConnectFailed or Unfit."""
        lease, turn = self.lease, self._turn
        self._latest = turn
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
        self._diagnosed, self._turn = False, turn
        opened = asyncio.get_running_loop().time()
        hello.wire.on_silence = lambda: self._fell_silent(opened)
        return hello

    async def _connect(self, turn: int, lease: Lease, end: float) -> Wire:
        address = await self._addresses.choose(turn, _left(end))
        ours = dressed(address, lease, self._node)
        try:
            wire = await connect(ours, _left(end))
        except ConnectFailed as failure:
            if failure.timed_out or self._diagnosed:
                raise
            self._diagnosed = True
            wire = await diagnosis(failure, address, ours, lease.renew_every)
        wire.on_alarm = self.on_alarm
        return wire

    async def _greet(self, wire: Wire, lease: Lease, end: float) -> Hello:
        book = self._book
        hello, meta = await wire.ask(
            [(book.statement("hello", ledger.HELLO), ()), (book.statement("meta", ledger.META), ())],
            max(_left(end), lease.renew_every / 4),
        )
        fitness.refuse_old(wire.server_version)
        said = fitness.greeting(hello, wire.backend_pid)
        fitness.refuse_forgetful(said, embedded=self._fresh is not None)
        self._judge_timeline(wire, said.system, said.timeline)
        self.version, self.role, self.database = said.version, said.role, said.database
        if meta.sqlstate in ledger.UNDEFINED:
            meta = await self._create(wire, lease, said)
        ruling = fitness.ledgers_lease(meta, book, said)
        self.seen_ledger = True
        self.follow(ruling)
        if ruling != lease:
            wire.drop("the ledger has another lease")
            raise ConnectFailed(f"connecting anew for the ledger's lease of {ruling.length:g} s")
        return Hello(wire, wire.backend_pid, said.started, lease)

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

    async def _create(self, wire: Wire, lease: Lease, said: Greeting) -> Reply:
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
            raise fitness.unusable(created, said)
        if fresh and self._fresh is not None:
            self._fresh.unlink(missing_ok=True)
        if not self.seen_ledger:
            log.info("the ledger is new: schema %s of database %s", book.schema, said.database)
        return meta

    def follow(self, lease: Lease) -> None:
        """The ledger's lease rules."""
        changed, self.lease = lease != self.lease, lease
        self.warnings = {note for note in self.warnings if not note.startswith("postgres.lease")}
        if note := fitness.overruled(self._book.lease, lease):
            self.warnings.add(note)
        if changed:
            self.on_lease()


async def diagnosis(failure: ConnectFailed, plain: Mapping[str, str], ours: Mapping[str, str], within: float) -> Wire:
    """Find out whether it is our options that are refused. Old servers die on them before telling their version.

    A server that was just starting takes them at the second try, and its connection is given.
    Raises ``failure`` when a plain connection fails as well, Unfit when only the options are in the way.
    """
    try:
        question = await connect({**plain, "gssencmode": "disable"}, within)
    except ConnectFailed:
        raise failure from None
    version = question.server_version
    question.drop("only a question")
    fitness.refuse_old(version)
    try:
        return await connect(ours, within)
    except ConnectFailed as again:
        if again.timed_out:
            raise
        raise Unfit(fitness.SETTINGS_REFUSED) from again


def _left(end: float) -> float:
    """Seconds until ``end`` on the loop's clock; what is late gets a moment all the same, and fails by itself."""
    return max(0.01, end - asyncio.get_running_loop().time())
