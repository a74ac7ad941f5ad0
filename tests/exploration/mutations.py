"""Rules of the protocol left out one at a time: the search must find each of them, or it has no teeth.

Where the rule lives in the core, the real ``step`` is handed a doctored situation or event, or its answer is changed;
where it lives in SQL, in the session or in the processes, the world's stand-in is flawed (see ``Rules`` and ``Flaws``).
Some rules are guarded twice: to see one of them fail, its second guard has to be left out as well, and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from highlanderd.core import machine
from highlanderd.core.effects import Effect, Look, Release, Renew, SetDeadline, Spawn, TakeOver, WriteSettled
from highlanderd.core.events import Attached, Detached, Emptied, Event, Exited, Granted, Looked, Renewed
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Observation, Row
from highlanderd.core.states import (
    Cause,
    Draining,
    Leading,
    Policy,
    Releasing,
    Running,
    SessionState,
    Situation,
    Spawning,
    Stopped,
    Term,
    Waiting,
)
from tests.exploration.world import LEASE, Rules, World
from tests.exploration.world_postgres import Flaws
from tests.exploration.world_stories import (
    Story,
    befallen,
    divided,
    dumped,
    forgetful,
    lagging,
    led,
    maintained,
    releasing,
    renamed,
    replicated,
    revived,
    two_keys,
    waited,
)

Changed = Callable[[Situation, Event, float, Policy], machine.Step]


class Mutation(NamedTuple):
    """One broken rule, and the kinds of misfortune, and how much of it, that show it soonest."""

    rules: Rules
    faults: int = 1
    orders: int = 0
    names: str = "AB"
    start: Story = led

    def world(self) -> World:
        """Return the world that the search starts from."""
        return self.start(self.rules, self.names, self.faults, self.orders)


# -------------------------------------------------------------------------------------------------- clocks of the lease


class Trusting(Lease):
    """The leader trusts its term for longer than others wait."""

    def trusted_until(self, sent: float) -> float:
        """Half a lease too long."""
        return sent + 1.5 * self.length

    def kill_at(self, sent: float) -> float:
        """Likewise."""
        return sent + 1.4 * self.length


# ------------------------------------------------------------------------------------------------------- what is judged


def _doctored(change: Callable[[Row, Observation], Row]) -> Changed:
    """Judge another row than the one that was seen, and claim the one that was seen."""

    def step(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
        if not isinstance(event, Looked) or event.observation.row is None:
            return machine.step(situation, event, now, policy)
        row, other = event.observation.row, change(event.observation.row, event.observation)
        after, effects = machine.step(
            situation, replace(event, observation=replace(event.observation, row=other)), now, policy
        )
        return after, tuple(_truly(effect, row, other) for effect in effects)

    return step


def _truly(effect: Effect, row: Row, other: Row) -> Effect:
    if not isinstance(effect, TakeOver):
        return effect
    closing = tuple(row if one is other else one for one in effect.claim.closing)
    return TakeOver(replace(effect.claim, judged=row, closing=closing))


def _waiting(share: float) -> Changed:
    """Others wait another share of the lease that a row carries."""
    return _doctored(lambda row, _observation: replace(row, trusted_for=row.trusted_for * share / 1.05))


def _forgets_reservations(row: Row, _observation: Observation) -> Row:
    """The line on released rows comes first."""
    return replace(row, reserved_for=None)


def _rows_lease_ignored(row: Row, observation: Observation) -> Row:
    """Others wait for the ledger's lease, whatever the row was written under."""
    return replace(row, trusted_for=observation.meta.lease.length)


def _looking(change: Callable[[Situation, Observation, Policy], tuple[Situation, Observation]]) -> Changed:
    """Know or see something else than what is so, whenever a look was answered."""

    def step(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
        if not isinstance(event, Looked):
            return machine.step(situation, event, now, policy)
        situation, observation = change(situation, event.observation, policy)
        after, effects = machine.step(situation, replace(event, observation=observation), now, policy)
        row, other = event.observation.row, observation.row
        if row is None or other is None or row is other:
            return after, effects
        return after, tuple(_truly(effect, row, other) for effect in effects)

    return step


def _unsuspecting(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """The second guard of much: who meets another ledger than before does not believe all that it says of itself."""
    known, server = situation.knowledge, observation.server
    if known.server is not None:
        same = replace(known.server, system=server.system, timeline=server.timeline, place=server.place)
        known = replace(known, server=same, versions={}, row=None)
    return replace(situation, knowledge=known), observation


def _as_if_settled(observation: Observation) -> Observation:
    server = observation.server
    settled = server.system, server.timeline, server.place
    return replace(observation, meta=replace(observation.meta, settled=settled, offset=observation.meta.offset or 0))


def _trusts_ours(situation: Situation, observation: Observation, policy: Policy) -> tuple[Situation, Observation]:
    """Our own row is ours wherever it was written."""
    row = observation.row
    ours = row is not None and row.instance == policy.instance and not row.released
    if row is None or not ours:
        return situation, observation
    here = replace(row, system=observation.server.system, timeline=observation.server.timeline)
    return _unsuspecting(situation, _as_if_settled(replace(observation, row=here)), policy)


def _trusts_released(situation: Situation, observation: Observation, policy: Policy) -> tuple[Situation, Observation]:
    """Released is released, on whichever timeline and in whichever ledger that was written."""
    released = observation.row is not None and observation.row.released
    return _unsuspecting(situation, _as_if_settled(observation) if released else observation, policy)


def _replicated_counts_as_over(
    situation: Situation, observation: Observation, _policy: Policy
) -> tuple[Situation, Observation]:
    """A row that another server wrote is over as soon as this one is settled, however it moves."""
    row, server = observation.row, observation.server
    if row is None or (row.system, row.timeline) == (server.system, server.timeline):
        return situation, observation
    unmoved = replace(situation, knowledge=replace(situation.knowledge, versions={}))
    return unmoved, replace(observation, row=replace(row, trusted_for=0.0))


def _settles_by_the_lease(
    situation: Situation, observation: Observation, _policy: Policy
) -> tuple[Situation, Observation]:
    """Who cannot see a row waits for the ledger's lease."""
    return situation, replace(observation, meta=replace(observation.meta, ceiling=observation.meta.lease))


def _forgets_promises(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """What another ledger has promised is forgotten with it."""
    return replace(
        situation, knowledge=replace(situation.knowledge, ceiling=Lease(0.0), promised_until=0.0)
    ), observation


def _knows_across_places(
    situation: Situation, observation: Observation, _policy: Policy
) -> tuple[Situation, Observation]:
    """What was known of one ledger counts for the one that took its place."""
    known = situation.knowledge
    if known.server is not None:
        known = replace(known, server=replace(known.server, place=observation.server.place), versions={}, row=None)
        known = replace(known, settled=False)
    return replace(situation, knowledge=known), observation


def _bears_rewinding(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """A row that goes backwards is a row that has moved."""
    return replace(situation, knowledge=replace(situation.knowledge, versions={})), observation


def _forgets_epochs(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """Epochs go by what the ledger says, whatever was seen before."""
    return replace(situation, knowledge=replace(situation.knowledge, epoch=0)), observation


def _shortens_by_the_answer(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A shorter lease counts only once its renewal was answered."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(state, Leading | Draining) and state.term.shortening is not None:
        state = replace(state, term=replace(state.term, shortening=None))
        effects = tuple(effect for effect in effects if not isinstance(effect, SetDeadline))
    return replace(after, state=state), effects


def _counts_silence_of_the_row(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A renewal does not start the wait anew."""
    if isinstance(event, Looked) and event.observation.row is not None:
        row = event.observation.row
        versions = {lock_id: (row.version, at) for lock_id, (_, at) in situation.knowledge.versions.items()}
        situation = replace(situation, knowledge=replace(situation.knowledge, versions=versions))
    return machine.step(situation, event, now, policy)


def _knows_across_runs(
    situation: Situation, observation: Observation, _policy: Policy
) -> tuple[Situation, Observation]:
    """What was known of another run of the server counts for this one, and that it was settled there tells nothing."""
    known = situation.knowledge
    server = None if known.server is None else observation.server
    return replace(situation, knowledge=replace(known, server=server, settled=False)), observation


def _counts_on_in_epochs(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """The next epoch is the row's and one: no timeline in it."""
    after, effects = machine.step(situation, event, now, policy)
    if len(effects) == 1 and isinstance(effects[0], TakeOver) and effects[0].claim.judged is not None:
        claim = effects[0].claim
        return after, (TakeOver(replace(claim, epoch=effects[0].claim.judged.epoch + 1)),)
    return after, effects


# ----------------------------------------------------------------------------------------------------- what is decided


def _renews_lapsed_terms(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """On a new session the term is taken back, however long ago trust ran out."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(event, Attached) and isinstance(state, Draining) and not effects:
        return replace(after, session=SessionState.BUSY), (Renew(state.term.epoch, state.term.lengths.wanted),)
    return after, effects


def _calls_fences_back(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A reattached term goes on, though its child was told to stop."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(event, Renewed) and isinstance(state, Draining) and state.cause is Cause.FENCED:
        leading = Leading(state.term, Running(1, 0.0), state.renew_at)
        return replace(after, state=leading), (SetDeadline(state.term.kill_at),)
    return after, effects


def _releases_before_emptied(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """The exit of the main process counts as the end of the tree: row and lock are given away."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(event, Exited) and isinstance(state, Draining) and after.session is SessionState.IDLE:
        released = replace(after, state=replace(state, phase=Releasing()), session=SessionState.BUSY)
        return released, (*effects, Release(state.term.epoch, state.cause, None))
    return after, effects


def _spawns_again(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A child that is gone is started anew within its term."""
    state = situation.state
    if isinstance(state, Leading) and isinstance(event, Emptied):
        child = Spawning(now + 10)
        return replace(situation, state=replace(state, child=child)), (
            Spawn(state.term.epoch, now + 10, state.term.kill_at),
        )
    return machine.step(situation, event, now, policy)


def _spawns_late(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A term counts from the arrival of its grant."""
    after, effects = machine.step(situation, event, now, policy)
    if isinstance(event, Granted) and isinstance(situation.state, Waiting):
        term = Term(event.epoch, event.lengths, now, now)
        spawn = Spawn(event.epoch, now + 10, now + 18)
        leading = Leading(term, Spawning(now + 10), now + 4)
        return replace(after, state=leading, session=SessionState.IDLE), (spawn,)
    return after, effects


def _never_fences(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A lost session changes nothing, and no clock of the lease is looked at while it is away."""
    after, effects = machine.step(situation, event, now, policy)
    if isinstance(after.state, Leading) and isinstance(event, Detached):
        return replace(after, state=replace(after.state, term=replace(after.state.term, sent=now + 100))), (
            SetDeadline(now + 100),
        )
    return after, effects


def _forgets_the_wish(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A stop that comes while a takeover is under way does not hold back the child."""
    if isinstance(situation.state, Stopped) and isinstance(event, Granted):
        term = Term(event.epoch, event.lengths, now, event.sent)
        leading = Leading(term, Spawning(now + 10), event.sent + 4)
        spawn = Spawn(term.epoch, now + 10, term.kill_at)
        return replace(situation, state=leading, session=SessionState.IDLE), (spawn,)
    return machine.step(situation, event, now, policy)


def _rules(*kinds: str, **rules: Any) -> Rules:
    return Rules(kinds=frozenset(kinds), swift=True)._replace(**rules)


def _flawed(**flaws: Any) -> Flaws:
    return Flaws()._replace(**flaws)


EVERYTHING = Look, WriteSettled, TakeOver, Renew, Release

UNSETTLED = _flawed(compares_settled=False)
"""The takeover's own second guard: only on a settled ledger."""

MUTATIONS: Final[Mapping[str, Mutation]] = {
    "trust counts from the arrival of the answer": Mutation(
        _rules("stall A", "cut A", reconnect="", trusts_from_arrival=True), faults=2
    ),
    "a look counts from its sending": Mutation(
        _rules("stall B", "cut A", reconnect="", looks_from_sending=True),
        start=befallen("a message stalls", "B"),
    ),
    "a command tag counts as acknowledged": Mutation(_rules(counts_tags=True, reconnect="B"), faults=0, start=divided),
    "an answer with a WARNING counts as acknowledged": Mutation(
        _rules("cancel A", counts_warnings=True, reconnect="B"), start=divided
    ),
    "silence is counted for the row, not for its version": Mutation(_rules("cut", step=_counts_silence_of_the_row)),
    "others wait 0.85 of a lease": Mutation(_rules("cut", step=_waiting(0.85))),
    "others wait one lease, though clocks run apart": Mutation(
        _rules("cut", step=_waiting(1.0), rates=(0.99, 1.01), horizon=50, reconnect="")
    ),
    "the advisory lock alone": Mutation(_rules("reset", step=_waiting(0.0))),
    "the leader trusts for 1.5 leases": Mutation(_rules("cut", lease=Trusting(LEASE))),
    "the lost session is not minded": Mutation(_rules("cut", step=_never_fences)),
    "ours is trusted across a failover": Mutation(
        _rules("failover", "release A", step=_looking(_trusts_ours), sql=UNSETTLED, reconnect="A"), orders=1
    ),
    "released is trusted across a change of timeline": Mutation(
        _rules("failover", "release A", step=_looking(_trusts_released), sql=UNSETTLED, reconnect="A"), orders=1
    ),
    "a lapsed term is renewed again": Mutation(_rules("cut", step=_renews_lapsed_terms)),
    "knowledge is kept across a change of the server's run": Mutation(
        _rules("failover", "reset B", step=_looking(_knows_across_runs), reconnect="B"), faults=2
    ),
    "what was meant for a lost session reaches the next": Mutation(
        _rules("busy A", "reset A", reach_successors=EVERYTHING), start=befallen("busy", "A")
    ),
    "settled is written for the present timeline": Mutation(
        _rules(
            *("failover", "busy B"),
            step=_looking(_unsuspecting),
            sql=_flawed(settles_present=True),
            reach_successors=(WriteSettled,),
        ),
        start=befallen("busy", "B", waited),
    ),
    "the update is sent without the grant": Mutation(
        _rules("reset", swift=False, sql=_flawed(update_needs_grant=False))
    ),
    "a takeover that does not compare the version, nor whether the term is closed": Mutation(
        _rules("cut B", "reset A", reconnect="", sql=_flawed(compares_version=False, takes_closed_only=False)),
        faults=2,
        start=releasing,
    ),
    "epochs without the timeline": Mutation(
        _rules("failover", step=_counts_on_in_epochs, reconnect="A"), start=releasing
    ),
    "reservations are looked at after released": Mutation(
        _rules("reserve A", swift=False, step=_doctored(_forgets_reservations)), orders=1, faults=0, names="ABC"
    ),
    "rows under another lock id are not looked at": Mutation(
        _rules("cut", sql=_flawed(reads_other_rows=False, refuses_other_rows=False, locks_name=False)),
        faults=0,
        start=renamed,
    ),
    "a stop during the takeover is forgotten": Mutation(_rules("exit A", "stop B", step=_forgets_the_wish), orders=1),
    "a reattach calls a fence back": Mutation(_rules("cut A", step=_calls_fences_back)),
    "released and unlocked before the tree is empty": Mutation(_rules("exit", step=_releases_before_emptied)),
    "a second child under one epoch": Mutation(_rules("keeper", step=_spawns_again, guardian_refuses=False)),
    "an order of a dead worker is read after the next has begun": Mutation(
        _rules("worker", guardian_hears_last_words=False), names="A", start=waited
    ),
    "orphans of a dead keeper are forgotten": Mutation(_rules("keeper", guardian_counts_orphans=False)),
    "the next worker is not told of orphans": Mutation(
        _rules("keeper A", "worker A", guardian_tells_of_orphans=False), faults=2
    ),
    "a keeper without a deadline": Mutation(_rules("worker", keeper_keeps_deadline=False)),
    "a frozen keeper is left alone": Mutation(
        _rules("freeze keeper A", "cut A", guardian_kills_frozen_keepers=False, reconnect=""),
        start=befallen("freeze keeper", "A"),
    ),
    "a keeper does not compare the deadline at exec": Mutation(
        _rules("freeze node A", keeper_compares_at_exec=False), start=waited
    ),
    "a term counts from the arrival of its grant": Mutation(_rules("freeze node A", step=_spawns_late), start=waited),
    "a lock without an idle timeout": Mutation(_rules("crash", idle_timeout=False)),
    "leaders use a longer lease before every standby has the ceiling": Mutation(
        _rules(ceiling_first=False, reconnect=""), faults=0, start=lagging
    ),
    "the ledger's lease is waited for after a failover, not the ceiling": Mutation(
        _rules(step=_looking(_settles_by_the_lease), reconnect=""), faults=0, start=forgetful
    ),
    "the ceiling is lowered by somebody who has not watched": Mutation(
        _rules(watches=False, reconnect=""), faults=0, start=forgetful
    ),
    "a shorter lease counts only from the answer": Mutation(
        _rules("cut A", "relax", step=_shortens_by_the_answer, reconnect=""), orders=1, start=maintained
    ),
    "the ledger's lease is waited for, not the row's": Mutation(
        _rules("cut A", step=_doctored(_rows_lease_ignored), reconnect=""), start=maintained
    ),
    "what a ledger has promised is forgotten with it": Mutation(
        _rules("recreate", "cut A", step=_looking(_forgets_promises), reconnect=""), faults=2, start=maintained
    ),
    "released is trusted in a ledger that was restored": Mutation(
        _rules("restore", "cut A", step=_looking(_trusts_released), sql=UNSETTLED, reconnect=""),
        faults=2,
        start=dumped,
    ),
    "knowledge is kept across a change of the ledger": Mutation(
        _rules("recreate", "cut A", step=_looking(_knows_across_places), reconnect=""), faults=2
    ),
    "a row that goes backwards has moved, and no more": Mutation(
        _rules("rewind", "cut A", step=_looking(_bears_rewinding), reconnect=""), faults=2, start=dumped
    ),
    "epochs go by the ledger alone": Mutation(
        _rules("recreate", step=_looking(_forgets_epochs), sql=_flawed(settles_generation=False), reconnect="")
    ),
    "a row that arrives from another server is over": Mutation(
        _rules(step=_looking(_replicated_counts_as_over), reconnect=""), faults=0, start=replicated
    ),
    "hosts are not asked": Mutation(_rules(asks_hosts=False, meets_both=True, reconnect=""), faults=0, start=revived),
    "a takeover beside another unreleased row of the program": Mutation(
        _rules("stall B", "reset A", sql=_flawed(refuses_other_rows=False), snapshots=True, reconnect=""),
        faults=2,
        start=two_keys,
    ),
    "a takeover without the lock of the program's name": Mutation(
        _rules(sql=_flawed(locks_name=False), snapshots=True, swift=False, reconnect=""), faults=0, start=two_keys
    ),
    "a lapsed term is not closed before the takeover": Mutation(
        _rules("lockers", "crash A", sql=_flawed(closes_first=False), reconnect=""), faults=2
    ),
}
