"""The verdict: may this node begin a term?

``judge`` answers from what a look saw and from what is known, so it is a pure function. It answers in one of four ways:

* ``Claim``: take over, if the ledger still shows exactly what was judged;
* ``Settle``: first write down that the ceiling was waited out for this server and ledger;
* ``NotYet``: not now, with the moment at which time alone changes the answer, if there is one;
* ``Refusal``: do not use this server.

A waiting node cannot ask a leader whether it still lives. It knows only that every version of a row names a lease, that
its leader is without a child when 9/10 of it have passed, and that a leader that still lives has renewed before. So a
node that has known one unchanged version for 1.05 of its lease may take over. That reasoning needs a ledger that shows
every renewal. A server that was just promoted, restored or replaced may have lost some, and no row tells which lease
was lost with them; such a ledger is *unsettled* until a node has waited for the longest lease that any leader may have
been promised, the ceiling.

No clock of a server takes part. All times are seconds of this host's CLOCK_BOOTTIME.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from highlanderd.core.knowledge import Knowledge
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.observation import Observation, Row, ServerIdentity
from highlanderd.core.schedule import Run

LONGEST_RESERVATION: Final = 60.0
"""Seconds for which a reservation keeps others away at most, so that a lost node cannot keep a program down."""


class Claim(Struct, frozen=True):
    """A takeover to try: the versions that were judged, and the epoch that would begin.

    The statements change exactly these versions on exactly this server and ledger, or nothing.
    """

    judged: Row | None
    closing: tuple[Row, ...]
    """Unreleased rows whose terms are over: the one to claim, and those of the program under another lock id. Each is
    closed before the takeover, in a commit of its own."""
    server: ServerIdentity
    lengths: Lengths
    epoch: int
    run: Run | None = None
    """The scheduled time that the term is for; ``None`` where no schedule wants it."""


class Settle(Struct, frozen=True):
    """Write into ``meta`` that the ceiling was waited out for exactly this (system, timeline, place)."""

    system: int
    timeline: int
    place: str = ""
    generation: int = -1
    """The upper half of the highest epoch that this node has seen; -1 for none. New offsets lie above it."""


class NotYet(Struct, frozen=True):
    """Not now. ``until`` is when time alone turns the verdict; ``None`` when only an event can."""

    until: float | None
    why: str


class Refusal(Struct, frozen=True):
    """This server must not be used: it shows a past that this node has already left behind."""

    why: str


Verdict = Claim | Settle | NotYet | Refusal


class Candidate(Struct, frozen=True):
    """Who asks."""

    node: str
    instance: str
    keeperless: bool
    """The guardian holds no keeper for this lock id nor for this program."""
    overridden: int = 0
    """An operator's ``start`` overrides reservations up to this epoch of the lock id."""


def judge(observation: Observation, knowledge: Knowledge, now: float, candidate: Candidate) -> Verdict:
    """Return whether ``candidate`` may begin a term; ``knowledge`` must already include ``observation``.

    A claim needs a ledger that is *settled* for this very (system, timeline, place), and that no program is led through
    another server whose rows arrive here. Of each row, the first line that matches counts:

    1. released and reserved for another node, first seen less than the reservation's length ago: not yet, unless an
       operator overrides the reservation;
    2. released; or written on this server by this very daemon, which has no keeper left: take over;
    3. anything else: once this very version has been known for 1.05 of the lease that it carries.

    Rows of the program under another lock id must have ended by the same rules.
    """
    server, meta = observation.server, observation.meta
    if server.timeline < knowledge.timelines.get(server.system, 0):
        return Refusal(old_timeline(server.system, server.timeline, knowledge.timelines[server.system]))
    waits = [_judge_row(row, observation, knowledge, now, candidate) for row in observation.rows]
    for verdict in (*waits, _settled(observation, knowledge, now), _led_elsewhere(observation, knowledge, now)):
        if verdict is not None:
            return verdict
    if meta.offset is None:
        raise ValueError("a settled ledger has an epoch offset for its system")
    epoch = next_epoch(max(knowledge.epoch, meta.floor), meta.offset, server.timeline)
    closing = tuple(row for row in observation.rows if not row.released)
    return Claim(observation.row, closing, server, Lengths(meta.wanted, meta.wanted, meta.lease), epoch)


def old_timeline(system: int | str, timeline: int, known: int) -> str:
    """Return the sentence about a server that shows a timeline which was left behind, with the cure."""
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
        overridden = row == observation.row and row.epoch <= candidate.overridden
        if row.reserved_for in (None, candidate.node) or overridden:
            return None
        over = first_seen + min(row.reserved_seconds, LONGEST_RESERVATION)
        return NotYet(over, f"reserved for {row.reserved_for}") if now < over else None
    here = (row.system, row.timeline) == (observation.server.system, observation.server.timeline)
    if here and row.instance == candidate.instance and candidate.keeperless:
        return None
    over = first_seen + Lease(row.trusted_for).wait
    if now >= over:
        return None
    same_key = observation.row is not None and row.lock_id == observation.row.lock_id
    return NotYet(over, f"led by {row.node}" + ("" if same_key else f" under another lock key (lock id {row.lock_id})"))


def _settled(observation: Observation, knowledge: Knowledge, now: float) -> NotYet | Settle | None:
    """Return what an unsettled ledger still needs: time, or that a node writes down that it was waited out."""
    server = observation.server
    if observation.settled and now >= knowledge.distrusted_until:
        return None
    over = max(knowledge.since + observation.meta.ceiling.wait, knowledge.promised_until, knowledge.distrusted_until)
    if now < over:
        longest = max(observation.meta.ceiling.wait, over - knowledge.since)
        return NotYet(over, f"waiting for the ledger to settle on this server, for up to {longest:.0f} s")
    generation = knowledge.epoch >> 32 if knowledge.epoch else -1
    return Settle(server.system, server.timeline, server.place, generation)


def _led_elsewhere(observation: Observation, knowledge: Knowledge, now: float) -> NotYet | None:
    """Return the wait for leaders that lead through another server.

    Their rows arrive here by replication, so this program's row may be taken over there and nothing shows it here yet.
    """
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
