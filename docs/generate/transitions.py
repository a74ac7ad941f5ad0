"""Walks the real machine through everything that can happen to one program, and notes which state leads to which.

The diagram in the reference is drawn from this walk, so it cannot say what the table does not do. The walk knows only
what the outside world may do: answers follow questions, a child starts before it exits, and ends once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_args

from tables import first_sentence, member_docstrings, rows

from highlanderd.core import machine
from highlanderd.core.effects import Effect, Look, Release, Renew, Spawn, TakeOver, WriteSettled
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Due,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    FoundReady,
    FoundUnhealthy,
    FoundUnready,
    Granted,
    HookFinished,
    HookStarted,
    LeaseRefused,
    LookAdvised,
    Looked,
    Notified,
    Overruled,
    Refused,
    ReleaseOrdered,
    Renewed,
    RestartOrdered,
    Resumed,
    Settled,
    SpawnFailed,
    Started,
    StartOrdered,
    StopOrdered,
    Suspended,
    Unlocked,
)
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.observation import Meta, Observation, Row, ServerIdentity, Suspension
from highlanderd.core.states import Cause, Draining, Leading, Policy, SessionState, Situation, State, Waiting, Want
from highlanderd.core.transitions.context import bug, stay
from highlanderd.structs import replace

LEASE: Final = Lease(10.0)
LENGTHS: Final = Lengths.alike(10.0)
POLICIES: Final = (
    Policy("here", "us"),
    Policy("here", "us", restart="on-failure"),
    Policy("here", "us", restart="never"),
    Policy("here", "us", on_connection_loss="stop"),
    Policy("here", "us", ready_timeout=1.0),
)
ORDERS: Final = (
    StartOrdered(),
    StopOrdered(),
    RestartOrdered(),
    ReleaseOrdered("there", 30.0),
    ReleaseOrdered(None, 0.0),
    EndOrdered(Cause.SHUTDOWN),
    EndOrdered(Cause.REMOVED),
    Suspended(Suspension(drained=False, author="somebody", remark="")),
    Suspended(Suspension(drained=True, author="somebody", remark="")),
    Resumed(),
)
REQUESTS: Final = (Look, TakeOver, WriteSettled, Renew, Release)


@dataclass(frozen=True, slots=True)
class Edge:
    """One way from a state to another."""

    old: str
    event: str
    new: str
    cause: str
    """Why the term ends, for an edge into draining."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk stands: the situation, the question that is under way, and how far the child has come."""

    situation: Situation
    now: float
    asked: type | None = None
    child: str = "none"

    def key(self) -> tuple[object, ...]:
        """Two places with one key have the same ways out; times are left out, or the walk would never end."""
        state = self.situation.state
        inner = getattr(state, "phase", getattr(state, "child", None))
        cause, session, want = getattr(state, "cause", None), self.situation.session, self.situation.want
        suspended = self.situation.suspension is not None
        return type(state), type(inner), cause, session, want, suspended, self.asked, self.child


def name(state: type[State]) -> str:
    """Name a state as operators know it."""
    return state.__name__.lower()


@cache
def walk() -> tuple[frozenset[Edge], frozenset[tuple[type, type]]]:
    """Return every edge between states, and every cell of the table that was tried."""
    edges: set[Edge] = set()
    tried: set[tuple[type, type]] = set()
    for policy in POLICIES:
        todo = [Place(machine.begin(want, 0.0), 0.0) for want in (Want.RUN, Want.STOP)]
        seen = {place.key() for place in todo}
        while todo:
            place = todo.pop()
            for event, now in happenings(place, policy):
                after = _stepped(place, event, now, policy)
                tried.add((type(place.situation.state), type(event)))
                old, new = name(type(place.situation.state)), name(type(after.situation.state))
                if old != new:
                    cause = getattr(after.situation.state, "cause", None)
                    edges.add(Edge(old, type(event).__name__, new, cause.value if cause else ""))
                if after.key() not in seen:
                    seen.add(after.key())
                    todo.append(after)
    return frozenset(edges), frozenset(tried)


def _stepped(place: Place, event: Event, now: float, policy: Policy) -> Place:
    situation, effects = machine.step(place.situation, event, now, policy)
    asked = None if isinstance(event, Detached | ANSWERS) else place.asked
    asked = next((type(effect) for effect in effects if isinstance(effect, REQUESTS)), asked)
    child = _CHILD.get(type(event), place.child)
    child = "ordered" if any(isinstance(effect, Spawn) for effect in effects) else child
    return Place(situation, now, asked, child)


_CHILD: Final = {HookStarted: "hooking", Started: "running", Exited: "exited", Emptied: "none", SpawnFailed: "none"}
ANSWERS: Final = Looked | Settled | Granted | Refused | Renewed | LeaseRefused | Overruled | Contended | Unlocked


def happenings(place: Place, policy: Policy) -> Iterator[tuple[Event, float]]:
    """Return what may happen next, and when. A passed deadline comes before everything else."""
    situation, now = place.situation, place.now + 0.01
    due = machine.deadline(situation, policy)
    if due is not None:
        yield Due(), max(now, due)
        if isinstance(situation.state, Leading | Draining):
            yield Due(), max(now, situation.state.term.kill_at)
    if situation.session is SessionState.DISCONNECTED:
        yield Attached(1), now
    else:
        yield Detached("the connection broke"), now
        yield Notified(), now
        yield LookAdvised(), now
    for order in ORDERS:
        yield order, now
    for answer in _answers(place, now):
        yield answer, now
    for fact in _facts(place, now):
        yield fact, now


def _answers(place: Place, now: float) -> Iterator[Event]:
    if place.asked is Look:
        for observation in _observations():
            yield Looked(observation, now, keeperless=True)
            yield Looked(observation, now - 11, keeperless=True)  # a lease ago: what must be waited out has been
    elif place.asked is TakeOver:
        yield Granted(1, LENGTHS, now)
        yield Granted(1, LENGTHS, now - 6)
        yield Refused(0.2, "another session holds the advisory lock")
        yield Refused(0, "another session was faster")
    elif place.asked is WriteSettled:
        yield Settled()
    elif place.asked is Renew:
        yield from (Renewed(now, LENGTHS), LeaseRefused(Lease(4.0)), Overruled(), Contended())
    elif place.asked is Release:
        yield Unlocked()


def _facts(place: Place, now: float) -> Iterator[Event]:
    if place.child == "ordered":
        yield HookStarted()
        yield Started(42, now)
        yield SpawnFailed("there is no such program")
    elif place.child == "hooking":
        yield from (HookFinished("before_start", ""), HookFinished("before_start", "exited with status 1"))
        yield from (Started(42, now), SpawnFailed("before_start: exited with status 1"))
    elif place.child == "running":
        yield Exited(0, now)
        yield Exited(256, now)
        yield Exited(9, now, starved="at its memory_max")
        yield Emptied()
        yield HookFinished("before_stop", "")
        yield from (FoundReady(now), FoundUnready("connection refused", now + 60), FoundUnhealthy("no answer", now))
    elif place.child == "exited":
        yield Emptied()


def _observations() -> Iterator[Observation]:
    """What a look may show: nothing yet, a leader, a released row, a finished program, an old primary, no offset."""
    server = ServerIdentity(1, 2, "this run", 100, "here")
    meta = Meta(LEASE, (1, 2, "here"), 0, wanted=LEASE, ceiling=LEASE)
    led = Row(1, "beat", 7, 1, "there", "them", 1, 2, released=False, trusted_for=10.0)
    released = replace(led, released=True, reason="released")
    for row in (None, led, released, replace(released, reason="finished")):
        yield Observation(server, meta, row)
    yield Observation(server, replace(meta, offset=None), released)
    yield Observation(replace(server, timeline=1), meta, released)


# ------------------------------------------------------------------------------------------- on the page


def diagram() -> str:
    """The states and the ways between them, walked on the real table."""
    ways: Mapping[tuple[str, str], set[str]] = defaultdict(set)
    for edge in walk()[0]:
        ways[edge.old, edge.new].add(edge.event)
    states = [name(kind) for kind in machine.TABLE]
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> waiting", "    [*] --> stopped: autostart = false"]
    for old, new in sorted(ways, key=lambda way: (states.index(way[0]), states.index(way[1]))):
        lines.append(f"    {old} --> {new}: {', '.join(_in_order(ways[old, new]))}")
    return "\n".join([*lines, "```"])


def _in_order(events: Iterable[str]) -> list[str]:
    order = [kind.__name__ for kind in machine.TABLE[Waiting]]
    return sorted(events, key=order.index)


def ways_into_draining() -> str:
    """Why a term ends, by the event that ends it."""
    found: Mapping[tuple[str, str], set[str]] = defaultdict(set)
    for edge in walk()[0]:
        if edge.new == "draining":
            found[edge.cause, edge.old].add(edge.event)
    order = [cause.value for cause in Cause]
    lines = sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    meanings = {Cause[member].value: meaning for member, meaning in member_docstrings(Cause)}
    return rows(
        ("cause", "meaning", "from", "event"),
        ((f"`{cause}`", meanings[cause], old, ", ".join(_in_order(events))) for (cause, old), events in lines),
    )


def vocabulary() -> str:
    """The states, events and effects in the code's own words."""
    states = rows(("state", "meaning"), ((f"`{name(kind)}`", first_sentence(kind.__doc__)) for kind in machine.TABLE))
    events = rows(
        ("event", "meaning"), ((kind.__name__, first_sentence(kind.__doc__)) for kind in machine.TABLE[Waiting])
    )
    effects = rows(("effect", "meaning"), ((kind.__name__, first_sentence(kind.__doc__)) for kind in get_args(Effect)))
    return f"{states}\n\n{events}\n\n{effects}"


def table() -> str:
    """Every cell."""
    kinds = list(machine.TABLE)
    events = machine.TABLE[Waiting]
    lines = ((event.__name__, *(_cell(machine.TABLE[kind][event]) for kind in kinds)) for event in events)
    return rows(("event", *(name(kind) for kind in kinds)), lines)


def _cell(cell: Callable[..., Any]) -> str:
    return {stay: "stay", bug: "-"}.get(cell) or first_sentence(cell.__doc__)
