"""Facts for tests of the pure core: a lease of 10 s, a server, a row, and machines brought to where a story begins."""

from __future__ import annotations

from typing import Any

from highlanderd.core.effects import Effect
from highlanderd.core.events import Attached, Detached, Due, Event, Granted, Looked, Renewed, Started
from highlanderd.core.knowledge import Knowledge, observe
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.machine import begin, step
from highlanderd.core.observation import Meta, Observation, Row, ServerIdentity
from highlanderd.core.states import Draining, Policy, Situation, Want
from highlanderd.core.transitions.context import Step
from highlanderd.core.verdict import Candidate, Claim, Verdict, judge
from highlanderd.structs import replace

L = Lease(10.0)
LENGTHS = Lengths.alike(10.0)
LOCK_ID = 7
SERVER = ServerIdentity(system=1, timeline=3, started="a", position=100, place="the ledger")
POLICY = Policy(node="here", instance="ours", stop_timeout=2.0)
HERE = Candidate("here", "ours", keeperless=True)


def row(**facts: Any) -> Row:
    """Return a row of another node's running term; ``facts`` say what is different."""
    usual: dict[str, Any] = {
        "lock_id": LOCK_ID,
        "program": "beat",
        "epoch": 5,
        "renewal": 9,
        "node": "there",
        "instance": "theirs",
        "system": SERVER.system,
        "timeline": SERVER.timeline,
        "released": False,
        "trusted_for": 10.0,
    }
    return Row(**(usual | facts))


def observation(
    seen: Row | None,
    *others: Row,
    server: ServerIdentity = SERVER,
    settled: bool = True,
    offset: int | None = 0,
    ceiling: float = 10.0,
    wanted: float = 10.0,
    floor: int = 0,
) -> Observation:
    """Return what a look shows: a ledger that is settled on its server, unless said otherwise."""
    said = (server.system, server.timeline, server.place) if settled else None
    meta = Meta(L, said, offset, wanted=Lease(wanted), ceiling=Lease(ceiling), floor=floor)
    return Observation(server, meta, seen, others)


def verdict(seen: Observation, *, known_since: float, now: float, candidate: Candidate = HERE) -> Verdict:
    """Judge what has been in sight, unchanged, since a moment."""
    knowledge = observe(Knowledge(), seen, known_since)
    return judge(seen, observe(knowledge, seen, now), now, candidate)


def claim(epoch: int = 6) -> Claim:
    """Return a claim, whatever it is for."""
    return Claim(None, (), SERVER, LENGTHS, epoch)


def go(situation: Situation, *events: tuple[float, Event], policy: Policy = POLICY) -> Step:
    """Let a machine handle events, each at its moment; gives the situation and the last one's effects."""
    effects: tuple[Effect, ...] = ()
    for now, event in events:
        situation, effects = step(situation, event, now, policy)
    return situation, effects


def waiting() -> Situation:
    """Attached at 0, and asking for its first look."""
    return go(begin(Want.RUN, 0.0), (0.0, Attached(1)))[0]


def spawning(policy: Policy = POLICY) -> Situation:
    """Granted at 1 what was asked for at 0: its trust ends at 10, its fence begins at 7, and SIGKILL comes at 9."""
    free = observation(row(released=True))
    return go(waiting(), (0.0, Looked(free, 0.0, True)), (1.0, Granted(6, LENGTHS, 0.0)), policy=policy)[0]


def leading(policy: Policy = POLICY) -> Situation:
    """Leading since 1 with a running child; trust still counts from 0."""
    return go(spawning(policy), (1.0, Started(42, 1.0)), policy=policy)[0]


def renewed(sent: float, trusted: float = 10.0, wanted: float | None = None) -> Renewed:
    """Return the answer to a renewal that was written under ``trusted``, and asks for ``wanted`` next."""
    return Renewed(sent, Lengths(Lease(trusted), Lease(trusted if wanted is None else wanted), L))


def prolonged(trusted: float, wanted: float | None = None, policy: Policy = POLICY) -> Situation:
    """Leading under ``trusted``, acknowledged for what was sent at 2; the next renewal is due at 4 for ``wanted``."""
    return go(leading(policy), (2.0, Due()), (2.1, renewed(2.0, trusted, wanted)), policy=policy)[0]


def without_reason(situation: Situation) -> Situation:
    """Leave out the words that are for people."""
    return replace(situation, reason="")


LOST = Detached("lost")


def draining(situation: Situation) -> Draining:
    """Return the state, which is draining."""
    assert isinstance(situation.state, Draining)
    return situation.state
