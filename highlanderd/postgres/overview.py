"""Read the whole cluster from the ledger. All who ask at the same time share one question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Final

from highlanderd.core.cluster import CandidatePresence, ClusterNode, ClusterOverview, Held, Lead, Overviews
from highlanderd.errors import HighlanderError
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.replies import Ask, Reply, WireLost, document, duration, unanswered
from highlanderd.postgres.sql import dialect, sharing
from highlanderd.system.linux import boottime

Row = tuple[str | None, ...]


class Overview:
    """The cluster as a daemon reads it, on its listening session."""

    def __init__(self, ledger: Ledger, listener: Listener) -> None:
        self._listener, self._reader = listener, OverviewReader(ledger)
        self._reading: asyncio.Future[ClusterOverview] | None = None
        self._latest: tuple[float, ClusterOverview] | None = None

    def latest(self, max_age: float) -> ClusterOverview | None:
        """Return what was read last, unless that is more than ``max_age`` seconds ago."""
        return None if self._latest is None or boottime() - self._latest[0] > max_age else self._latest[1]

    async def read(self, max_age: float = 0.0) -> ClusterOverview:
        """Return the cluster as it was at most ``max_age`` seconds ago. Raises HighlanderError."""
        if (latest := self.latest(max_age)) is not None:
            return latest
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._reading)

    async def _read(self) -> ClusterOverview:
        facts = self._listener.facts or await self._listener.fresh_facts()
        refuse_older(facts.version)
        asked = boottime()
        try:
            overview = await self._reader.read(self._listener.ask, facts.version)
        except WireLost as lost:
            raise unanswered(lost) from lost
        self._latest = asked, overview
        return overview


def refuse_older(version: int) -> None:
    """Refuse a ledger that does not hold what the cluster shares. Raises HighlanderError."""
    if version < dialect.SHARED:
        raise HighlanderError(
            f"the ledger has schema {version}, and this needs {dialect.SHARED}; see what `highlanderctl ledger "
            "migrate` waits for"
        )


_ALWAYS: Final = {"shown": sharing.SHOWN, "nodes": sharing.NODES, "stopped": sharing.WISHES}
"""What is asked each time, by name. The first one says whether what is kept has changed."""
_KEPT: Final = {"standing": sharing.STANDING, "leads": sharing.LEADS}
"""What many rows answer, and is asked anew only once it has changed."""


class OverviewReader:
    """Reads the cluster, and keeps what has not changed since it was read last."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._overviews = Overviews()
        self._versions: Mapping[str, str | None] = {}
        """Of what is kept, by name."""
        self._candidates: Mapping[Row, CandidatePresence] = {}
        self._leads: Mapping[Row, Lead] = {}

    async def read(self, ask: Callable[[list[Ask]], Awaitable[list[Reply]]], version: int) -> ClusterOverview:
        """Return the cluster as a ledger of this schema's version shows it.

        Raises WireLost, and HighlanderError for a reply that is an error.
        """

        async def rows(asked: Mapping[str, str]) -> list[list[Row]]:
            replies = await ask([(self._ledger.statement(name, sql, version), ()) for name, sql in asked.items()])
            if (error := next((reply.error for reply in replies if reply.error is not None), None)) is not None:
                raise HighlanderError(f"the cluster cannot be read: {error.text}")
            return [reply.rows for reply in replies]

        [shown], nodes, stopped = await rows(_ALWAYS)
        versions = dict(zip(_KEPT, shown, strict=True))
        changed = {name: sql for name, sql in _KEPT.items() if versions[name] != self._versions.get(name)}
        if changed:
            self._keep(**dict(zip(changed, await rows(changed), strict=True)))
            self._versions = versions
        return self._overviews.overview(
            [_node(row) for row in nodes],
            [(row[0] or "", candidate) for row, candidate in self._candidates.items()],
            self._leads.values(),
            {int(row[0] or 0): Held(row[1] or "", row[2] or "", row[3] or "") for row in stopped},
        )

    def _keep(self, standing: Sequence[Row] | None = None, leads: Sequence[Row] | None = None) -> None:
        """Take in what was read anew. Most rows are as they were, and what they say is kept for that."""
        if standing is not None:
            digests = cache(_digests)  # the nodes of a program mostly have the same ones
            self._candidates = {row: self._candidates.get(row) or _candidate(row, digests(row[-1])) for row in standing}
        if leads is not None:
            self._leads = {row: self._leads.get(row) or _lead(row) for row in leads}


def _node(row: Row) -> ClusterNode:
    name, instance, version, seen, advertise, by, reason, since, present, silent_for = row
    return ClusterNode(
        name=name or "",
        instance=instance,
        version=version,
        seen=seen,
        advertise=advertise,
        drained=None if since is None else Held(by or "", reason or "", since),
        present=present == "t",
        silent_for=duration(silent_for),
    )


def _candidate(row: Row, digests: Mapping[str, str]) -> CandidatePresence:
    _, program, lock_id, state, able, reason, ready, since, _ = row
    return CandidatePresence(
        program=program or "",
        lock_id=int(lock_id or 0),
        state=state or "",
        able=able == "t",
        reason=reason or "",
        ready=ready == "t",
        since=since or "",
        digests=digests,
    )


def _digests(text: str | None) -> Mapping[str, str]:
    """Return the digests by key. Each role that may write to the ledger may have written something else."""
    found = document(text)
    if not isinstance(found, dict):
        return {}
    return {key: digest for key, digest in found.items() if isinstance(digest, str)}


def _lead(row: Row) -> Lead:
    program, lock_id, node, epoch, since, led = row
    return Lead(program or "", int(lock_id or 0), node or "", int(epoch or 0), since or "", led == "t")
