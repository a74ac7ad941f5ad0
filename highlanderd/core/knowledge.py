"""What a program has seen so far, and what each further look changes about it.

A verdict rests on how long something has been known: how long this run of the server, how long this very version of a
row. So ``observe`` notes when an answer *arrived* that showed a thing for the first time, and ``glimpsed`` when a
survey of the whole ledger has shown a newer version of the row before. No clock of a server takes part. All times are
seconds of this host's CLOCK_BOOTTIME.

A *run* is one life of one server on one timeline. While it lasts, a row that stands still has not been renewed. When
the run or the ledger changes, or when rows go back, that no longer holds: ``observe`` then throws away what it knew
about rows, and the program waits again. What must outlive every change stays: the highest timelines and epoch, and
until when an earlier promise binds.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from highlanderd.core.lease import Lease
from highlanderd.core.observation import Glimpse, Observation, Row, ServerIdentity
from highlanderd.structs import replace


class Knowledge(Struct, frozen=True):
    """What one program's sessions, one after the other, have seen so far."""

    server: ServerIdentity | None = None
    since: float = 0.0
    """Arrival of the first answer of this run."""
    ceiling: Lease = field(default=Lease(0.0))
    """The longest lease that the latest answer showed."""
    settled: bool = False
    """Whether the latest answer showed a settled ledger."""
    row: int | None = None
    """The lock id of the program's row, once it was seen. Such a row never vanishes."""
    versions: Mapping[int, tuple[tuple[int, int], float]] = field(default_factory=dict)
    """By lock id: the version last seen, and the arrival of the answer that showed it first."""
    elsewhere: Mapping[tuple[int, int, int], float] = field(default_factory=dict)
    """By version of a row that was written through another server: the arrival of the answer that showed it first."""
    timelines: Mapping[int, int] = field(default_factory=dict)
    """By system: the highest timeline seen in this node's life."""
    epoch: int = 0
    """The highest epoch of the program's lock id seen in this node's life."""
    promised_until: float = 0.0
    """Until then a leader may trust what an earlier run or ledger has promised to it."""
    distrusted_until: float = 0.0
    """Until then the ledger counts as unsettled, whatever it says: it has gone back, was met after another one, or its
    rows are written through another server, too."""
    rewinds: int = 0
    """How often the ledger went back on one timeline of a server."""


def observe(knowledge: Knowledge, observation: Observation, at: float) -> Knowledge:
    """Return what is known after a look; ``at`` is the *arrival* of its answer."""
    knowledge = _still_true(knowledge, observation, at)
    system, timeline = observation.server.system, observation.server.timeline
    return replace(
        knowledge,
        server=observation.server,
        ceiling=observation.longest_lease,
        settled=observation.settled,
        row=knowledge.row if observation.row is None else observation.row.lock_id,
        versions={row.lock_id: _first_seen(knowledge, row, at) for row in observation.rows},
        elsewhere={row.version: knowledge.elsewhere.get(row.version, at) for row in observation.elsewhere},
        timelines={**knowledge.timelines, system: max(timeline, knowledge.timelines.get(system, 0))},
        epoch=max(knowledge.epoch, observation.meta.floor, observation.row.epoch if observation.row else 0),
    )


def glimpsed(knowledge: Knowledge, glimpse: Glimpse | None) -> Knowledge:
    """Return what is known after a survey has shown the program's row, before the program's own look was sent.

    It counts as a look that has shown a newer version of the row and nothing else that is new. So it must have come
    from the run and ledger that the program knows, and it never takes knowledge back.
    """
    known = None if knowledge.row is None else knowledge.versions.get(knowledge.row)
    if glimpse is None or knowledge.row is None or known is None or glimpse.version <= known[0]:
        return knowledge
    if not same_run(knowledge.server, glimpse.server):
        return knowledge
    versions = {**knowledge.versions, knowledge.row: (glimpse.version, glimpse.at)}
    return replace(knowledge, server=glimpse.server, versions=versions)


def _first_seen(knowledge: Knowledge, row: Row, at: float) -> tuple[tuple[int, int], float]:
    seen = knowledge.versions.get(row.lock_id)
    return seen if seen is not None and seen[0] == row.version else (row.version, at)


def _still_true(knowledge: Knowledge, observation: Observation, at: float) -> Knowledge:
    """Return what the answer leaves of what was known before it."""
    same_ledger = knowledge.server is not None and knowledge.server.ledger == observation.server.ledger
    rewound = same_ledger and _went_back(knowledge, observation)
    unsettled = knowledge.settled and not observation.settled
    if rewound or unsettled or not same_run(knowledge.server, observation.server):
        return _anew(knowledge, observation, at, rewound=rewound, same_ledger=same_ledger)
    if _moved_elsewhere(knowledge, observation):
        over = max(knowledge.distrusted_until, at + observation.meta.ceiling.wait)
        return replace(knowledge, distrusted_until=over)
    return knowledge


def _anew(knowledge: Knowledge, observation: Observation, at: float, *, rewound: bool, same_ledger: bool) -> Knowledge:
    """Return what holds for every run and ledger; everything else has to be seen again.

    A leader may have renewed until just now under the ceiling that was seen last.
    """
    promised = max(knowledge.promised_until, at + knowledge.ceiling.wait, at + observation.promised.wait)
    distrusted = knowledge.distrusted_until
    if rewound:
        distrusted = max(at + observation.meta.ceiling.wait, promised)
    elif knowledge.server is not None and not same_ledger:
        # This ledger may have settled long ago, and its leaders may have led through another one since.
        distrusted = max(distrusted, promised)
    return Knowledge(
        since=at,
        timelines=knowledge.timelines,
        epoch=knowledge.epoch,
        promised_until=promised,
        distrusted_until=distrusted,
        rewinds=knowledge.rewinds + rewound,
    )


def same_run(before: ServerIdentity | None, now: ServerIdentity | None) -> bool:
    """Return whether nothing that was committed between two answers can have been lost."""
    if before is None or now is None or before.ledger != now.ledger:
        return False
    return before.started == now.started and now.position >= before.position


def _went_back(knowledge: Knowledge, observation: Observation) -> bool:
    """Return whether rows are older than they were: the ledger was restored, or overwritten from elsewhere."""
    if knowledge.row is not None and observation.row is None:
        return True
    return any(row.version < knowledge.versions.get(row.lock_id, (row.version, 0.0))[0] for row in observation.rows)


def renewed_elsewhere(knowledge: Knowledge, observation: Observation) -> tuple[Row, ...]:
    """Return the rows that were renewed through another server since the last look of the same run."""
    if not same_run(knowledge.server, observation.server):
        return ()
    return tuple(row for row in _moved_elsewhere(knowledge, observation) if not row.released)


def _moved_elsewhere(knowledge: Knowledge, observation: Observation) -> tuple[Row, ...]:
    """Return the rows that were written through another server since the last look.

    They arrive by logical replication. While they move, a node may lead through the other server, or be about to: it
    may take over a row that says released here, and nothing shows it here. So no term begins here before the rows have
    stood still.
    """
    return tuple(
        row
        for row in observation.rows
        if row.system != observation.server.system
        and row.lock_id in knowledge.versions
        and knowledge.versions[row.lock_id][0] != row.version
    )
