"""From an address to one verified connection, or to the sentence that says why this server must not be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from highlanderd.core.lease import Lease
from highlanderd.postgres import fitness
from highlanderd.postgres.addresses import Addresses, Unfit, limits, with_options
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.credentials import Credentials
from highlanderd.postgres.diagnosis import Diagnoses
from highlanderd.postgres.dialling import connect
from highlanderd.postgres.fitness import ServerFacts
from highlanderd.postgres.hosts import Hosts, Written
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.notes import Notes
from highlanderd.postgres.replies import Ask, ConnectFailed, Reply, WireLost
from highlanderd.postgres.sql import connecting, dialect, leading
from highlanderd.postgres.timelines import Timelines
from highlanderd.postgres.turns import Turns
from highlanderd.postgres.wire import Wire

log = logging.getLogger(__name__)

FIRST_WITHIN: Final = 2.0
"""Seconds at least for each attempt to connect before this node has seen the ledger, and with it the ledger's lease."""


class _Attempt(Struct, frozen=True):
    """One attempt to connect."""

    turn: int
    """Which address it goes to."""
    lease: Lease
    """The ledger's lease as far as it is known: all limits of the session are made from it."""
    end: float
    """When it is given up, on the loop's clock."""

    @property
    def left(self) -> float:
        """Seconds until the end. A late step gets a moment all the same, and fails by itself."""
        return max(0.01, self.end - asyncio.get_running_loop().time())


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
        reread: Callable[[], str] | None = None,
        on_alarm: Callable[[str], None] = log.warning,
        on_lease: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a server. ``fresh`` is a file that exists while nothing was ever led on an embedded server.

        With ``seen_ledger`` the ledger is not created again. ``reread`` returns the DSN as its file says now.
        ``on_alarm`` is called with sentences that an operator must read, ``on_lease`` for another lease than was known.
        """
        self._ledger, self.node, self._fresh, self._on_lease = ledger, node, fresh, on_lease
        self._addresses, self.turns, self.notes = Addresses(dsn), Turns(), Notes(on_alarm)
        self._credentials = Credentials(self._addresses, reread)
        self.memory = memory or NodeMemory()
        self._diagnoses, self._timelines = Diagnoses(self.notes), Timelines(self.memory, self.notes)
        self._hosts = Hosts(self._addresses, ledger, node, self._timelines, self.notes)
        self.lease = Lease(self.memory.promise.lease if self.memory.promise else ledger.lease)
        """The ledger's, as far as this node knows."""
        self.facts: ServerFacts | None = None
        """Of the server that was connected to last."""
        self.seen_ledger, self.schema = seen_ledger, 0
        """Whether this node has seen the ledger, and the version of its schema; 0 until it was read."""

    @property
    def address(self) -> str:
        """The hosts, ports and the database of the DSN, without any secret."""
        return self._addresses.address

    def use_credentials(self, dsn: str) -> None:
        """Use the credentials of a DSN that names the same place. Raises Unfit when it names another one."""
        if self._addresses.follow(dsn):
            log.info("postgres.dsn has other credentials than before: new connections use them")

    @property
    def has_many_hosts(self) -> bool:
        """Whether the DSN names more than one host: another one may serve where one does not."""
        return self._addresses.many

    @property
    def parallel(self) -> int:
        """How many connections to open at once."""
        return self._addresses.parallel

    @property
    def version(self) -> str | None:
        """PostgreSQL's version, of the server that was connected to last."""
        return None if self.facts is None else self.facts.version

    @property
    def timeline(self) -> int | None:
        """The timeline of the server that was connected to last."""
        return None if self.facts is None else self.facts.timeline

    async def open(self) -> Connection:
        """Open and verify one connection, within a fifth of a lease in all. Raises ConnectFailed or Unfit."""
        lease, turn = self.lease, self.turns.begin()
        if not self.seen_ledger and not self._hosts.asked:
            await self.ask_hosts()  # once in a daemon's life, before its first session: a former worker has asked
        # A file may know a lease that is too short for the network; before the ledger was seen there is none to save.
        known = self.seen_ledger or self.memory.promise is not None
        within = max(lease.renew_every, 0.0 if known else FIRST_WITHIN)
        try:
            connection = await self._attempt(_Attempt(turn, lease, asyncio.get_running_loop().time() + within))
        except WireLost as lost:
            self.turns.move_on(turn)
            raise ConnectFailed(str(lost)) from lost
        except (ConnectFailed, Unfit):
            self.turns.move_on(turn)
            raise
        self.turns.succeeded(turn)
        self._diagnoses.clear()
        return connection

    async def ask_hosts(self) -> None:
        """Ask every host of the DSN for its system and timeline, within three fifths of a lease."""
        await self._hosts.learn(self.lease)

    async def hosts_lacking(self, written: Written) -> list[str]:
        """Ask every host of the DSN, and return those that may lack what the primary has written."""
        return await self._hosts.lacking(written, self.lease)

    async def _attempt(self, attempt: _Attempt) -> Connection:
        wire = await self._connect(attempt)
        try:
            return await self._verify(wire, attempt)
        except BaseException:
            wire.drop("not fit for use")
            raise

    async def _connect(self, attempt: _Attempt) -> Wire:
        address = await self._addresses.choose(attempt.turn, attempt.left)
        ours = with_options(address, attempt.lease, self.node)
        try:
            return await connect(ours, attempt.left, self.notes)
        except ConnectFailed as failure:
            if failure.timed_out:
                raise
            self._credentials.begin()
            return await self._diagnoses.diagnose(failure, address, ours, attempt.lease.renew_every)

    async def _verify(self, wire: Wire, attempt: _Attempt) -> Connection:
        ledger, lease = self._ledger, attempt.lease
        fitness.refuse_software(wire.server_version, wire.parameter)
        asks: list[Ask] = [
            (ledger.statement("identify", connecting.IDENTIFY), ()),
            (ledger.statement("meta", connecting.META), ()),
        ]
        if wire.server_version >= fitness.LIMITS_TRANSACTIONS:
            asks.insert(0, (ledger.statement("no_transaction_limit", connecting.NO_TRANSACTION_LIMIT), ()))
        *_, identity, meta = await wire.ask(asks, max(attempt.left, lease.renew_every / 4))
        facts = fitness.server_facts(identity, wire.backend_pid, wire.parameter("session_authorization"))
        fitness.refuse_forgetful(facts, embedded=self._fresh is not None)
        fitness.refuse_changed(identity, lease)
        self._timelines.admit(wire, facts.system, facts.timeline)
        self.facts = facts
        if meta.sqlstate in dialect.UNDEFINED:
            meta = await self._create(wire, lease, facts)
        version = await self._enter(wire, lease, facts, meta)
        opened = asyncio.get_running_loop().time()
        return Connection(wire, wire.backend_pid, facts.identified, opened, lease, version)

    async def _enter(self, wire: Wire, lease: Lease, facts: ServerFacts, meta: Reply) -> int:
        """Go by what the ledger says of itself, and return the version of its schema. Raises ConnectFailed or Unfit."""
        try:
            ledger_lease, version = fitness.ledgers_meta(meta, self._ledger, facts)
        except fitness.Forgetful:  # once it is mended, all nodes wait for the leases that it may have forgotten
            unsettle = self._ledger.statement("unsettle", leading.UNSETTLE)
            await wire.ask([(unsettle, (facts.system, facts.timeline))], lease.answer_within)
            raise
        self.seen_ledger = True
        self.follow(ledger_lease.length)
        self.schema = version
        if ledger_lease != lease:
            wire.drop("the ledger has another lease")
            raise ConnectFailed(f"connecting anew for the ledger's lease of {ledger_lease.length:g} s")
        return version

    async def _create(self, wire: Wire, lease: Lease, facts: ServerFacts) -> Reply:
        """Create the ledger, and return the answer to META. Raises Unfit when this node has seen it before."""
        ledger = self._ledger
        if self.seen_ledger:
            raise Unfit(
                f"the ledger in schema {ledger.schema} is gone; restore it, or restart every daemon to begin a new one"
            )
        fresh = self._fresh is not None and self._fresh.exists()
        asks = [(ledger.creation(self.memory.generation + 1), ()), (ledger.statement("meta", connecting.META), ())]
        if fresh:
            asks.insert(1, (ledger.statement("settle_fresh", leading.SETTLE_FRESH), ()))
        created, *_, meta = await wire.ask(asks, lease.answer_within)
        if created.error is not None:
            raise fitness.unusable(created, facts)
        if fresh and self._fresh is not None:
            self._fresh.unlink(missing_ok=True)
        if not self.seen_ledger:
            log.info("created the ledger: schema %s of database %s", ledger.schema, facts.database)
        return meta

    def note_schema(self, version: int) -> None:
        """Note the version of the ledger's schema."""
        self.schema = version

    def follow(self, length: float) -> Lease:
        """Go by the ledger's lease of ``length`` seconds from now on, and return it."""
        lease = Lease(length)
        changed, self.lease = lease != self.lease, lease
        overruled = fitness.overruled(self._ledger.lease, lease)
        self.notes.warn("lease", [overruled] if overruled else [])
        if changed:
            self._on_lease()
        return lease

    @property
    def limits(self) -> tuple[str, ...]:
        """The values of ``connecting.LIMITS`` under the ledger's lease."""
        return tuple(limits(self.lease).values())
