"""Rules of the protocol left out one at a time: the search must find each of them, or it has no teeth.

A mutation replaces a clock of the lease, a statement's meaning, the processes' contract, or what the machine decides;
the product's modules stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from property.world import LEASE, Rules

from highlanderd.core import machine
from highlanderd.core import words as w
from highlanderd.core.lease import Lease


class Mutation(NamedTuple):
    """One broken rule, and the kinds of misfortune, and how much of it, that show it soonest."""

    rules: Rules
    faults: int = 0
    orders: int = 0


class Impatient(Lease):
    """Others do not wait until the old leader is certainly without a child."""

    @property
    def wait(self) -> float:
        """Less than the 9/10 at which the child is killed."""
        return 0.85 * self.length


class LockAlone(Lease):
    """The advisory lock is the only guard."""

    @property
    def wait(self) -> float:
        """Nobody waits for a lease."""
        return 0.0


class Trusting(Lease):
    """The leader trusts its term for longer than others wait."""

    def trusted_until(self, sent: float) -> float:
        """Half a lease too long."""
        return sent + 1.5 * self.length

    def kill_at(self, sent: float) -> float:
        """Likewise."""
        return sent + 1.4 * self.length


def _renews_lapsed_terms(situation: w.Situation, event: w.Event, now: float, policy: w.Policy) -> machine.Step:
    """On a new session the term is taken back, however long ago trust ran out."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(event, w.Attached) and isinstance(state, w.Draining) and not effects:
        return replace(after, link=w.Link.ASKING), (w.Renew(state.term.epoch),)
    return after, effects


def _releases_before_emptied(situation: w.Situation, event: w.Event, now: float, policy: w.Policy) -> machine.Step:
    """The exit of the main process counts as the end of the tree."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(event, w.Exited) and isinstance(state, w.Draining) and after.link is w.Link.IDLE:
        released = replace(after, state=replace(state, phase=w.Releasing()), link=w.Link.ASKING)
        return released, (*effects, w.Release(state.term.epoch, state.cause, None))
    return after, effects


def _spawns_again(situation: w.Situation, event: w.Event, now: float, policy: w.Policy) -> machine.Step:
    """A child that is gone is started anew within its term."""
    state = situation.state
    if isinstance(state, w.Leading) and isinstance(event, w.Emptied):
        child = w.Spawning(now + 10)
        return replace(situation, state=replace(state, child=child)), (
            w.Spawn(state.term.epoch, now + 10, state.term.kill_at),
        )
    return machine.step(situation, event, now, policy)


def _never_fences(situation: w.Situation, event: w.Event, now: float, policy: w.Policy) -> machine.Step:
    """A lost session changes nothing, and no clock of the lease is looked at while it is away."""
    after, effects = machine.step(situation, event, now, policy)
    if isinstance(after.state, w.Leading) and isinstance(event, w.Detached):
        return replace(after, state=replace(after.state, term=replace(after.state.term, sent=now + 100))), (
            w.Entrust(now + 100),
        )
    return after, effects


def _forgets_the_wish(situation: w.Situation, event: w.Event, now: float, policy: w.Policy) -> machine.Step:
    """A stop that comes while a takeover is under way does not hold back the child."""
    if isinstance(situation.state, w.Stopped) and isinstance(event, w.Granted):
        term = w.Term(event.epoch, event.lease, now, event.sent)
        leading = w.Leading(term, w.Spawning(now + 10), event.sent + 4)
        spawn = w.Spawn(term.epoch, now + 10, term.kill_at)
        return replace(situation, state=leading, link=w.Link.IDLE), (spawn,)
    return machine.step(situation, event, now, policy)


def _counts_silence_of_the_row(situation: w.Situation, event: w.Event, now: float, policy: w.Policy) -> machine.Step:
    """A renewal does not start the wait anew."""
    if isinstance(event, w.Looked) and event.sight.row is not None:
        row = event.sight.row
        versions = {lock_id: (row.version, at) for lock_id, (_, at) in situation.knowledge.versions.items()}
        situation = replace(situation, knowledge=replace(situation.knowledge, versions=versions))
    return machine.step(situation, event, now, policy)


Changed = Callable[[w.Situation, w.Event, float, w.Policy], machine.Step]


def _mutation(*kinds: str, faults: int = 1, orders: int = 0, **rules: Any) -> Mutation:
    return Mutation(Rules(kinds=frozenset(kinds))._replace(**rules), faults, orders)


MUTATIONS: Final[Mapping[str, Mutation]] = {
    "trust counts from the arrival of the answer": _mutation(
        "stall A", "cut A", faults=2, reconnects=False, trusts_from_arrival=True
    ),
    "a look counts from its sending": _mutation(
        "stall B", "cut A", faults=2, reconnects=False, looks_from_sending=True
    ),
    "silence is counted for the row, not for its version": _mutation("cut", step=_counts_silence_of_the_row),
    "others wait 0.85 of a lease": _mutation("cut", lease=Impatient(LEASE)),
    "the advisory lock alone": _mutation("reset", lease=LockAlone(LEASE)),
    "the leader trusts for 1.5 leases": _mutation("cut", lease=Trusting(LEASE)),
    "the lost session is not minded": _mutation("cut", step=_never_fences),
    "a keeper without a deadline": _mutation("worker", keeper_keeps_deadline=False),
    "a lapsed term is renewed again": _mutation("cut", step=_renews_lapsed_terms),
    "released before the tree is empty": _mutation("exit", step=_releases_before_emptied),
    "a second child under one epoch": _mutation("keeper", step=_spawns_again, guardian_refuses=False),
    "a stop during the takeover is forgotten": _mutation("exit A", "stop B", orders=1, step=_forgets_the_wish),
    "a takeover that does not compare the version": _mutation(
        "cut B", "reset A", "release A", faults=2, orders=1, reconnects=False, compares_version=False
    ),
}
