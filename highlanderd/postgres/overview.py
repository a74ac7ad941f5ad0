"""Read the whole cluster from the ledger. All who ask at the same time share one question."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache

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
        self._ledger, self._listener = ledger, listener
        self._reader = OverviewReader()
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
            replies = await self._listener.ask(questions(self._ledger, facts.version))
        except WireLost as lost:
            raise unanswered(lost) from lost
        overview = self._reader.read(replies)
        self._latest = asked, overview
        return overview


def refuse_older(version: int) -> None:
    """Refuse a ledger that does not hold what the cluster shares. Raises HighlanderError."""
    if version < dialect.SHARED:
        raise HighlanderError(
            f"the ledger has schema {version}, and this needs {dialect.SHARED}; see what `highlanderctl ledger "
            "migrate` waits for"
        )


def questions(ledger: Ledger, version: int) -> list[Ask]:
    """Return the questions whose replies an ``OverviewReader`` takes."""
    asked = {
        "nodes": sharing.NODES,
        "standing": sharing.STANDING,
        "leads": sharing.LEADS,
        "stopped": sharing.WISHES,
    }
    return [(ledger.statement(name, sql, version), ()) for name, sql in asked.items()]


class OverviewReader:
    """Reads the replies. Most rows are as they were the last time, and what they say is kept for that."""

    def __init__(self) -> None:
        self._overviews = Overviews()
        self._candidates: Mapping[Row, CandidatePresence] = {}
        self._leads: Mapping[Row, Lead] = {}

    def read(self, replies: Sequence[Reply]) -> ClusterOverview:
        """Return the cluster. Raises HighlanderError for a reply that is an error."""
        for reply in replies:
            if reply.error is not None:
                raise HighlanderError(f"the cluster cannot be read: {reply.error.text}")
        nodes, standing, leads, stopped = (reply.rows for reply in replies)
        digests = cache(_digests)  # the nodes of a program mostly have the same ones
        self._candidates = {row: self._candidates.get(row) or _candidate(row, digests(row[-1])) for row in standing}
        self._leads = {row: self._leads.get(row) or _lead(row) for row in leads}
        return self._overviews.overview(
            [_node(row) for row in nodes],
            [(row[0] or "", self._candidates[row]) for row in standing],
            [self._leads[row] for row in leads],
            {int(row[0] or 0): Held(row[1] or "", row[2] or "", row[3] or "") for row in stopped},
        )


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
