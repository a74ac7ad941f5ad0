"""What can wait, done between two surveys: migrate, lower the ceiling, settle, close, keep the history, look around."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import Final, Protocol

from highlanderd.core.knowledge import Knowledge, observe
from highlanderd.core.verdict import Candidate, Settle, judge
from highlanderd.postgres import health, ledger, migration
from highlanderd.postgres.ledger import Ledger, LedgerFacts
from highlanderd.postgres.replies import Ask, Query, Reply, Value
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import dialect, leading, lengths, scheduling, sharing, upkeep
from highlanderd.postgres.survey import Survey
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

HEALTH_EVERY: Final = 60.0
"""Seconds between two looks at what others do to the tables: it changes slowly, and the question is not for free."""

MOST_UNWRITTEN: Final = 1000
"""Lines of the history that this node still has to write: beyond them the oldest is lost."""


class Asking(Protocol):
    """A session that can be asked. Both raise WireLost when there is none."""

    async def ask(self, asks: list[Ask]) -> list[Reply]:
        """Return the replies to several statements."""

    async def inquire(self, name: str, sql: str, *values: Value) -> Reply:
        """Return the reply to one statement."""


class Housekeeping:
    """Keeps one ledger in order. All nodes do this at the same time."""

    def __init__(self, server: Server, ledger: Ledger, survey: Survey, session: Asking) -> None:
        self._server, self._ledger, self._survey, self._session = server, ledger, survey, session
        self._to_prune: set[int] = set()
        self._begun: dict[int, int] = {}
        """By lock id, the epoch of a term that the history may not have heard of."""
        self._unwritten = deque[Query](maxlen=MOST_UNWRITTEN)
        """What sessions were to write into the history, and could not."""
        self._knowledge: Knowledge | None = None
        """What was seen of the server since the ledger was found unsettled on it."""
        self._next_health = self._next_migration = 0.0

    def prune(self, lock_id: int) -> None:
        """Prune the history of a lock id later, so that it never delays a handover."""
        self._to_prune.add(lock_id)

    def note_begun(self, lock_id: int, epoch: int) -> None:
        """Have the history say that this term has begun, if it does not say so yet: for many terms in one statement."""
        self._begun[lock_id] = epoch

    def note_unwritten(self, query: Query) -> None:
        """Write this into the history later, as often as it takes: its table was locked, or a session was lost."""
        self._unwritten.append(query)

    async def run(self) -> None:
        """Do what is due after a survey. Raises WireLost."""
        now, found = boottime(), self._survey.facts
        if found is not None:
            await self._keep_ledger(found, now)
        if begun := dict(self._begun):
            reply = await self._session.inquire("begin_terms", leading.BEGIN_TERMS, list(begun), list(begun.values()))
            if reply.error is None:
                self._begun = {key: epoch for key, epoch in self._begun.items() if begun.get(key) != epoch}
        for query in tuple(self._unwritten):
            name, sql, values = query
            if (await self._session.inquire(name, sql, *values)).error is not None:
                break
            with suppress(ValueError):  # more were noted meanwhile than there is room for
                self._unwritten.remove(query)
        if self._to_prune:
            await self._session.inquire("prune", upkeep.PRUNE, self._to_prune.pop())
        if now >= self._next_health:
            self._next_health = now + HEALTH_EVERY
            if found is not None and found.version >= dialect.SHARED:
                for name, sql in sharing.TIDY.items():
                    await self._session.inquire(name, sql)
            if found is not None and found.version >= dialect.SCHEDULED:
                await self._session.inquire("prune_skipped", scheduling.PRUNE_SKIPPED)
            reply = await self._session.inquire("health", upkeep.HEALTH)
            if reply.rows:
                self._server.notes.warn("health", health.judge(reply.rows[0]))

    async def _keep_ledger(self, found: LedgerFacts, now: float) -> None:
        if self._survey.may_lower(now) and found.version > 1:
            await self._session.inquire("lower_ceiling", lengths.LOWER_CEILING, found.ceiling, found.lease)
        if found.version < dialect.VERSION and now >= self._next_migration:
            self._next_migration = now + self._server.lease.length
            await self._migrate(found.version)
        if found.settled:
            self._knowledge = None
            await self._close_elsewhere(found, now)
        else:
            await self._settle(found)

    async def _close_elsewhere(self, found: LedgerFacts, now: float) -> None:
        """Close the terms that lapsed on a server which is gone: otherwise they hold up all others. Raises WireLost."""
        for lock_id, leader in self._survey.lapsed_elsewhere(now):
            version = (lock_id, leader.epoch, leader.renewal, leader.system, leader.timeline)
            reply = await self._session.inquire("close", leading.CLOSE, *version, *found.where)
            if reply.affected:
                log.warning(
                    "closed the term of %s on %s: it was led through another server, and lapsed",
                    leader.program,
                    leader.node,
                )

    async def _settle(self, found: LedgerFacts) -> None:
        """Settle the ledger when its time has come, even if every program is led. Raises WireLost.

        Nodes that have never seen a longer lease, which was promised elsewhere, must wait for it here, too.
        """
        memory = self._server.memory
        if memory.binding > found.ceiling and found.version > 1:
            await self._raise_ceiling(found, memory.binding)
        reply = await self._session.inquire("look_bare", leading.LOOK_WITHOUT_HISTORY, None, None, None)
        if reply.error is not None or not reply.rows:
            return
        now, observation = boottime(), ledger.look(reply.rows, 0).observation
        self._knowledge = observe(self._knowledge or memory.knowledge(), observation, now)
        verdict = judge(observation, self._knowledge, now, Candidate("", "", keeperless=False))
        if isinstance(verdict, Settle):
            generation = max(verdict.generation, memory.generation)
            values = (verdict.system, verdict.timeline, verdict.place, generation)
            await self._session.inquire("settle", leading.SETTLE, *values)

    async def _raise_ceiling(self, found: LedgerFacts, binding: float) -> None:
        log.warning(
            "the ledger's ceiling is %g s, but this node has seen a lease of %g s promised: raising it to that",
            found.ceiling,
            binding,
        )
        await self._session.inquire("raise_ceiling", lengths.RAISE_CEILING, binding)

    async def _migrate(self, version: int) -> None:
        outcome = await migration.migrate(self._session.ask, self._ledger, version)
        self._server.notes.warn("migration", migration.waits(outcome, self._ledger))
        if outcome.migrated:
            log.info("the ledger was migrated from schema %d to %d", version, outcome.version)
