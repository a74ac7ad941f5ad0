"""The one session of a pool that listens, and asks and writes what concerns no single program.

The sessions of programs never LISTEN, because the server signals every listening backend at each notification. This
one receives the lock id whose row was changed, and wakes that program. It surveys the ledger several times a lease, and
between two surveys does what can wait (``Housekeeping``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from highlanderd.core.key import AdvisoryLock
from highlanderd.core.observation import Glimpse
from highlanderd.core.status import MigrationReport
from highlanderd.errors import HighlanderError, enumerated
from highlanderd.postgres import fitness, ledger, migration
from highlanderd.postgres.addresses import Unfit
from highlanderd.postgres.connection import RECONNECT_PAUSE, Connection
from highlanderd.postgres.hosts import Written
from highlanderd.postgres.housekeeping import Housekeeping
from highlanderd.postgres.ledger import Ledger, LedgerFacts
from highlanderd.postgres.replies import Ask, Query, Reply, Value, WireLost, unanswered
from highlanderd.postgres.server import Server
from highlanderd.postgres.sql import connecting, dialect, upkeep
from highlanderd.postgres.survey import Leader, Survey
from highlanderd.postgres.watch import Watch
from highlanderd.structs import replace
from highlanderd.system.linux import boottime

log = logging.getLogger(__name__)

NO_SESSION: Final = "no session"


class Unreadable(Exception):
    """The ledger cannot be read as what it was a moment ago."""


class Connections(Protocol):
    """What the listener needs of its pool."""

    def absence(self, otherwise: str) -> WireLost:
        """Return why there is no connection; ``otherwise`` where nothing is known of that."""

    def request(self, client: Listener) -> None:
        """Ask for a connection."""

    def lost(self, connection: Connection, why: str) -> None:
        """Note that a session was lost."""


class Listener:
    """Receives notifications and surveys the ledger. ``run`` does that; the other methods ask in between."""

    urgency = -1.0
    """Before all others: it is one session, and it wakes them."""

    def __init__(
        self, server: Server, ledger: Ledger, *, on_survey: Callable[[Mapping[int, Leader]], None] = lambda _: None
    ) -> None:
        """Make a listener. ``on_survey`` is called after each survey with the leaders that it showed, by lock id."""
        self._server, self._ledger, self._on_survey = server, ledger, on_survey
        self._pool: Connections | None = None
        """None until it runs."""
        self._connection: Connection | None = None
        self._hints: dict[str, set[Callable[[], None]]] = {}
        """By what is notified: whom to wake."""
        self._one_at_a_time = asyncio.Lock()
        """The server takes one after the other anyway. Each may wait for a lock of others', but two such waits together
        would take longer than an answer may."""
        self._arrived = asyncio.Event()
        self._gone = asyncio.Event()
        """Set while there is no session, once there was one."""
        self._survey = Survey(server.memory)
        self.watch = Watch(self._survey)
        self._housekeeping = Housekeeping(server, ledger, self._survey, self)

    @property
    def connected(self) -> bool:
        """Whether there is a session at the moment."""
        return self._connection is not None

    @property
    def backend(self) -> int | None:
        """The pid of the session's backend, if there is a session."""
        return None if self._connection is None else self._connection.pid

    @property
    def leaders(self) -> Mapping[int, Leader]:
        """Who leads what as the latest survey showed it, by lock id."""
        return self._survey.leaders

    def terms_of(self, program: str) -> Sequence[tuple[int, Leader]]:
        """Return the last terms of a program by its name, each with its lock id, as the latest survey showed them."""
        return self._survey.terms_of(program)

    def knows_led(self, lock_id: int) -> bool:
        """Return whether a lock id is led as far as can be known: not once its leader was silent for its lease."""
        return self._survey.vouches(lock_id, self._survey.read_at if self.connected else boottime())

    def glimpse(self, lock_id: int) -> Glimpse | None:
        """Return what surveys have shown of a row."""
        return self._survey.glimpse(lock_id)

    @property
    def facts(self) -> LedgerFacts | None:
        """The ledger's facts as the latest survey showed them."""
        return self._survey.facts

    def keep_alive(self) -> None:
        """Do nothing: the surveys keep this session from idling away."""

    @property
    def shares(self) -> bool:
        """Whether the ledger holds what the cluster shares, as far as the last survey showed."""
        return self.facts is not None and self.facts.version >= dialect.SHARED

    async def follow(self, about: str, look: Callable[[], Awaitable[None]]) -> None:
        """Call ``look`` whenever ``about`` is notified, and a fifth of a lease later at the latest, until cancelled.

        A look that loses its session is repeated the next time.
        """
        wake = asyncio.Event()
        end = self.hint(about, wake.set)
        try:
            while True:
                wake.clear()
                with suppress(WireLost):
                    await look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._server.lease.renew_every):
                        await wake.wait()
        finally:
            end()

    def hint(self, about: int | str, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called whenever the row of a lock id may have changed. Return what ends that.

        ``about`` is the lock id, or another word that is notified.
        """
        self._hints.setdefault(str(about), set()).add(callback)
        return lambda: self._hints[str(about)].discard(callback)

    def prune(self, lock_id: int) -> None:
        """Prune the history of a lock id later, so that it never delays a handover."""
        self._housekeeping.prune(lock_id)

    def note_begun(self, lock_id: int, epoch: int) -> None:
        """Have the history say later that this term has begun, if it does not say so yet."""
        self._housekeeping.note_begun(lock_id, epoch)

    def note_unwritten(self, query: Query) -> None:
        """Write this into the history later, as often as it takes."""
        self._housekeeping.note_unwritten(query)

    # ---------------------------------------------------------------------------------------------------- listening

    def deliver(self, connection: Connection) -> None:
        """Listen on a new connection. What was notified before is unknown, so all programs look."""
        self._connection = connection
        self._gone.clear()
        connection.wire.assign(self)
        self._arrived.set()

    def notified(self, payload: str) -> None:
        """Wake the program whose lock id was notified."""
        for callback in tuple(self._hints.get(payload, ())):
            callback()

    def lost(self, why: str) -> None:
        """Wake all programs: what is notified until the next session is unknown."""
        connection, self._connection = self._connection, None
        self._gone.set()
        self.watch.clear()
        if connection is not None and self._pool is not None:
            self._pool.lost(connection, why)
        self._wake_all()

    def _wake_all(self) -> None:
        for callbacks in tuple(self._hints.values()):  # one may ask for another hint
            for callback in tuple(callbacks):
                callback()

    async def run(self, pool: Connections) -> None:
        """Keep a session of the pool that listens, and survey the ledger on it, until cancelled."""
        self._pool = pool
        while True:
            pool.request(self)
            await self._arrived.wait()
            self._arrived.clear()
            if self._connection is not None:
                await self._serve(self._connection)

    async def _serve(self, connection: Connection) -> None:
        """Use one connection until its end."""
        begun = boottime()
        try:
            with suppress(WireLost):
                await self._listen(connection)
            if boottime() - begun < RECONNECT_PAUSE:  # what ended this one would end the next one as quickly
                await asyncio.sleep(RECONNECT_PAUSE)
        except Exception as error:  # noqa: BLE001 - the ledger may hold anything; the next session reads it again
            self._server.notes.unforeseen("the ledger cannot be read", error)
            connection.wire.drop(f"the ledger cannot be read: {error}")
            await asyncio.sleep(self._server.lease.renew_every)

    async def _listen(self, connection: Connection) -> None:
        listen = self._ledger.statement("listen", f"LISTEN {ledger.identifier(self._ledger.channel)}")
        await connection.wire.ask([(listen, ())], connection.lease.answer_within)
        self._wake_all()
        while self._connection is not None and self._connection.wire is connection.wire:
            begun, pause = boottime(), self._server.lease.renew_every
            await self.survey()
            await self._housekeeping.run()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(begun + pause - boottime(), pause / 4)):
                    await self._gone.wait()

    # ----------------------------------------------------------------------------------------------------- surveying

    async def survey(self) -> None:
        """Read who leads what into ``leaders``, and the ledger's facts. Raises WireLost."""
        connection = self._connection
        replies = await self.ask([self._query("survey", upkeep.SURVEY), self._query("facts", upkeep.FACTS)])
        if connection is not None:
            replies = self._own(connection, replies)
        rows, about = replies
        if about.sqlstate in dialect.BLOCKED or rows.error is not None:
            self.watch.end()
        if about.sqlstate in dialect.BLOCKED:
            return
        if about.error is not None or not about.rows:
            self._survey.forget()  # the next session asks which schema the ledger has now
            raise Unreadable(about.error.text if about.error else "its meta row is gone")
        found = ledger.facts(about.rows[0])
        if self._follow(found) and rows.rows:
            unknown = self.facts is None
            self._survey.read(rows.rows[0], found, boottime())
            self.watch.compare(boottime())
            self.watch.expect(self._server.lease)
            self._on_survey(self.leaders)
            if unknown:  # until now, who needs the facts has looked in vain
                self._wake_all()

    def _own(self, connection: Connection, replies: list[Reply]) -> list[Reply]:
        """Return the replies without their backend; leave the session when that is another one. Raises WireLost."""
        try:
            return [replace(reply, rows=fitness.of_backend(reply, connection.pid)) for reply in replies]
        except Unfit as unfit:
            self._server.notes.alarm(str(unfit))
            connection.wire.drop(str(unfit))
            raise WireLost(str(unfit)) from unfit

    def _follow(self, found: LedgerFacts) -> bool:
        """Go by the ledger's version and lease. Return whether the answers were in this version's words."""
        connection, version = self._connection, min(found.version, dialect.VERSION)
        if connection is None or connection.version != version:
            self._connection = connection and replace(connection, version=version)
            self._survey.forget()
            return False
        self._server.note_schema(found.version)
        if connection.lease.length != found.lease:
            self._connection = replace(connection, lease=self._server.follow(found.lease))
            limits = self._query("limits", connecting.LIMITS, *self._server.limits)
            connection.wire.ask([limits], connection.lease.answer_within).add_done_callback(
                lambda done: done.exception()
            )
        return True

    async def fresh_facts(self) -> LedgerFacts:
        """Return the ledger's facts as they are now. Raises HighlanderError when they cannot be had."""
        try:
            await self.survey()
            if self.facts is None:
                await self.survey()  # the first one may have found out which version of the schema there is
        except WireLost as lost:
            raise unanswered(lost) from lost
        except Exception as error:
            raise HighlanderError(f"the ledger cannot be read: {error}") from error
        if self.facts is None:
            raise HighlanderError("the ledger cannot be read at present; try again in a moment")
        return self.facts

    async def shown(self) -> dict[str, object]:
        """Return the ledger's facts for people. Raises HighlanderError when they cannot be had."""
        return self._survey.shown(await self.fresh_facts(), self._ledger.schema)

    async def migrate(self) -> MigrationReport:
        """Migrate the schema to this daemon's version now, and report what that waits for. Raises HighlanderError."""
        found = await self.fresh_facts()
        if found.version >= dialect.VERSION:
            return MigrationReport(found.version, migrated=False, waits_for=())
        try:
            return await migration.migrate(self.ask, self._ledger, found.version)
        except WireLost as lost:
            raise unanswered(lost) from lost

    # -------------------------------------------------------------------------------------------------------- asking

    async def hosts_lacking(self, written: Written) -> list[str]:
        """Return the hosts of the DSN that may lack what the primary has written."""
        return await self._server.hosts_lacking(written)

    async def blockers(self, pid: int) -> str:
        """Return the sessions that keep the backend ``pid`` waiting; empty when none does. Raises WireLost."""
        reply = await self.inquire("blockers", upkeep.BLOCKERS, pid)
        return reply.rows[0][0] or "" if reply.rows else ""

    async def holders(self, lock: AdvisoryLock, name_lock: int) -> str:
        """Return the first sessions that keep a program from being led; empty when none does. Raises WireLost.

        The lock on its name comes second: each session that tries to take over has that one for a moment.
        """
        reply = await self.inquire("holders", upkeep.HOLDERS, [lock.number, name_lock], [lock.space, 1])
        rows = [row for row in reply.rows if row[0] == str(lock.number)] or reply.rows
        return enumerated(list(dict.fromkeys(row[1] or "" for row in rows)))

    def _query(self, name: str, sql: str, *values: Value) -> Ask:
        version = self._connection.version if self._connection is not None else dialect.VERSION
        return self._ledger.statement(name, sql, version), values

    async def ask(self, asks: list[Ask]) -> list[Reply]:
        """Return the replies to several statements. Raises WireLost when there is no session."""
        async with self._one_at_a_time:
            if self._connection is None:
                raise WireLost(NO_SESSION) if self._pool is None else self._pool.absence(NO_SESSION)
            return await self._connection.wire.ask(asks, self._connection.lease.answer_within)

    async def inquire(self, name: str, sql: str, *values: Value) -> Reply:
        """Return the reply to one statement. Raises WireLost when there is no session."""
        [reply] = await self.ask([self._query(name, sql, *values)])
        return reply

    async def inquire_both(self, first: Query, second: Query) -> tuple[Reply, Reply]:
        """Return the replies to two statements that are sent together. Raises WireLost when there is no session."""
        reply, then = await self.ask([self._query(name, sql, *values) for name, sql, values in (first, second)])
        return reply, then

    async def answer(self, name: str, sql: str, *values: Value) -> Reply:
        """Return the reply to one statement, for a person. Raises HighlanderError when there is none, or an error."""
        try:
            reply = await self.inquire(name, sql, *values)
        except WireLost as lost:
            raise unanswered(lost) from lost
        if reply.error is not None:
            raise HighlanderError(reply.error.text)
        return reply
