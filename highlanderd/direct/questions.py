"""The questions about the cluster that PostgreSQL answers without a daemon.

They are plain SELECTs: the role needs no more than to read the ledger's tables.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import asdict
from yarl import URL

from highlanderd.api import MOST_EVENTS
from highlanderd.choice import chosen
from highlanderd.config import Loaded, keys_of
from highlanderd.core.cluster import ClusterOverview
from highlanderd.core.explanation import explained
from highlanderd.core.lease import Lease
from highlanderd.core.occurrences import Occurrence
from highlanderd.core.terms import PastTerm, SkippedTimes
from highlanderd.errors import BadRequest, HighlanderError, NoSuchProgram
from highlanderd.listeners.answers import cluster_facts, config_facts
from highlanderd.listeners.history import history_facts
from highlanderd.postgres import fitness, history, overview
from highlanderd.postgres.addresses import Addresses, with_options
from highlanderd.postgres.dialling import connect
from highlanderd.postgres.events import occurrences
from highlanderd.postgres.ledger import Ledger, identifier
from highlanderd.postgres.replies import Ask, ConnectFailed, Reply, Value, WireLost, unanswered
from highlanderd.postgres.sql import connecting, dialect, sharing
from highlanderd.postgres.sql.remembering import EVENTS, HISTORY
from highlanderd.postgres.sql.scheduling import SKIPPED
from highlanderd.postgres.wire import Wire

WITHIN: Final = Lease(20.0)
"""A connection and each answer may take a fifth, and three tenths of it."""
SCHEMA: Final = "highlander"
"""Where the ledger is unless a configuration says otherwise."""


async def answer(resource: str, dsn: str, schema: str) -> Mapping[str, object]:
    """Return the JSON of one ``GET``. Raises HighlanderError."""
    url = URL(resource)
    _, _, topic, *names = url.path.split("/")
    if topic not in _TOPICS:
        raise BadRequest(f"{resource} needs a daemon")
    try:
        wire = await _connected(dsn)
        try:
            ledger = _Ledger(wire, schema)
            await ledger.find_version()
            return await _TOPICS[topic](ledger, names[0] if names else None, url)
        finally:
            wire.drop("answered")
    except (ConnectFailed, WireLost) as lost:
        raise unanswered(lost) from lost


def configured(resource: str) -> str | None:
    """Return the program whose keys are asked for; None if something else is."""
    match URL(resource).path.split("/"):
        case ["", "v1", "programs", name, "config"]:
            return name
    return None


def keys(loaded: Loaded, name: str) -> Mapping[str, object]:
    """Return the JSON of a program's keys as a configuration has them. Raises NoSuchProgram."""
    found = keys_of(loaded.sources_json(), os.environ, name)
    if not found:
        raise NoSuchProgram.among(name, loaded.configuration.programs)
    return config_facts(name, found)


async def _connected(dsn: str) -> Wire:
    """Return a connection to the first address that takes one. Raises ConnectFailed with what the last one said."""
    last = ConnectFailed("the dsn names no server")
    for address in await Addresses(dsn).every(WITHIN.renew_every):
        parameters = {**with_options(address, WITHIN, ""), "application_name": "highlanderctl"}
        try:
            return await connect(parameters, WITHIN.renew_every)
        except ConnectFailed as failed:
            last = failed
    raise last


class _Ledger:
    """The ledger at the other end of a connection."""

    def __init__(self, wire: Wire, schema: str) -> None:
        self._wire, self._ledger = wire, Ledger(schema, "", 0.0)
        self._version = dialect.VERSION

    async def _ask(self, asks: list[Ask]) -> list[Reply]:
        return await self._wire.ask(asks, WITHIN.answer_within)

    async def _inquire(self, name: str, sql: str, *values: Value) -> Reply:
        [reply] = await self._ask([(self._ledger.statement(name, sql, self._version), values)])
        if reply.error is not None:
            raise HighlanderError(f"the ledger cannot be read: {reply.error.text}")
        return reply

    async def find_version(self) -> None:
        """Learn which schema it has; call this first. Raises HighlanderError when it cannot be read."""
        [meta, place] = await self._ask(
            [
                (self._ledger.statement("meta", connecting.META), ()),
                (self._ledger.statement("place", connecting.PLACE), ()),
            ]
        )
        if meta.error is not None or not meta.rows:
            raise HighlanderError(_unreadable(meta, place, self._ledger.schema))
        self._version = min(int(meta.rows[0][0] or 1), dialect.VERSION)

    async def cluster(self) -> ClusterOverview:
        """Return the cluster as its daemons have written it."""
        overview.refuse_older(self._version)
        return await overview.OverviewReader(self._ledger).read(self._ask, self._version)

    async def events(self) -> Sequence[Occurrence]:
        """Return the newest events, the newest last."""
        overview.refuse_older(self._version)
        return occurrences(await self._inquire("events", EVENTS, MOST_EVENTS, MOST_EVENTS))

    async def history(self, names: Sequence[str], limit: int) -> tuple[PastTerm, ...]:
        """Return the newest terms, the newest last."""
        return history.terms(await self._inquire("history", HISTORY, await self._named(names), limit))

    async def skipped(self, names: Sequence[str], limit: int) -> tuple[SkippedTimes, ...]:
        """Return the newest scheduled times that were skipped, the newest last."""
        if self._version < dialect.SCHEDULED:
            return ()
        return history.skips(await self._inquire("skipped", SKIPPED, await self._named(names), limit))

    async def _named(self, names: Sequence[str]) -> list[int]:
        known = await self._inquire("known", sharing.KNOWN)
        return sorted(history.chosen(names, [(program or "", int(lock_id or 0)) for program, lock_id in known.rows]))


def _unreadable(meta: Reply, place: Reply, schema: str) -> str:
    """Return why there is no ledger to read at a place, and the cure. Raises Unfit where no daemon would have one."""
    if meta.error is None:
        return f"the meta row of the ledger in schema {schema} is gone; restore it from a backup"
    if meta.sqlstate not in {*dialect.UNDEFINED, dialect.INSUFFICIENT_PRIVILEGE} or not place.rows:
        return f"the ledger cannot be read: {meta.error.text}"
    [(fsync, database, role)] = place.rows
    if meta.sqlstate == dialect.INSUFFICIENT_PRIVILEGE:
        return (
            f"role {role} may not read the ledger in database {database} ({meta.error.text}); let an administrator "
            f"run: GRANT USAGE ON SCHEMA {identifier(schema)} TO {identifier(role or '')}; GRANT SELECT ON ALL TABLES "
            f"IN SCHEMA {identifier(schema)} TO {identifier(role or '')}"
        )
    fitness.refuse_fsync_off(fsync != "off")
    return (
        f"there is no ledger in schema {schema} of database {database}: name the database of the daemons, or their "
        "configuration with --config; the first daemon that connects creates it"
    )


async def _cluster(ledger: _Ledger, _name: str | None, _url: URL) -> Mapping[str, object]:
    return cluster_facts(await ledger.cluster(), None)


async def _explain(ledger: _Ledger, name: str | None, url: URL) -> Mapping[str, object]:
    found = await ledger.cluster()
    if name is None:
        names = chosen(url.query.getall("name", []), list(found.by_name))
        return {"programs": [asdict(explained(one, found, None)) for one in names]}
    if found.program(name) is None:
        raise NoSuchProgram.anywhere(name, found.by_name)
    return asdict(explained(name, found, None))


async def _history(ledger: _Ledger, name: str | None, url: URL) -> Mapping[str, object]:
    return await history_facts(ledger.history, ledger.skipped, name, url.query)


async def _events(ledger: _Ledger, _name: str | None, _url: URL) -> Mapping[str, object]:
    return {"events": [asdict(one) for one in await ledger.events()]}


_TOPICS: Final[Mapping[str, Callable[[_Ledger, str | None, URL], Awaitable[Mapping[str, Any]]]]] = {
    "cluster": _cluster,
    "explain": _explain,
    "events": _events,
    "history": _history,
}
"""By the second word of the path: what answers."""
