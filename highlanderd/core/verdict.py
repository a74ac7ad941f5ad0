"""The verdict: may I begin a term?

Pure functions of what PostgreSQL answered and of our own CLOCK_BOOTTIME. No server wall clock takes part, and nothing
here trusts an answer for longer than the moment its question was *sent* allows. All times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from highlanderd.core.lease import Lease, Lengths

LONGEST_RESERVATION: Final = 60.0
"""A reservation keeps others away for this long at most, so that a lost node cannot keep a program down."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which PostgreSQL answered, as told in the very answer."""

    system: int
    """The system identifier: one ``initdb``."""
    timeline: int
    started: str
    """``pg_postmaster_start_time()`` as a bare token: compared, never calculated with."""
    position: int
    """The WAL position in bytes; it goes back only when history was lost."""
    place: str = ""
    """Which ledger answered: the oids of its database and tables and its own id, as a bare token."""


@dataclass(frozen=True, slots=True)
class Meta:
    """The ledger's one row about itself."""

    lease: Lease
    """The ledger's lease: the pace of everything."""
    settled: tuple[int, int, str] | None
    """The (system, timeline, place) for which somebody has waited out the ceiling."""
    offset: int | None
    """Epoch offset of the present system; ``None`` while the ledger has not settled on this system yet."""
    wanted: Lease
    """What leaders are to write into their rows at present; longer than ``lease`` during maintenance."""
    ceiling: Lease
    """The longest lease that anybody may have been promised."""
    floor: int = 0
    """The highest epoch of this lock id that row and history show."""


@dataclass(frozen=True, slots=True)
class Row:
    """The ledger's row of one lock id. (epoch, renewal) is its version: every write changes it."""

    lock_id: int
    program: str
    epoch: int
    renewal: int
    node: str
    instance: str
    system: int
    timeline: int
    released: bool
    trusted_for: float
    """Seconds: the lease under which this version was written."""
    reason: str = ""
    reserved_for: str | None = None
    reserved_seconds: float = 0.0
    ended_ago: float = 0.0
    """Seconds since the term's end by the server's clock: for metrics, never for the verdict."""

    @property
    def version(self) -> tuple[int, int]:
        """What a takeover must still find."""
        return self.epoch, self.renewal


@dataclass(frozen=True, slots=True)
class LedElsewhere:
    """An unreleased row that was last written through another server, of whatever program."""

    program: str
    node: str
    version: tuple[int, int, int]
    """Lock id, epoch and renewal."""
    trusted_for: Lease


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look saw."""

    server: ServerIdentity
    meta: Meta
    row: Row | None
    others: tuple[Row, ...] = ()
    """Rows with our program's name under another lock id: its key was changed."""
    elsewhere: tuple[LedElsewhere, ...] = ()
    """The unreleased rows of any program that were last written through another server."""
    promised: Lease = field(default=Lease(0.0))
    """The longest lease that this node has seen promised, by whatever ledger."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What one program's line of sessions has seen so far.

    It survives a reconnection to the same run of the server, and is thrown away when the server's run or the ledger is
    another one, or has gone back. The highest timelines and epoch stay, and so does the longest promise that was seen.
    """

    server: ServerIdentity | None = None
    since: float = 0.0
    """Arrival of the first answer of this run."""
    ceiling: Lease = field(default=Lease(0.0))
    """As the latest answer showed it, or the lease of a row if that is longer: then the ceiling has gone back."""
    settled: bool = False
    """Whether the latest answer showed a settled ledger."""
    row: int | None = None
    """The lock id of our row, once it was seen: such a row never vanishes."""
    versions: Mapping[int, tuple[tuple[int, int], float]] = field(default_factory=dict)
    """By lock id: the version last seen, and the arrival of the answer that showed it first."""
    elsewhere: Mapping[tuple[int, int, int], float] = field(default_factory=dict)
    """By version of a row that was written through another server: the arrival of the answer that showed it first."""
    timelines: Mapping[int, int] = field(default_factory=dict)
    """By system: the highest timeline seen in this node's life."""
    epoch: int = 0
    """The highest epoch of our lock id seen in this node's life."""
    promised_until: float = 0.0
    """What an earlier run or ledger has promised may be trusted until then."""
    distrusted_until: float = 0.0
    """A ledger counts as unsettled until then that has gone back, was met after another one, or is written through
    another server, too."""
    rewinds: int = 0
    """How often the ledger went back on one timeline of a server."""


def observe(knowledge: Knowledge, observation: Observation, at: float) -> Knowledge:
    """Return what is known after a look; ``at`` is the *arrival* of its answer."""
    settled = is_settled(observation)
    same = _same_run(knowledge.server, observation.server)
    rewound = _same_ledger(knowledge.server, observation.server) and _went_back(knowledge, observation)
    if rewound or not same or (knowledge.settled and not settled):
        knowledge = _anew(knowledge, observation, at, rewound)
    elif _moved_elsewhere(knowledge, observation):
        over = max(knowledge.distrusted_until, at + observation.meta.ceiling.wait)
        knowledge = replace(knowledge, distrusted_until=over)
    versions: dict[int, tuple[tuple[int, int], float]] = {}
    for row in _rows(observation):
        seen = knowledge.versions.get(row.lock_id)
        versions[row.lock_id] = seen if seen is not None and seen[0] == row.version else (row.version, at)
    system, timeline = observation.server.system, observation.server.timeline
    return replace(
        knowledge,
        server=observation.server,
        ceiling=max([observation.meta.ceiling, *_led(observation)], key=lambda lease: lease.length),
        settled=settled,
        row=knowledge.row if observation.row is None else observation.row.lock_id,
        versions=versions,
        elsewhere={row.version: knowledge.elsewhere.get(row.version, at) for row in observation.elsewhere},
        timelines={**knowledge.timelines, system: max(timeline, knowledge.timelines.get(system, 0))},
        epoch=max(knowledge.epoch, observation.meta.floor, observation.row.epoch if observation.row else 0),
    )


def _anew(knowledge: Knowledge, observation: Observation, at: float, rewound: bool) -> Knowledge:
    """Begin to know again, but for what holds whichever run or ledger answers.

    A leader may have renewed until just now under the ceiling that was seen last.
    """
    promised = max(knowledge.promised_until, at + knowledge.ceiling.wait, at + observation.promised.wait)
    distrusted = knowledge.distrusted_until
    if rewound:
        distrusted = max(at + observation.meta.ceiling.wait, promised)
    elif knowledge.server is not None and not _same_ledger(knowledge.server, observation.server):
        # It may have settled long ago, and its leaders may have been elsewhere since.
        distrusted = max(distrusted, promised)
    return Knowledge(
        since=at,
        timelines=knowledge.timelines,
        epoch=knowledge.epoch,
        promised_until=promised,
        distrusted_until=distrusted,
        rewinds=knowledge.rewinds + rewound,
    )


def _same_ledger(before: ServerIdentity | None, now: ServerIdentity) -> bool:
    """Return whether nothing that was committed can be missing: not even a crash loses it."""
    if before is None:
        return False
    return (before.system, before.timeline, before.place) == (now.system, now.timeline, now.place)


def _same_run(before: ServerIdentity | None, now: ServerIdentity) -> bool:
    if before is None or not _same_ledger(before, now):
        return False
    return before.started == now.started and now.position >= before.position


def _went_back(knowledge: Knowledge, observation: Observation) -> bool:
    """Return whether rows are older than they were: the ledger was restored, or overwritten from elsewhere."""
    if knowledge.row is not None and observation.row is None:
        return True
    return any(row.version < knowledge.versions.get(row.lock_id, (row.version, 0.0))[0] for row in _rows(observation))


def is_settled(observation: Observation) -> bool:
    """Return whether the ledger says that somebody has waited out the ceiling for just this server and ledger."""
    server = observation.server
    return observation.meta.offset is not None and observation.meta.settled == (
        server.system,
        server.timeline,
        server.place,
    )


def renewed_elsewhere(knowledge: Knowledge, observation: Observation) -> tuple[Row, ...]:
    """Return the rows that somebody renewed through another server since the last look of the same run."""
    if not _same_run(knowledge.server, observation.server):
        return ()
    return tuple(row for row in _moved_elsewhere(knowledge, observation) if not row.released)


def _moved_elsewhere(knowledge: Knowledge, observation: Observation) -> tuple[Row, ...]:
    """Return the rows that were written through another server since the last look.

    They arrive by logical replication. While they move, somebody may lead over there, or be about to: a row that says
    released here may be taken over there, unseen. So nobody begins a term here before they have stood still.
    """
    return tuple(
        row
        for row in _rows(observation)
        if row.system != observation.server.system
        and row.lock_id in knowledge.versions
        and knowledge.versions[row.lock_id][0] != row.version
    )


def _led(observation: Observation) -> list[Lease]:
    return [Lease(row.trusted_for) for row in _rows(observation) if not row.released]


def _rows(observation: Observation) -> tuple[Row, ...]:
    return observation.others if observation.row is None else (observation.row, *observation.others)


@dataclass(frozen=True, slots=True)
class Claim:
    """A takeover to try: the versions that were judged, and the epoch that would begin.

    The statements change exactly these versions on exactly this server and ledger, or nothing.
    """

    judged: Row | None
    closing: tuple[Row, ...]
    """Unreleased rows whose terms are over: ours to claim, and those of our program under another lock id. Each is
    closed before the takeover, in a commit of its own."""
    server: ServerIdentity
    lengths: Lengths
    epoch: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Write into ``meta`` that the ceiling was waited out for this (system, timeline, place); literally these."""

    system: int
    timeline: int
    place: str = ""
    generation: int = -1
    """The upper half of the highest epoch that this node has seen; -1 for none. New offsets lie above it."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """Not now. ``until`` is when time alone turns the verdict; ``None`` when only an event can."""

    until: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """This server must not be used: it shows a past that this node has already left behind."""

    why: str


Verdict = Claim | Settle | NotYet | Refusal


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who asks."""

    node: str
    instance: str
    keeperless: bool
    """The guardian holds no keeper for this lock id nor for this program."""


def judge(observation: Observation, knowledge: Knowledge, now: float, candidate: Candidate) -> Verdict:
    """Say whether ``candidate`` may begin a term; ``knowledge`` must already have observed ``sight``.

    A claim needs a ledger that is *settled* for this very (system, timeline, place), and that no row of it arrives from
    another server any more. Of each row, the first line that matches counts:

    1. released and reserved for another node, first seen less than the reservation's length ago: not yet;
    2. released; or ours with no keeper left, written on this server: take over;
    3. anything else: once this very version has been known for 1.05 of the lease that it carries.

    Rows of our program under another lock id must have ended by the same rules.
    """
    server, meta = observation.server, observation.meta
    if server.timeline < knowledge.timelines.get(server.system, 0):
        return Refusal(old_timeline(server.system, server.timeline, knowledge.timelines[server.system]))
    waits = [_judge_row(row, observation, knowledge, now, candidate) for row in _rows(observation)]
    for verdict in (*waits, _settled(observation, knowledge, now), _led_elsewhere(observation, knowledge, now)):
        if verdict is not None:
            return verdict
    if meta.offset is None:
        raise ValueError("a settled ledger has an epoch offset for its system")
    epoch = next_epoch(max(knowledge.epoch, meta.floor), meta.offset, server.timeline)
    closing = tuple(row for row in _rows(observation) if not row.released)
    return Claim(observation.row, closing, server, Lengths(meta.wanted, meta.wanted, meta.lease), epoch)


def old_timeline(system: int | str, timeline: int, known: int) -> str:
    """Say that a server shows a timeline that was left behind, and what may be done about it."""
    return (
        f"the server is on timeline {timeline} of system {system}, but this node knows timeline {known}: an old "
        f"primary was started again; stop it. If it was restored on purpose, stop all daemons, remove the file "
        f"'timelines' from each one's state_dir, and start them"
    )


def _judge_row(
    row: Row, observation: Observation, knowledge: Knowledge, now: float, candidate: Candidate
) -> NotYet | None:
    first_seen = knowledge.versions[row.lock_id][1]
    if row.released:
        if row.reserved_for in (None, candidate.node):
            return None
        over = first_seen + min(row.reserved_seconds, LONGEST_RESERVATION)
        return NotYet(over, f"reserved for {row.reserved_for}") if now < over else None
    here = (row.system, row.timeline) == (observation.server.system, observation.server.timeline)
    if here and row.instance == candidate.instance and candidate.keeperless:
        return None
    over = first_seen + Lease(row.trusted_for).wait
    if now >= over:
        return None
    mine = observation.row is not None and row.lock_id == observation.row.lock_id
    return NotYet(over, f"led by {row.node}" + ("" if mine else f" under another lock key (lock id {row.lock_id})"))


def _settled(observation: Observation, knowledge: Knowledge, now: float) -> NotYet | Settle | None:
    server = observation.server
    if is_settled(observation) and now >= knowledge.distrusted_until:
        return None
    over = max(knowledge.since + observation.meta.ceiling.wait, knowledge.promised_until, knowledge.distrusted_until)
    if now < over:
        longest = max(observation.meta.ceiling.wait, over - knowledge.since)
        return NotYet(over, f"waiting for the ledger to settle on this server, for up to {longest:.0f} s")
    generation = knowledge.epoch >> 32 if knowledge.epoch else -1
    return Settle(server.system, server.timeline, server.place, generation)


def _led_elsewhere(observation: Observation, knowledge: Knowledge, now: float) -> NotYet | None:
    """While anything is led through another server, whose rows arrive here, ours may be taken over there unseen."""
    ends = {row: knowledge.elsewhere[row.version] + row.trusted_for.wait for row in observation.elsewhere}
    last = max(ends, key=lambda row: ends[row], default=None)
    if last is None or now >= ends[last]:
        return None
    return NotYet(ends[last], f"{last.program} is led by {last.node} through another server")


def next_epoch(highest: int, offset: int, timeline: int) -> int:
    """Return the epoch of the next term: above the highest known, and above those that a failover has lost.

    Every promotion raises the timeline, and with it the upper 32 bits.

    >>> next_epoch(0, 0, 1), next_epoch(0, 0, 2) == (1 << 32 | 1)
    (1, True)
    """
    return max(highest + 1, (offset + timeline - 1) << 32 | 1)
