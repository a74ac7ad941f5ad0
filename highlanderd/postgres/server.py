"""From an address to one verified connection, or to the sentence that says why this server must not be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from highlanderd.core.lease import Lease
from highlanderd.core.verdict import old_timeline
from highlanderd.postgres import fitness, hosts, statements
from highlanderd.postgres.addresses import Addresses, Unfit, limits, with_options
from highlanderd.postgres.fitness import ServerFacts
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.wire import ConnectFailed, Reply, ServerMessage, Wire, WireLost, connect

log = logging.getLogger(__name__)

FIRST_WITHIN: Final = 2.0
"""Seconds at least for each attempt to connect before this node has seen the ledger, and with it the ledger's lease."""
MEANINGS: Final = 32
"""Texts of refused connections whose meaning is remembered, exceptions and warnings that were logged."""
RECONNECT_PAUSE: Final = 0.2
"""Seconds before a session that we dropped ourselves is replaced: the reason may still be there."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What a verified connection is."""

    wire: Wire
    pid: int
    started: int
    """Start of the backend in microseconds, a bare token: with ``pid`` it names one backend for ever."""
    lease: Lease
    """The ledger's lease, which this session's timeouts were set for."""
    version: int = statements.VERSION
    """Of the ledger's schema, as far as this daemon knows it."""


class Server:
    """Opens verified connections to the PostgreSQL of one DSN. One attempt at a time goes to one address."""

    def __init__(
        self,
        dsn: str,
        ledger: Ledger,
        *,
        node: str,
        fresh: Path | None,
        seen_ledger: bool = False,
        memory: NodeMemory | None = None,
    ) -> None:
        self._addresses = Addresses(dsn)
        self._ledger = ledger
        self.node = node
        self._fresh = fresh
        self._turn = 0
        self._latest = 0
        """The turn that the latest attempt was made in."""
        self._moved = -inf
        """When a silent session made the next attempts go elsewhere, on the loop's clock."""
        self._diagnosed: dict[str, str] = {}
        """What a refused connection was found to mean, by its text, since the last one that served; often nothing."""
        self.seen_ledger = seen_ledger
        self._opened: list[tuple[Wire, str, int]] = []
        self.timeline: int | None = None
        """Of the server that was met last."""
        self.memory = memory or NodeMemory()
        """What this node has seen of servers and epochs; it outlives the daemon."""
        self._asking_hosts: asyncio.Future[None] | None = None
        """The latest question to every host: whoever asks while it is under way shares it."""
        promise = self.memory.promise
        self.lease = Lease(ledger.lease if promise is None else promise.lease)
        """The ledger's, as far as this node knows."""
        self.version: str | None = None
        self.schema = 0
        """The version of the ledger's schema; 0 until it was read."""
        self.role = ""
        self.database = ""
        self.warnings: set[str] = set()
        self._unforeseen: set[str] = set()
        self._noticed: set[tuple[str, str]] = set()
        """The function and the first word of each warning that was logged: the rest may be different each time."""
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

    async def open(self) -> Connection:
        """Open and verify one connection, within a fifth of a lease in all. Raises ConnectFailed or Unfit."""
        lease, turn = self.lease, self._turn
        self._latest = turn
        if not self.seen_ledger and (self._asking_hosts is None or not self._asking_hosts.done()):
            await self.ask_hosts()  # once in a daemon's life, before its first session: a former worker has asked
        # A file may know a lease that is too short for the road; there is none to save before the ledger was seen.
        known = self.seen_ledger or self.memory.promise is not None
        end = asyncio.get_running_loop().time() + max(lease.renew_every, 0.0 if known else FIRST_WITHIN)
        try:
            wire = await self._connect(turn, lease, end)
            try:
                connection = await self._greet(wire, lease, end)
            except BaseException:
                wire.drop("not fit for use")
                raise
        except WireLost as lost:
            self.next_address(turn)
            raise ConnectFailed(str(lost)) from lost
        except (ConnectFailed, Unfit):
            self.next_address(turn)
            raise
        self._turn = turn
        self._diagnosed.clear()
        opened = asyncio.get_running_loop().time()
        connection.wire.on_silence = lambda: self._fell_silent(opened)
        return connection

    async def ask_hosts(self) -> None:
        """Ask every host of the DSN for its system and timeline; the highest timeline rules.

        A standby's answer counts, too: sessions with servers on a lower timeline are dropped, and new ones refused.
        Takes three fifths of a lease at most. All who ask at the same time share one question.
        """
        if self._asking_hosts is None or self._asking_hosts.done():
            self._asking_hosts = asyncio.ensure_future(self._ask_every_host())
        await asyncio.shield(self._asking_hosts)

    async def _ask_every_host(self) -> None:
        known = (await hosts.ask(self._addresses, self._ledger, self.lease, self.node)).hosts
        for host in known:
            self._learn(host.system, host.timeline)
        self.warn(hosts.DIVIDED, hosts.divided(known))

    async def hosts_lacking(self, written: hosts.Written) -> list[str]:
        """Ask every host of the DSN, and return those that may lack what the primary has written."""
        return hosts.lacking(await hosts.ask(self._addresses, self._ledger, self.lease, self.node), written)

    async def _connect(self, turn: int, lease: Lease, end: float) -> Wire:
        address = await self._addresses.choose(turn, _left(end))
        ours = with_options(address, lease, self.node)
        try:
            wire = await connect(ours, _left(end))
        except ConnectFailed as failure:
            if failure.timed_out:
                raise
            wire = await self._diagnosis(failure, address, ours, lease.renew_every)
        wire.on_alarm, wire.on_notice = self.on_alarm, self._note_warning
        return wire

    async def _diagnosis(
        self, failure: ConnectFailed, plain: Mapping[str, str], ours: Mapping[str, str], within: float
    ) -> Wire:
        """Ask once what a refusal means, and say it each time. Raises ConnectFailed or Unfit."""
        text = str(failure)
        if known := self._diagnosed.get(text):
            raise Unfit(known) from failure
        if known is not None:
            raise failure
        if len(self._diagnosed) >= MEANINGS:  # a text with a number in it may come in any number
            self._diagnosed.clear()
        self._diagnosed[text] = ""
        try:
            return await diagnosis(failure, plain, ours, within)
        except Unfit as unfit:
            self._diagnosed[text] = str(unfit)
            raise

    async def _greet(self, wire: Wire, lease: Lease, end: float) -> Connection:
        ledger = self._ledger
        fitness.refuse_software(wire.server_version, wire.told)
        _, connection, meta = await wire.ask(
            [
                (ledger.statement("no_transaction_limit", statements.NO_TRANSACTION_LIMIT), ()),
                (ledger.statement("hello", statements.IDENTIFY), ()),
                (ledger.statement("meta", statements.META), ()),
            ],
            max(_left(end), lease.renew_every / 4),
        )
        said = fitness.server_facts(connection, wire.backend_pid, wire.told("session_authorization"))
        fitness.refuse_forgetful(said, embedded=self._fresh is not None)
        fitness.refuse_changed(connection, lease)
        self._judge_timeline(wire, said.system, said.timeline)
        self.version, self.role, self.database = said.version, said.role, said.database
        if meta.sqlstate in statements.UNDEFINED:
            meta = await self._create(wire, lease, said)
        try:
            ledger_lease, version = fitness.ledgers_meta(meta, ledger, said)
        except fitness.Forgetful:  # once it is mended, everybody waits for what it may have forgotten
            unsettle = ledger.statement("unsettle", statements.UNSETTLE)
            await wire.ask([(unsettle, (said.system, said.timeline))], lease.answer_within)
            raise
        self.seen_ledger = True
        self.follow(ledger_lease.length)
        self.note_schema(version)
        if ledger_lease != lease:
            wire.drop("the ledger has another lease")
            raise ConnectFailed(f"connecting anew for the ledger's lease of {ledger_lease.length:g} s")
        return Connection(wire, wire.backend_pid, said.started, lease, version)

    def _judge_timeline(self, wire: Wire, system: str, timeline: int) -> None:
        """Refuse a past that this node has left behind, and leave it with all sessions as soon as that shows.

        A leader that went on renewing there would lead beside the one that the promoted server knows.
        """
        newest = self.memory.timeline(system)
        if timeline < newest:
            why = old_timeline(system, timeline, newest)
            self.on_alarm(why)
            raise Unfit(why)
        self.timeline = timeline
        self._learn(system, timeline)
        self._opened = [opened for opened in self._opened if opened[0].open]
        self._opened.append((wire, system, timeline))

    def _learn(self, system: str, timeline: int) -> None:
        """Know of a timeline, and leave the servers that it has left behind."""
        if not self.memory.learn_timeline(system, timeline):
            return
        for opened, theirs, older in self._opened:
            if theirs == system and older < timeline:
                opened.drop(f"its server is still on timeline {older}, another one was promoted to {timeline}")

    async def _create(self, wire: Wire, lease: Lease, said: ServerFacts) -> Reply:
        """Create the ledger, once in this daemon's life: one that vanished was removed by somebody."""
        ledger = self._ledger
        if self.seen_ledger:
            raise Unfit(
                f"the ledger in schema {ledger.schema} is gone; restore it, or restart every daemon to begin a new one"
            )
        fresh = self._fresh is not None and self._fresh.exists()
        asks = [(ledger.creation(self.memory.generation + 1), ()), (ledger.statement("meta", statements.META), ())]
        if fresh:
            asks.insert(1, (ledger.statement("settle_fresh", statements.SETTLE_FRESH), ()))
        created, *_, meta = await wire.ask(asks, lease.answer_within)
        if created.error is not None:
            raise fitness.unusable(created, said)
        if fresh and self._fresh is not None:
            self._fresh.unlink(missing_ok=True)
        if not self.seen_ledger:
            log.info("the ledger is new: schema %s of database %s", ledger.schema, said.database)
        return meta

    def follow(self, length: float) -> Lease:
        """Go by the ledger's lease of ``length`` seconds from now on, and return it."""
        lease = Lease(length)
        changed, self.lease = lease != self.lease, lease
        note = fitness.overruled(self._ledger.lease, lease)
        self.warn("postgres.lease", [note] if note else [])
        if changed:
            self.on_lease()
        return lease

    @property
    def limits(self) -> tuple[str, ...]:
        """The values of ``statements.LIMITS`` under the ledger's lease."""
        return tuple(limits(self.lease).values())

    def note_schema(self, version: int) -> None:
        """Know the version of the ledger's schema."""
        self.schema = version

    def _note_warning(self, message: ServerMessage) -> None:
        """Log what an extension or a trigger says about our statements, once of each kind."""
        kind = message.source, message.text.split(maxsplit=1)[0] if message.text else ""
        if kind not in self._noticed and len(self._noticed) < MEANINGS:
            self._noticed.add(kind)
            log.warning("PostgreSQL warns, which puts nothing in doubt (%s): %s", message.source, message.text)

    def note_unforeseen(self, what: str, error: Exception) -> None:
        """Log an exception that nobody has foreseen; with its traceback once, for what is wrong may stay wrong."""
        sentence = f"{what}: {error!r}"
        if sentence in self._unforeseen:
            log.debug("%s", sentence)
            return
        if len(self._unforeseen) >= MEANINGS:
            self._unforeseen.clear()
        self._unforeseen.add(sentence)
        log.error("%s", sentence, exc_info=error)

    def warn(self, prefix: str, notes: Iterable[str]) -> None:
        """Have exactly these warnings of those that begin with ``prefix``, and log each new one."""
        now = set(notes)
        for note in now - self.warnings:
            log.warning("%s", note)
        self.warnings = {note for note in self.warnings if not note.startswith(prefix)} | now


async def diagnosis(failure: ConnectFailed, plain: Mapping[str, str], ours: Mapping[str, str], within: float) -> Wire:
    """Find out what a refusal means: other software has its own words, and old servers die on our options.

    A server that was just starting takes them at the second try, and its connection is given.
    Raises ``failure`` when a plain connection fails as well, Unfit when only the options are in the way.
    """
    if sentence := fitness.foreseen(str(failure)):
        raise Unfit(sentence) from failure
    try:
        question = await connect({**plain, "gssencmode": "disable"}, within)
    except ConnectFailed:
        raise failure from None
    try:
        fitness.refuse_software(question.server_version, question.told)
    finally:
        question.drop("only a question")
    try:
        return await connect(ours, within)
    except ConnectFailed as again:
        if again.timed_out:
            raise
        raise Unfit(fitness.SETTINGS_REFUSED.format(again)) from again


def _left(end: float) -> float:
    """Seconds until ``end`` on the loop's clock; what is late gets a moment all the same, and fails by itself."""
    return max(0.01, end - asyncio.get_running_loop().time())
