"""Lease arithmetic, and the verdict: may I begin a term?

Pure functions of what PostgreSQL answered and of our own CLOCK_BOOTTIME. No server wall clock takes part, and nothing
here trusts an answer for longer than the moment its question was *sent* allows. All times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

SHORTEST, LONGEST, DEFAULT = 2.0, 60.0, 10.0
"""Bounds of a ledger's lease, in seconds."""

LONGEST_RESERVATION: Final = 60.0
"""A reservation keeps others away for this long at most, so that a lost node cannot keep a program down."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The clocks of one lease of ``length`` seconds. The ledger has exactly one, so no arithmetic mixes two.

    The child is dead at 9/10, the leader stops trusting at 1, everybody else waits 1.05: rates of clocks may
    differ by a few per cent, and SIGKILL needs a moment.
    """

    length: float

    @property
    def renew_every(self) -> float:
        """Between two renewals; also between two looks of a waiting node."""
        return self.length / 5

    @property
    def answer_within(self) -> float:
        """How long a statement may take before its session is dropped: a lost renewal leaves time to try another."""
        return self.length * 0.3

    @property
    def spawn_within(self) -> float:
        """After sending the takeover; a child that was not started by then is not started in this term."""
        return self.length / 2

    @property
    def release_within(self) -> float:
        """A release that nobody answers must not keep the daemon from ending: this allows a reconnection."""
        return self.length / 2

    @property
    def wait(self) -> float:
        """How long a silent version of a row must have been known before its leader is certainly without a child."""
        return self.length * 1.05

    @property
    def outage_borne(self) -> float:
        """An outage of PostgreSQL that is over by then costs no child.

        The fence begins 7/10 after the last renewal; 2/10 of that may have passed before the outage began, and 1/10 is
        for the reconnection.
        """
        return self.length * 0.4

    @property
    def replaced_within(self) -> float:
        """After the last renewal of a leader that fell silent, another node leads: ``wait``, from a look on that may be
        a fifth of a lease late, with its jitter.
        """
        return self.length * 1.3

    @property
    def resumed_within(self) -> float:
        """After the reconnection to a server that was restarted or promoted, a term begins: ``wait``, and answers."""
        return self.length * 1.1

    def trusted_until(self, sent: float) -> float:
        """The leader's trust runs out here; ``sent`` was read before the acknowledged statement was sent."""
        return sent + self.length

    def kill_at(self, sent: float) -> float:
        """SIGKILL to the whole tree; the last tenth is the kernel's to deliver it."""
        return sent + 0.9 * self.length

    def fence_at(self, sent: float, stop_timeout: float) -> float:
        """SIGTERM to the tree: at 7/10, later when the program needs less time to stop than there would be.

        >>> Lease(10).fence_at(0, stop_timeout=10)
        7.0
        >>> Lease(10).fence_at(0, stop_timeout=0.5)
        8.5
        """
        return self.kill_at(sent) - min(stop_timeout, 0.2 * self.length)


@dataclass(frozen=True, slots=True)
class Server:
    """Which PostgreSQL answered, as told in the very answer."""

    system: int
    """The system identifier: one ``initdb``."""
    timeline: int
    started: str
    """``pg_postmaster_start_time()`` as a bare token: compared, never calculated with."""
    position: int
    """The WAL position in bytes; it goes back only when history was lost."""


@dataclass(frozen=True, slots=True)
class Meta:
    """The ledger's one row about itself."""

    lease: Lease
    settled: tuple[int, int] | None
    """The (system, timeline) that a whole lease has been waited out for."""
    offset: int | None
    """The epoch offset of the server's system; ``None`` while the ledger has not settled on this system yet."""


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
class Sight:
    """What one look saw."""

    server: Server
    meta: Meta
    row: Row | None
    others: tuple[Row, ...] = ()
    """Rows with our program's name under another lock id: its key was changed."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What one program's line of sessions has seen so far.

    It survives a reconnection to the same run of the server, and is thrown away, but for the highest timelines,
    when the server's run is another one.
    """

    server: Server | None = None
    since: float = 0.0
    """Arrival of the first answer of this run."""
    versions: Mapping[int, tuple[tuple[int, int], float]] = field(default_factory=dict)
    """By lock id: the version last seen, and the arrival of the answer that showed it first."""
    timelines: Mapping[int, int] = field(default_factory=dict)
    """By system: the highest timeline seen in this node's life."""


def observe(knowledge: Knowledge, sight: Sight, at: float) -> Knowledge:
    """Add what a look saw; ``at`` is the *arrival* of its answer."""
    if not _same_run(knowledge.server, sight.server):
        knowledge = Knowledge(since=at, timelines=knowledge.timelines)
    versions: dict[int, tuple[tuple[int, int], float]] = {}
    for row in _rows(sight):
        seen = knowledge.versions.get(row.lock_id)
        versions[row.lock_id] = seen if seen is not None and seen[0] == row.version else (row.version, at)
    system, timeline = sight.server.system, sight.server.timeline
    timelines = {**knowledge.timelines, system: max(timeline, knowledge.timelines.get(system, 0))}
    return replace(knowledge, server=sight.server, versions=versions, timelines=timelines)


def _same_run(before: Server | None, now: Server) -> bool:
    if before is None:
        return False
    same = (before.system, before.timeline, before.started) == (now.system, now.timeline, now.started)
    return same and now.position >= before.position


def _rows(sight: Sight) -> tuple[Row, ...]:
    return sight.others if sight.row is None else (sight.row, *sight.others)


@dataclass(frozen=True, slots=True)
class Claim:
    """A takeover to try: the version that was judged, and the epoch that would begin.

    The statement updates exactly this version on exactly this server, or nothing.
    """

    judged: Row | None
    system: int
    timeline: int
    lease: Lease
    epoch: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Write into ``meta`` that a whole lease was waited out for this (system, timeline); literally these."""

    system: int
    timeline: int


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


def judge(sight: Sight, knowledge: Knowledge, now: float, candidate: Candidate) -> Verdict:
    """Say whether ``candidate`` may begin a term; ``knowledge`` must already have observed ``sight``.

    The first matching line counts:

    1. released and reserved for another node, first seen less than the reservation's length ago: not yet;
    2. no row, or one written under another system or timeline than the server has now: once *settled*;
    3. released, or ours with no keeper left: take over;
    4. anything else: once this very version has been known for 1.05 leases.

    Rows of our program under another lock id must have ended by the same rules.
    """
    server, meta = sight.server, sight.meta
    if server.timeline < knowledge.timelines.get(server.system, 0):
        return Refusal(
            f"the server is on timeline {server.timeline} of system {server.system}, but this node has already seen "
            f"timeline {knowledge.timelines[server.system]}: an old primary was started again; stop it"
        )
    waits = [_judge_row(row, sight, knowledge, now, candidate) for row in _rows(sight)]
    if sight.row is None or meta.offset is None:  # a renewal may show a system that nobody has waited out yet
        waits.append(_settled(sight, knowledge, now))
    for verdict in waits:
        if verdict is not None and not isinstance(verdict, Settle):
            return verdict
    for verdict in waits:
        if verdict is not None:
            return verdict
    if meta.offset is None:
        return Settle(server.system, server.timeline)
    epoch = next_epoch(sight.row, meta.offset, server.timeline)
    return Claim(sight.row, server.system, server.timeline, meta.lease, epoch)


def _judge_row(
    row: Row, sight: Sight, knowledge: Knowledge, now: float, candidate: Candidate
) -> NotYet | Settle | None:
    first_seen = knowledge.versions[row.lock_id][1]
    if row.released and row.reserved_for not in (None, candidate.node):
        over = first_seen + min(row.reserved_seconds, LONGEST_RESERVATION)
        if now < over:
            return NotYet(over, f"reserved for {row.reserved_for}")
    if (row.system, row.timeline) != (sight.server.system, sight.server.timeline):
        return _settled(sight, knowledge, now)
    if row.released or (row.instance == candidate.instance and candidate.keeperless):
        return None
    over = first_seen + sight.meta.lease.wait
    if now < over:
        return NotYet(over, f"led by {row.node}")
    return None


def _settled(sight: Sight, knowledge: Knowledge, now: float) -> NotYet | Settle | None:
    server = sight.server
    if sight.meta.settled == (server.system, server.timeline):
        return None
    over = knowledge.since + sight.meta.lease.wait
    if now < over:
        return NotYet(over, "waiting one lease for the ledger to settle on this server")
    return Settle(server.system, server.timeline)


def next_epoch(row: Row | None, offset: int, timeline: int) -> int:
    """Give the epoch of the term after ``row``: above all earlier ones, even those a failover has lost.

    Every promotion raises the timeline, and with it the upper 32 bits.

    >>> next_epoch(None, 0, 1), next_epoch(None, 0, 2) == (1 << 32 | 1)
    (1, True)
    """
    return max((row.epoch if row else 0) + 1, (offset + timeline - 1) << 32 | 1)
