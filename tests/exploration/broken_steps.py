"""Steps of the machine with a rule left out: the real ``step`` sees something else, or its answer is changed."""

from __future__ import annotations

from collections.abc import Callable

from highlanderd.core import machine
from highlanderd.core.effects import CloseTerms, Effect, Release, Renew, SetDeadline, Spawn, TakeOver
from highlanderd.core.events import (
    Attached,
    Detached,
    Emptied,
    Event,
    Exited,
    FoundReady,
    FoundUnhealthy,
    Granted,
    HookFinished,
    Looked,
    Renewed,
)
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
from highlanderd.structs import replace

Changed = Callable[[Situation, Event, float, Policy], machine.Step]


# -------------------------------------------------------------------------------------------------- clocks of the lease


class Trusting(Lease, frozen=True):
    """The leader trusts its term for longer than others wait."""

    def trusted_until(self, sent: float) -> float:
        """Half a lease too long."""
        return sent + 1.5 * self.length

    def kill_at(self, sent: float) -> float:
        """Likewise."""
        return sent + 1.4 * self.length


# ------------------------------------------------------------------------------------------------------- what is judged


def doctored(change: Callable[[Row, Observation], Row]) -> Changed:
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
    if not isinstance(effect, TakeOver | CloseTerms):
        return effect
    closing = tuple(row if one is other else one for one in effect.claim.closing)
    return replace(effect, claim=replace(effect.claim, judged=row, closing=closing))


def waiting(share: float) -> Changed:
    """Others wait another share of the lease that a row carries."""
    return doctored(lambda row, _observation: replace(row, trusted_for=row.trusted_for * share / 1.05))


def forgets_reservations(row: Row, _observation: Observation) -> Row:
    """The line on released rows comes first."""
    return replace(row, reserved_for=None)


def rows_lease_ignored(row: Row, observation: Observation) -> Row:
    """Others wait for the ledger's lease, whatever the row was written under."""
    return replace(row, trusted_for=observation.meta.lease.length)


def left_to_others_only(row: Row, _observation: Observation) -> Row:
    """What placement makes of a claim is all that a node waits for."""
    return replace(row, trusted_for=0.0)


def hastens_the_preferred(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A node that comes first in the order of preference takes over as soon as it sees the program."""
    preferred = policy.prefer[:1] == (policy.node,)
    return (doctored(left_to_others_only) if preferred else machine.step)(situation, event, now, policy)


def looking(change: Callable[[Situation, Observation, Policy], tuple[Situation, Observation]]) -> Changed:
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


def unsuspecting(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
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


def trusts_ours(situation: Situation, observation: Observation, policy: Policy) -> tuple[Situation, Observation]:
    """Our own row is ours wherever it was written."""
    row = observation.row
    ours = row is not None and row.instance == policy.instance and not row.released
    if row is None or not ours:
        return situation, observation
    here = replace(row, system=observation.server.system, timeline=observation.server.timeline)
    return unsuspecting(situation, _as_if_settled(replace(observation, row=here)), policy)


def trusts_released(situation: Situation, observation: Observation, policy: Policy) -> tuple[Situation, Observation]:
    """Released is released, on whichever timeline and in whichever ledger that was written."""
    released = observation.row is not None and observation.row.released
    return unsuspecting(situation, _as_if_settled(observation) if released else observation, policy)


def replicated_counts_as_over(
    situation: Situation, observation: Observation, _policy: Policy
) -> tuple[Situation, Observation]:
    """A row that another server wrote is over as soon as this one is settled, however it moves."""
    row, server = observation.row, observation.server
    if row is None or (row.system, row.timeline) == (server.system, server.timeline):
        return situation, observation
    unmoved = replace(situation, knowledge=replace(situation.knowledge, versions={}))
    return unmoved, replace(observation, row=replace(row, trusted_for=0.0))


def settles_by_the_lease(
    situation: Situation, observation: Observation, _policy: Policy
) -> tuple[Situation, Observation]:
    """Who cannot see a row waits for the ledger's lease."""
    return situation, replace(observation, meta=replace(observation.meta, ceiling=observation.meta.lease))


def forgets_promises(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """What another ledger has promised is forgotten with it."""
    return replace(
        situation, knowledge=replace(situation.knowledge, ceiling=Lease(0.0), promised_until=0.0)
    ), observation


def knows_across_places(
    situation: Situation, observation: Observation, _policy: Policy
) -> tuple[Situation, Observation]:
    """What was known of one ledger counts for the one that took its place."""
    known = situation.knowledge
    if known.server is not None:
        known = replace(known, server=replace(known.server, place=observation.server.place), versions={}, row=None)
        known = replace(known, settled=False)
    return replace(situation, knowledge=known), observation


def bears_rewinding(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """A row that goes backwards is a row that has moved."""
    return replace(situation, knowledge=replace(situation.knowledge, versions={})), observation


def forgets_epochs(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """Epochs go by what the ledger says, whatever was seen before."""
    return replace(situation, knowledge=replace(situation.knowledge, epoch=0)), observation


def shortens_by_the_answer(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A shorter lease counts only once its renewal was answered."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(state, Leading | Draining) and state.term.shortening is not None:
        state = replace(state, term=replace(state.term, shortening=None))
        effects = tuple(effect for effect in effects if not isinstance(effect, SetDeadline))
    return replace(after, state=state), effects


def counts_silence_of_the_row(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A renewal does not start the wait anew."""
    if isinstance(event, Looked) and event.observation.row is not None:
        row = event.observation.row
        versions = {lock_id: (row.version, at) for lock_id, (_, at) in situation.knowledge.versions.items()}
        situation = replace(situation, knowledge=replace(situation.knowledge, versions=versions))
    return machine.step(situation, event, now, policy)


def knows_across_runs(situation: Situation, observation: Observation, _policy: Policy) -> tuple[Situation, Observation]:
    """What was known of another run of the server counts for this one, and that it was settled there tells nothing."""
    known = situation.knowledge
    server = None if known.server is None else observation.server
    return replace(situation, knowledge=replace(known, server=server, settled=False)), observation


def counts_on_in_epochs(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """The next epoch is the row's and one: no timeline in it."""
    after, effects = machine.step(situation, event, now, policy)
    if len(effects) == 1 and isinstance(effects[0], TakeOver) and effects[0].claim.judged is not None:
        claim = effects[0].claim
        return after, (TakeOver(replace(claim, epoch=effects[0].claim.judged.epoch + 1)),)
    return after, effects


# ----------------------------------------------------------------------------------------------------- what is decided


def renews_lapsed_terms(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """On a new session the term is taken back, however long ago trust ran out."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(event, Attached) and isinstance(state, Draining) and not effects:
        return replace(after, session=SessionState.BUSY), (Renew(state.term.epoch, state.term.lengths.wanted),)
    return after, effects


def calls_fences_back(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A reattached term goes on, though its child was told to stop."""
    after, effects = machine.step(situation, event, now, policy)
    state = after.state
    if isinstance(event, Renewed) and isinstance(state, Draining) and state.cause is Cause.FENCED:
        leading = Leading(state.term, Running(1, 0.0, now + 100), state.renew_at)
        return replace(after, state=leading), (SetDeadline(state.term.kill_at),)
    return after, effects


def keeps_readiness_to_itself(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """That a child is ready is not handed to its keeper."""
    after, effects = machine.step(situation, event, now, policy)
    return after, () if isinstance(event, FoundReady) else effects


def releases_at(kind: type[Exited | FoundUnhealthy | HookFinished]) -> Changed:
    """Count the tree as gone at an event that says less: row and lock are given away."""

    def step(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
        after, effects = machine.step(situation, event, now, policy)
        state = after.state
        if isinstance(event, kind) and isinstance(state, Draining) and after.session is SessionState.IDLE:
            released = replace(after, state=replace(state, phase=Releasing()), session=SessionState.BUSY)
            return released, (*effects, Release(state.term.epoch, state.cause, None))
        return after, effects

    return step


def spawns_again(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A child that is gone is started anew within its term."""
    state = situation.state
    if isinstance(state, Leading) and isinstance(event, Emptied):
        child = Spawning(now + 10)
        return replace(situation, state=replace(state, child=child)), (
            Spawn(state.term.epoch, now + 10, state.term.kill_at),
        )
    return machine.step(situation, event, now, policy)


def spawns_late(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A term counts from the arrival of its grant."""
    after, effects = machine.step(situation, event, now, policy)
    if isinstance(event, Granted) and isinstance(situation.state, Waiting):
        term = Term(event.epoch, event.lengths, now, now)
        spawn = Spawn(event.epoch, now + 10, now + 18)
        leading = Leading(term, Spawning(now + 10), now + 4)
        return replace(after, state=leading, session=SessionState.IDLE), (spawn,)
    return after, effects


def never_fences(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A lost session changes nothing, and no clock of the lease is looked at while it is away."""
    after, effects = machine.step(situation, event, now, policy)
    if isinstance(after.state, Leading) and isinstance(event, Detached):
        return replace(after, state=replace(after.state, term=replace(after.state.term, sent=now + 100))), (
            SetDeadline(now + 100),
        )
    return after, effects


def forgets_the_suspension(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A look that shows that the program is stopped everywhere is judged as if it did not."""
    if isinstance(event, Looked):
        event = replace(event, observation=replace(event.observation, suspension=None))
    return machine.step(situation, event, now, policy)


def forgets_the_wish(situation: Situation, event: Event, now: float, policy: Policy) -> machine.Step:
    """A stop that comes while a takeover is under way does not hold back the child."""
    if isinstance(situation.state, Stopped) and isinstance(event, Granted):
        term = Term(event.epoch, event.lengths, now, event.sent)
        leading = Leading(term, Spawning(now + 10), event.sent + 4)
        spawn = Spawn(term.epoch, now + 10, term.kill_at)
        return replace(situation, state=leading, session=SessionState.IDLE), (spawn,)
    return machine.step(situation, event, now, policy)
