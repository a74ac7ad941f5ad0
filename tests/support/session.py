"""A program's session on a real server, without a machine: tests ask as the machine would, and hear what it would."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from highlanderd.core.effects import Release
from highlanderd.core.events import (
    Attached,
    Detached,
    Event,
    Granted,
    LookAdvised,
    Looked,
    Notified,
    Refused,
    Settled,
    Unlocked,
)
from highlanderd.core.key import LockKey, advisory_lock, lock_id
from highlanderd.core.knowledge import Knowledge, glimpsed, observe
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Observation
from highlanderd.core.states import Cause
from highlanderd.core.verdict import Candidate, Claim, Settle, Verdict, judge
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.lock_connection import Answered
from highlanderd.postgres.look_batch import LookBatch
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.renewal_batch import RenewalBatch
from highlanderd.postgres.replies import Query
from highlanderd.postgres.server import Server
from highlanderd.postgres.session import Session
from highlanderd.postgres.sharing import SharingSession
from highlanderd.postgres.sql.leading import SETTLE_FRESH
from highlanderd.system.linux import boottime
from tests.support.postgres import Database

log = logging.getLogger(__name__)

LEASE = 10.0
"""Seconds. A session is given up when an answer takes 3/10 of it: on a busy machine that shall not be."""
SHORT_LEASE = 5.0
"""For tests that wait one out."""

OF_LOCK = "locktype = 'advisory' AND granted AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = %s"

E = TypeVar("E", bound=Event)


class RecordingSession(Session):
    """Keeps the names of what it has asked."""

    def __init__(self, *words: Any, **keys: Any) -> None:
        self.asked: list[str] = []
        super().__init__(*words, **keys)

    def ask(self, answered: Answered, *queries: Query, **more: Any) -> None:
        """Keep the names, and ask."""
        self.asked += [name for name, *_ in queries]
        super().ask(answered, *queries, **more)


class RecordingSharer(RecordingSession, SharingSession):
    """Does so, too, and shares warm connections while it waits."""


class Line:
    """One session, and what it told."""

    def __init__(
        self,
        pool: Pool,
        program: str,
        node: str,
        instance: str,
        key: LockKey = "",
        looks: LookBatch | None = None,
        renewals: RenewalBatch | None = None,
        session: type[RecordingSession] = RecordingSession,
    ) -> None:
        self.instance, self.node, self.program = instance, node, program
        self.lock_id = lock_id("highlander", key or program)
        self.knowledge = Knowledge()
        self.alarms: list[str] = []
        self._told: asyncio.Queue[Event] = asyncio.Queue()
        self.session = session(
            pool,
            program=program,
            lock_id=self.lock_id,
            advisory=advisory_lock("highlander", key or program),
            node=node,
            instance=instance,
            keeperless=lambda: True,
            post=self._hear,
            on_alarm=self.alarms.append,
            looks=looks,
            renewals=renewals,
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, Attached | Detached):
            self.session.note_known(event.number if isinstance(event, Attached) else None)
        self._told.put_nowait(event)

    async def told(self, kind: type[E], within: float = 60.0) -> E:
        """Return the next event of this kind, passing over hints; anything else is a failure."""
        while True:
            event = await asyncio.wait_for(self._told.get(), within)
            if isinstance(event, kind):
                return event
            assert isinstance(event, Notified | LookAdvised), f"wanted {kind.__name__}, was told {event}"

    async def next(self) -> Event:
        """Return the next event, passing over hints."""
        while isinstance(event := await asyncio.wait_for(self._told.get(), 60), Notified | LookAdvised):
            pass
        return event

    async def outcome(self) -> Granted | Refused:
        """Return how a takeover ended."""
        while True:
            event = await asyncio.wait_for(self._told.get(), 60)
            if isinstance(event, Granted | Refused):
                return event
            assert isinstance(event, Notified | LookAdvised), f"wanted the outcome of a takeover, was told {event}"

    async def look(self) -> Observation:
        """Look, and add what was seen to what is known."""
        self.session.look()
        looked = await self.told(Looked)
        self.knowledge = self.known_after(looked)
        return looked.observation

    def known_after(self, looked: Looked) -> Knowledge:
        """Return what is known once a look was answered."""
        return observe(glimpsed(self.knowledge, looked.glimpse), looked.observation, looked.at)

    def judge(self, observation: Observation) -> Verdict:
        """Judge what a look has just shown."""
        return judge(observation, self.knowledge, boottime(), Candidate(self.node, self.instance, keeperless=True))

    async def claim(self) -> Claim:
        """Look until the verdict is to take over, settling on the way."""
        while True:
            verdict = self.judge(await self.look())
            match verdict:
                case Claim():
                    return verdict
                case Settle():
                    self.session.write_settled(verdict)
                    await self.told(Settled)
                case _:
                    await asyncio.sleep(0.05)

    async def lead(self) -> Granted:
        """Begin a term."""
        self.session.take_over(await self.claim())
        return await self.told(Granted)

    def renew(self, epoch: int, lease: float = LEASE) -> None:
        """Ask for the term to be prolonged under a lease of so many seconds."""
        self.session.renew(epoch, Lease(lease))

    async def release(self, epoch: int, cause: Cause = Cause.RELEASED) -> None:
        """End it in good order."""
        self.session.release(Release(epoch, cause, None))
        await self.told(Unlocked)


class Desk:
    """One node's pool, and as many lines as a test wants."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.instance = str(uuid.uuid4())
        self.looks, self.renewals = LookBatch(), RenewalBatch()

    async def line(
        self,
        program: str = "beat",
        node: str = "n1",
        instance: str | None = None,
        key: LockKey = "",
        session: type[RecordingSession] = RecordingSession,
    ) -> Line:
        """Open a line, under another lock key than the program's name if ``key`` is given, and wait until it is up."""
        line = Line(self.pool, program, node, instance or self.instance, key, self.looks, self.renewals, session)
        line.session.open()
        await line.told(Attached)
        return line


def pool_of(server: Server, ledger: Ledger) -> Pool:
    """Return a pool with a listener of its own."""
    return Pool(server, ledger, Listener(server, ledger))


@asynccontextmanager
async def desk(
    dsn: str,
    *,
    node: str = "n1",
    lease: float = LEASE,
    schema: str = "highlander",
    memory: NodeMemory | None = None,
    server: type[Server] = Server,
    on_alarm: Callable[[str], None] = log.warning,
) -> AsyncIterator[Desk]:
    """Run a pool for the block."""
    ledger = Ledger(schema, "highlander", lease)
    pool = pool_of(server(dsn, ledger, node=node, fresh=None, memory=memory, on_alarm=on_alarm), ledger)
    running = asyncio.create_task(pool.run())
    try:
        yield Desk(pool)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def settle(database: Database) -> None:
    """Spare a test the lease that a new ledger has to be waited out for."""
    database.sql(Ledger("highlander", "highlander", LEASE).statement("settle_fresh", SETTLE_FRESH).sql)


def row_of(database: Database, line: Line, columns: str) -> tuple[object, ...]:
    rows = database.sql(f"SELECT {columns} FROM highlander.lease WHERE lock_id = %s", [line.lock_id])
    return tuple(rows[0])


def locks_of_beat(database: Database) -> int:
    """Return how many sessions hold the lock of beat."""
    [[count]] = database.sql(f"SELECT count(*) FROM pg_locks WHERE {OF_LOCK}", [lock_id("highlander", "beat")])
    return int(count)
