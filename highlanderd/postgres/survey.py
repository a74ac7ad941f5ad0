"""What the latest survey of the ledger has shown: who leads what, the ledger's facts, and for how long that is so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, json

from highlanderd.core.ceiling import CeilingWatch, LeaseUse
from highlanderd.core.knowledge import same_run
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Glimpse, ServerIdentity
from highlanderd.core.promise import LONGEST_CEILING, Promise
from highlanderd.postgres.ledger import LedgerFacts
from highlanderd.postgres.memory import NodeMemory

IN_TIME: Final = 1.25
"""The next one has come after so many times the pause between two, or it is late."""


class Leader(Struct, frozen=True, array_like=True, gc=False):
    """Who leads a lock id, as the ledger shows it."""

    node: str
    instance: str
    epoch: int
    renewal: int
    leads: bool
    program: str = ""
    trusted_for: float = 0.0
    """Seconds: the lease that the row carries."""
    system: int = 0
    timeline: int = 0
    """The server that the row was last written through."""


_TERMS: Final = json.Decoder(list[tuple[int, Leader]])


class Survey:
    """The latest survey, and what it takes several of them to know."""

    def __init__(self, memory: NodeMemory) -> None:
        self._memory = memory
        self.leaders: Mapping[int, Leader] = {}
        """By lock id."""
        self._terms_of: Mapping[str, Sequence[tuple[int, Leader]]] | None = None
        """The same by program, once that was asked for."""
        self.facts: LedgerFacts | None = None
        """None while they are not known."""
        self.read_at = 0.0
        """When the latest one has come, by CLOCK_BOOTTIME in seconds."""
        self.server: ServerIdentity | None = None
        """The server that the latest one was read from."""
        self._seen: Mapping[int, float] = {}
        """By lock id, the arrival of the survey that showed this version of the row first, by CLOCK_BOOTTIME."""
        self._watch = CeilingWatch()
        self._elsewhere: Mapping[tuple[int, Leader], float] = {}
        """What is led through another server, by lock id, and the arrival of the survey that showed it first."""

    def glimpse(self, lock_id: int) -> Glimpse | None:
        """Return what surveys have shown of a row that was written through the server that they were read from."""
        leader, server = self.leaders.get(lock_id), self.server
        if leader is None or server is None or leader.system != server.system:
            return None
        return Glimpse(server, (leader.epoch, leader.renewal), self._seen[lock_id])

    def terms_of(self, program: str) -> Sequence[tuple[int, Leader]]:
        """Return the last terms of a program, each with its lock id: files that disagree on its key give it several."""
        if self._terms_of is None:
            terms_of = defaultdict[str, list[tuple[int, Leader]]](list)
            for lock_id, leader in self.leaders.items():
                terms_of[leader.program].append((lock_id, leader))
            self._terms_of = terms_of
        return self._terms_of.get(program, ())

    def current(self, now: float) -> bool:
        """Return whether the latest one is the latest that can be expected, and programs are led through one server."""
        fresh = self.facts is not None and now < self.read_at + IN_TIME * Lease(self.facts.lease).renew_every
        return fresh and not self.divided

    @property
    def divided(self) -> bool:
        """Whether a program is led through another server, whose rows arrive here."""
        return bool(self._elsewhere)

    def silent(self, lock_id: int, trusted_for: float, now: float) -> bool:
        """Return whether no renewal was seen for half of a lease."""
        return now >= self._seen[lock_id] + trusted_for / 2

    def read(self, row: Sequence[str | None], found: LedgerFacts, now: float) -> None:
        """Take in the answers to SURVEY and FACTS; ``now`` is CLOCK_BOOTTIME in seconds.

        Raises ValueError for what no ledger holds.
        """
        *identity, terms = row
        server, leaders = _server(identity), dict(_TERMS.decode(terms or "[]"))
        before, seen = self.leaders if same_run(self.server, server) else {}, self._seen
        self._seen = {
            key: seen[key] if (known := before.get(key)) and _same_version(known, leader) else now
            for key, leader in leaders.items()
        }
        self.server, self.facts, self.read_at = server, found, now
        self.leaders, self._terms_of = leaders, None
        self._memory.learn_epoch(max((leader.epoch for leader in leaders.values()), default=0))
        self._learn_lengths(found, now)

    def _learn_lengths(self, found: LedgerFacts, now: float) -> None:
        led = [each for each in self.leaders.items() if each[1].leads]
        longest = max((leader.trusted_for for _, leader in led), default=0.0)
        system = found.where[0]
        self._elsewhere = {each: self._elsewhere.get(each, now) for each in led if each[1].system != system}
        self._watch = self._watch.after(LeaseUse(found.where, found.lease, found.ceiling, found.wanted, longest), now)
        ceiling = max(found.ceiling, min(longest, LONGEST_CEILING))  # where a row carries more, it has gone back
        self._memory.learn_promise(Promise(*found.where, ceiling, found.lease), now, settled=found.settled)

    def forget(self) -> None:
        """Forget the facts: the ledger could not be read, or is of another schema."""
        self.facts = None

    def vouches(self, lock_id: int, at: float) -> bool:
        """Return whether a lock id is led ``at`` a moment, as far as surveys show: its lease may still run then."""
        leader, seen = self.leaders[lock_id], self._seen[lock_id]
        return leader.leads and at < seen + leader.trusted_for

    def may_lower(self, now: float) -> bool:
        """Return whether nothing needs the ceiling to be higher than the ledger's lease any more."""
        return self._watch.may_lower(now)

    def lapsed_elsewhere(self, now: float) -> list[tuple[int, Leader]]:
        """Return the terms that were last written through another server, once their lease was waited out here."""
        return [key for key, since in self._elsewhere.items() if now >= since + Lease(key[1].trusted_for).wait]

    def shown(self, found: LedgerFacts, schema: str) -> dict[str, object]:
        """Return the ledger's facts for people."""
        system, timeline, _ = found.where if found.settled else (None, None, None)
        return {
            "schema": schema,
            "version": found.version,
            "compatible_from": found.compatible_from,
            "ledger": found.ledger or None,
            "namespace": found.namespace,
            "lease": found.lease,
            "lease_in_force": found.wanted,
            "ceiling": found.ceiling,
            "settled_system": system and str(system),
            "settled_timeline": timeline,
            "offsets": found.offsets,
            "lock_ids": len(self.leaders),
            "unreleased": sum(leader.leads for leader in self.leaders.values()),
            "maintenance_until": found.maintenance and found.maintenance.until,
            "maintenance_by": found.maintenance and found.maintenance.author,
            "maintenance_reason": found.maintenance and found.maintenance.reason,
        }


def _server(identity: Sequence[str | None]) -> ServerIdentity:
    system, timeline, started, position, place = identity
    return ServerIdentity(int(system or 0), int(timeline or 0), str(started), int(position or 0), place or "")


def _same_version(one: Leader, other: Leader) -> bool:
    return one.renewal == other.renewal and one.epoch == other.epoch
