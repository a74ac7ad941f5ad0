"""The one session of a pool that listens, and asks and writes what concerns no single program.

Lock sessions never LISTEN: the server signals every listening backend at each notification. This one hears who changed
which row, surveys the ledger several times a lease, and in between does what can wait: it migrates the schema, lowers
the ceiling of leases, prunes the history and looks at what others do to the tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from highlanderd.core.ceiling import CeilingWatch, LeaseUse
from highlanderd.core.knowledge import Knowledge, observe
from highlanderd.core.lease import Lease
from highlanderd.core.promise import Promise
from highlanderd.core.status import MigrationReport
from highlanderd.core.verdict import Candidate, Settle, judge
from highlanderd.errors import HighlanderError
from highlanderd.postgres import fitness, health, ledger, migration, statements
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.hosts import Written
from highlanderd.postgres.ledger import Ledger, LedgerFacts
from highlanderd.postgres.server import RECONNECT_PAUSE, Connection, Server
from highlanderd.postgres.wire import Ask, Reply, Value, WireLost
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

HEALTH_EVERY: Final = 60.0
"""Seconds between two looks at what others do to the tables: it changes slowly, and the question is not for free."""


class Unreadable(Exception):
    """The ledger is not what this session took it for."""


class Connections(Protocol):
    """What the listener needs of its pool."""

    server: Server
    ledger: Ledger
    trouble: str

    def request(self, client: Listener) -> None:
        """Ask for a connection."""

    def lost(self, why: str) -> None:
        """Tell that a session was lost."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads a lock id as the ledger shows it: what a survey gives."""

    node: str
    instance: str
    epoch: int
    renewal: int
    leads: bool
    program: str = ""
    trusted_for: float = 0.0
    """Seconds: the lease that the row carries."""
    system: int = 0
    timeline: int = 0
    """The server that the row was last written through."""


class Listener:
    """Hears notifications and surveys the ledger. ``run`` does the work; everything else only tells or asks it."""

    urgency = -1.0
    """Before all others: it is one, and it wakes them."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._connection: Connection | None = None
        self._hints: dict[int, set[Callable[[], None]]] = {}
        self._arrived = asyncio.Event()
        self._to_prune: set[int] = set()
        self._watch = CeilingWatch()
        self._knowledge: Knowledge | None = None
        """What was seen of the server since the ledger was found unsettled on it."""
        self._elsewhere: Mapping[tuple[int, Leader], float] = {}
        """What is led through another server, by lock id, and the arrival of the survey that showed it first."""
        self._next_health = self._next_migration = 0.0
        self.leaders: Mapping[int, Leader] = {}
        self.facts: LedgerFacts | None = None
        """As the last survey showed them."""
        self.on_survey: Callable[[], None] = lambda: None

    @property
    def connected(self) -> bool:
        """Whether there is a session at the moment."""
        return self._connection is not None

    def keep_alive(self) -> None:
        """The surveys do that."""

    def hint(self, lock_id: int, tell: Callable[[], None]) -> Callable[[], None]:
        """Have ``tell`` called whenever the row of ``lock_id`` may have changed; return the way to end that."""
        self._hints.setdefault(lock_id, set()).add(tell)
        return lambda: self._hints[lock_id].discard(tell)

    def prune(self, lock_id: int) -> None:
        """Have the history of a lock id pruned some time, never in the way of a handover."""
        self._to_prune.add(lock_id)

    def deliver(self, connection: Connection) -> None:
        """Listen on a new connection; whatever was notified before is unknown, so everybody looks."""
        self._connection = connection
        connection.wire.on_notify = self._notified
        connection.wire.on_lost = self._lost
        self._arrived.set()

    async def run(self) -> None:
        """Keep a session that listens, and survey the ledger on it: that also keeps it from idling away."""
        while True:
            self._pool.request(self)
            await self._arrived.wait()
            self._arrived.clear()
            if self._connection is None:
                continue
            wire, begun = self._connection.wire, boottime()
            try:
                await self._serve()
            except WireLost:
                if boottime() - begun < RECONNECT_PAUSE:  # what ended this one would end the next one as quickly
                    await asyncio.sleep(RECONNECT_PAUSE)
            except Exception as error:  # noqa: BLE001 - the ledger may hold anything; the next session reads it again
                self._pool.server.note_unforeseen("the ledger cannot be read", error)
                wire.drop(f"the ledger cannot be read: {error}")
                await asyncio.sleep(self._pool.server.lease.renew_every)

    async def _serve(self) -> None:
        connection = self._connection
        if connection is None:
            return
        wire = connection.wire
        listen = self._pool.ledger.statement("listen", f"LISTEN {ledger.identifier(self._pool.ledger.channel)}")
        await wire.ask([(listen, ())], connection.lease.answer_within)
        self._wake_everybody()
        while self._connection is not None and self._connection.wire is wire:
            await self.survey()
            await self._housekeeping()
            await asyncio.sleep(self._pool.server.lease.renew_every)

    def _notified(self, payload: str) -> None:
        with suppress(ValueError):
            for tell in tuple(self._hints.get(int(payload), ())):
                tell()

    def _wake_everybody(self) -> None:
        for tells in self._hints.values():
            for tell in tuple(tells):
                tell()

    def _lost(self, why: str) -> None:
        self._connection = None
        self._pool.lost(why)
        self._wake_everybody()

    # ----------------------------------------------------------------------------------------------------- surveying

    async def survey(self) -> None:
        """Read who leads what into ``leaders``, and the ledger's facts. Raises WireLost."""
        connection = self._connection
        rows, about = await self.ask([self._asked("survey", statements.SURVEY), self._asked("facts", statements.FACTS)])
        if connection is not None:
            self._refuse_others(connection, rows, about)
        if about.sqlstate in statements.BLOCKED:
            return
        if about.error is not None or not about.rows:
            self.facts = None  # the next session asks which schema the ledger has now
            raise Unreadable(about.error.text if about.error else "its meta row is gone")
        found = ledger.facts(about.rows[0])
        if self._follow(found) and rows.error is None:
            self.facts = found
            self._read(rows, found)

    def _refuse_others(self, connection: Connection, *replies: Reply) -> None:
        """Leave the session when another backend than its own has answered. Raises WireLost."""
        try:
            for reply in replies:
                reply.rows = fitness.of_backend(reply, connection.pid)
        except Unfit as unfit:
            self._pool.server.on_alarm(str(unfit))
            connection.wire.drop(str(unfit))
            raise WireLost(str(unfit)) from unfit

    def _follow(self, found: LedgerFacts) -> bool:
        """Go by the ledger's version and lease; return whether the answers were in this version's words."""
        connection, version = self._connection, min(found.version, statements.VERSION)
        if connection is None or connection.version != version:
            self._connection, self.facts = connection and replace(connection, version=version), None
            return False
        self._pool.server.note_schema(found.version)
        if connection.lease.length != found.lease:
            self._connection = replace(connection, lease=self._pool.server.follow(found.lease))
            limits = self._asked("limits", statements.LIMITS, *self._pool.server.limits)
            connection.wire.ask([limits], connection.lease.answer_within).add_done_callback(
                lambda done: done.exception()
            )
        return True

    def _read(self, reply: Reply, found: LedgerFacts) -> None:
        self.leaders = {
            int(lock_id or 0): Leader(
                node=node or "",
                instance=instance or "",
                epoch=int(epoch or 0),
                renewal=int(renewal or 0),
                leads=leads == "t",
                program=program or "",
                trusted_for=float(trusted_for or 0),
                system=int(system or 0),
                timeline=int(timeline or 0),
            )
            for lock_id, program, node, instance, epoch, renewal, leads, trusted_for, system, timeline in reply.rows
        }
        for leader in self.leaders.values():
            self._pool.server.memory.learn_epoch(leader.epoch)
        led = {lock_id: leader for lock_id, leader in self.leaders.items() if leader.leads}
        longest = max((leader.trusted_for for leader in led.values()), default=0.0)
        use = LeaseUse(found.where, found.lease, found.ceiling, found.wanted, longest)
        now = boottime()
        self._elsewhere = {
            (lock_id, leader): self._elsewhere.get((lock_id, leader), now)
            for lock_id, leader in led.items()
            if leader.system != found.where[0]
        }
        self._watch = self._watch.after(use, now)
        ceiling = max(found.ceiling, longest)  # where a row carries more, the ceiling has gone back
        promise = Promise(*found.where, ceiling, found.lease)
        self._pool.server.memory.learn_promise(promise, now, settled=found.settled)
        self.on_survey()

    async def _housekeeping(self) -> None:
        """Do what can wait. Raises WireLost."""
        now, found = boottime(), self.facts
        if self._watch.may_lower(now) and found is not None and found.version > 1:
            await self.ask([self._asked("lower_ceiling", statements.LOWER_CEILING, found.ceiling, found.lease)])
        if found is not None and found.version < statements.VERSION and now >= self._next_migration:
            self._next_migration = now + self._pool.server.lease.length
            await self._migrate(found.version)
        if found is not None and found.settled:
            self._knowledge = None
            await self._close_elsewhere(found, now)
        elif found is not None:
            await self._settle(found)
        if self._to_prune:
            await self.ask([self._asked("prune", statements.PRUNE, self._to_prune.pop())])
        if now >= self._next_health:
            self._next_health = now + HEALTH_EVERY
            [reply] = await self.ask([self._asked("health", statements.HEALTH)])
            if reply.rows:
                self._pool.server.warn(health.PREFIX, health.judge(reply.rows[0]))

    async def _close_elsewhere(self, found: LedgerFacts, now: float) -> None:
        """Close the terms that lapsed on a server which is gone: else they hold up all others. Raises WireLost."""
        for (lock_id, leader), since in self._elsewhere.items():
            if now >= since + Lease(leader.trusted_for).wait:
                version = (lock_id, leader.epoch, leader.renewal, leader.system, leader.timeline)
                [reply] = await self.ask([self._asked("close", statements.CLOSE, *version, *found.where)])
                if reply.affected:
                    log.warning("%s is led no more by %s through another server: closed", leader.program, leader.node)

    async def _settle(self, found: LedgerFacts) -> None:
        """Settle the ledger when its time has come, even if every program is led. Raises WireLost.

        Nodes that have never seen a longer lease, which was promised elsewhere, must wait for it here, too.
        """
        binding = self._pool.server.memory.binding
        if binding > found.ceiling and found.version > 1:
            log.warning(
                "this ledger knows of no lease above %g s, and this node has seen %g s promised: all wait for that",
                found.ceiling,
                binding,
            )
            await self.ask([self._asked("raise_ceiling", statements.RAISE_CEILING, binding)])
        [reply] = await self.ask([self._asked("look_bare", statements.LOOK_WITHOUT_HISTORY, None, None)])
        if reply.error is not None or not reply.rows:
            return
        now, observation = boottime(), ledger.look(reply.rows, 0).observation
        self._knowledge = observe(self._knowledge or self._pool.server.memory.knowledge(), observation, now)
        verdict = judge(observation, self._knowledge, now, Candidate("", "", keeperless=False))
        if isinstance(verdict, Settle):
            generation = max(verdict.generation, self._pool.server.memory.generation)
            values = (verdict.system, verdict.timeline, verdict.place, generation)
            await self.ask([self._asked("settle", statements.SETTLE, *values)])

    async def _migrate(self, version: int) -> None:
        outcome = await migration.migrate(self.ask, self._pool.ledger, version)
        self._pool.server.warn(migration.PREFIX, migration.waits(outcome, self._pool.ledger))
        if outcome.migrated:
            log.info("the ledger was migrated from schema %d to %d", version, outcome.version)

    async def hosts_lacking(self, written: Written) -> list[str]:
        """Return the hosts of the DSN that may lack what the primary has written."""
        return await self._pool.server.hosts_lacking(written)

    async def blockers(self, pid: int) -> str:
        """Say who keeps the backend ``pid`` waiting: empty when nobody does. Raises WireLost."""
        [reply] = await self.ask([self._asked("blockers", statements.BLOCKERS, pid)])
        return reply.rows[0][0] or "" if reply.rows else ""

    async def holders(self, lock_id: int, name_lock: int) -> str:
        """Say which sessions keep a program from being led: empty when none does. Raises WireLost.

        The lock on its name comes second: whoever tries to take over has that one for a moment.
        """
        [reply] = await self.ask([self._asked("holders", statements.HOLDERS, [lock_id, name_lock])])
        held = [row[1] or "" for row in reply.rows if row[0] == str(lock_id)] or [row[1] or "" for row in reply.rows]
        return ", ".join(dict.fromkeys(held))

    # -------------------------------------------------------------------------------------------------------- asking

    def _asked(self, name: str, sql: str, *values: Value) -> Ask:
        version = self._connection.version if self._connection is not None else statements.VERSION
        return self._pool.ledger.statement(name, sql, version), values

    async def ask(self, asks: list[Ask]) -> list[Reply]:
        """Ask on the listening session. Raises WireLost when there is none."""
        if self._connection is None:
            raise WireLost(self._pool.trouble or "no session")
        return await self._connection.wire.ask(asks, self._connection.lease.answer_within)

    async def answer(self, name: str, sql: str, *values: Value) -> Reply:
        """Ask one statement for a person. Raises HighlanderError when it cannot be answered, or fails."""
        try:
            [reply] = await self.ask([self._asked(name, sql, *values)])
        except WireLost as lost:
            raise HighlanderError(f"PostgreSQL does not answer: {lost}") from lost
        if reply.error is not None:
            raise HighlanderError(reply.error.text)
        return reply

    async def migrate(self) -> MigrationReport:
        """Bring the schema to our version now, or say what that waits for. Raises HighlanderError."""
        found = await self.fresh_facts()
        if found.version >= statements.VERSION:
            return MigrationReport(found.version, migrated=False, waits_for=())
        try:
            return await migration.migrate(self.ask, self._pool.ledger, found.version)
        except WireLost as lost:
            raise HighlanderError(f"PostgreSQL does not answer: {lost}") from lost

    async def shown(self) -> dict[str, object]:
        """Return the ledger's facts for people. Raises HighlanderError when they cannot be had."""
        found = await self.fresh_facts()
        system, timeline, _ = found.where if found.settled else (None, None, None)
        return {
            "schema": self._pool.ledger.schema,
            "version": found.version,
            "compatible_from": found.compatible_from,
            "ledger": found.ledger or None,
            "namespace": found.namespace,
            "lease": found.lease,
            "lease_in_force": found.wanted,
            "ceiling": found.ceiling,
            "settled_system": system and str(system),
            "settled_timeline": timeline,
            "offsets": found.offsets,
            "lock_ids": len(self.leaders),
            "unreleased": sum(leader.leads for leader in self.leaders.values()),
            "maintenance_until": found.maintenance and found.maintenance.until,
            "maintenance_by": found.maintenance and found.maintenance.author,
            "maintenance_reason": found.maintenance and found.maintenance.reason,
        }

    async def fresh_facts(self) -> LedgerFacts:
        """Return the ledger's facts as they are now. Raises HighlanderError when they cannot be had."""
        try:
            await self.survey()
            if self.facts is None:
                await self.survey()  # the first one may have found out which version of the schema there is
        except WireLost as lost:
            raise HighlanderError(f"PostgreSQL does not answer: {lost}") from lost
        if self.facts is None:
            raise HighlanderError("the ledger cannot be read at present; try again in a moment")
        return self.facts
