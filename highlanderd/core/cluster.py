"""The whole cluster as the ledger shows it: who leads what, who could take it over, who could not and why.

Each daemon writes what it knows of itself (``NodePresence``). ``Overviews`` puts together what all of them wrote.
Nothing of this decides who leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct, field

DRAINED: Final = "drained "
"""How the reason of each program begins whose node is drained."""
AWAY: Final = "its daemon is not connected"
"""How it begins where the node's daemon is not there."""
NEXT_RUN: Final = "next run at "
"""How it begins where a node waits for the next time of a schedule, which follows as RFC 3339."""
LIFT: Final = "lift"
"""The verb of a message to other nodes when a program is started everywhere: no stop of theirs outlives that."""
ASK: Final = "ask"
"""The verb of a question to a node before a program is released to it: the node answers why it could not lead it."""


class CandidatePresence(Struct, frozen=True):
    """One program of one node, as its daemon describes it."""

    program: str
    lock_id: int
    state: str
    able: bool
    """Whether this node could lead it."""
    reason: str
    """Why it could not, or why it is in its state."""
    ready: bool
    since: str
    """When the state was entered: RFC 3339."""
    digests: Mapping[str, str]
    """By key that differs from its default: a short digest of the value."""


class NodePresence(Struct, frozen=True):
    """What a daemon says of itself."""

    name: str
    instance: str
    version: str
    advertise: str | None
    started: str
    programs: tuple[CandidatePresence, ...]
    names: tuple[str, ...] | None = None
    """Of all its programs, also of those that it has not begun with. None while the daemon ends: it may come back."""


class Held(Struct, frozen=True):
    """A node that is drained, or a program that is stopped everywhere: by whom, why, and since when."""

    by: str
    reason: str
    since: str

    def __str__(self) -> str:
        """Return it for a reason, such as ``by uid 0 on node a: new disk``."""
        return f"by {self.by}" + (f": {self.reason}" if self.reason else "")


class ClusterNode(Struct, frozen=True):
    """One node, as its daemon wrote it last."""

    name: str
    instance: str | None
    """``None`` for a node that was drained before its daemon was ever seen, and for a daemon of schema 2."""
    version: str | None
    seen: str | None
    advertise: str | None
    drained: Held | None
    present: bool = False
    """Whether its daemon is connected at the moment."""
    silent_for: float = 0.0
    """Seconds since it was last seen."""


class UnableNode(Struct, frozen=True):
    """A node that has the program, and could not take it over now."""

    node: str
    reason: str
    in_backoff: bool = False
    """Whether time alone ends that."""


class Drift(Struct, frozen=True):
    """A node whose configuration of a program is another one than the leader's."""

    node: str
    keys: tuple[str, ...]


class ClusterProgram(Struct, frozen=True):
    """One program in the whole cluster."""

    name: str
    lock_id: int
    leader: str | None
    epoch: int | None
    """Of the present term, or of the last one."""
    since: str | None
    """When the present term began."""
    ready: bool
    candidates: tuple[str, ...]
    """The nodes, other than the leader, that could take it over now."""
    unable: tuple[UnableNode, ...]
    stopped: Held | None
    """The order that keeps it stopped everywhere."""
    drift: tuple[Drift, ...]
    reason: str = ""
    """What a node that could lead it waits for, while none does: for its next run, say."""
    scheduled: bool = False
    """Whether a node has it with a schedule."""

    @property
    def next_run(self) -> str | None:
        """When its schedule wants it to run next, as RFC 3339, where no node leads it until then."""
        words = self.reason.removeprefix(NEXT_RUN).partition(";")[0]
        try:
            return words if words != self.reason and datetime.fromisoformat(words).tzinfo is not None else None
        except ValueError:  # each role that may write to the ledger may have written something else
            return None


class ClusterOverview(Struct, frozen=True):
    """All nodes and programs, by name."""

    nodes: tuple[ClusterNode, ...]
    programs: tuple[ClusterProgram, ...]

    by_name: Mapping[str, ClusterProgram]
    lock_ids: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By program: those under which nodes have it or have led it. While its lock key is changed, they are two."""

    @property
    def silent(self) -> tuple[str, ...]:
        """The nodes whose daemons are connected, and too old to say what they could lead."""
        return tuple(node.name for node in self.nodes if node.present and node.instance is None)

    def hesitates(self, name: str) -> bool:
        """Return whether a node that is not drained says that it is: its daemon has not heard of the order yet."""
        drained = (node := self.node(name)) is not None and node.drained is not None
        unable = (one for program in self.programs for one in program.unable if one.node == name)
        return not drained and any(one.reason.startswith(DRAINED) for one in unable)

    def node(self, name: str | None) -> ClusterNode | None:
        """Return the node of that name, if one is known."""
        return next((node for node in self.nodes if node.name == name), None)

    def program(self, name: str) -> ClusterProgram | None:
        """Return the program of that name, if any node has it."""
        return self.by_name.get(name)


class Lead(Struct, frozen=True):
    """The last term of a lock id."""

    program: str
    lock_id: int
    node: str
    epoch: int
    since: str
    led: bool
    """Whether the term is under way."""


class Overviews:
    """Puts overviews together, one after the other: what is as before is not found out anew."""

    def __init__(self) -> None:
        self._common: tuple[Mapping[str, str], Mapping[int, Held]] = {}, {}
        """What each program may depend on: why no program of a node could be led there, and what is stopped."""
        self._programs: Mapping[str, tuple[_Parts, ClusterProgram]] = {}
        self._put_together: tuple[object, ...] = ()
        """What the latest one was put together from, its nodes' times apart."""
        self._latest = ClusterOverview((), (), {})

    def overview(
        self,
        nodes: Sequence[ClusterNode],
        candidates: Iterable[tuple[str, CandidatePresence]],
        leads: Iterable[Lead],
        stopped: Mapping[int, Held],
    ) -> ClusterOverview:
        """Return the cluster as its parts show it: ``candidates`` by node, ``stopped`` by lock id."""
        common = {node.name: _absence(node) for node in nodes}, stopped
        parts = list(candidates), sorted(leads, key=lambda lead: lead.lock_id), common  # each renewal moves a row
        if parts != self._put_together:
            self._latest, self._put_together = self._anew(*parts), parts
        ordered = tuple(sorted(nodes, key=lambda node: node.name))
        return ClusterOverview(ordered, self._latest.programs, self._latest.by_name, self._latest.lock_ids)

    def _anew(
        self,
        candidates: Iterable[tuple[str, CandidatePresence]],
        leads: Iterable[Lead],
        common: tuple[Mapping[str, str], Mapping[int, Held]],
    ) -> ClusterOverview:
        """Return the cluster without its nodes."""
        by_name: dict[str, dict[str, CandidatePresence]] = {}
        for node, candidate in candidates:
            by_name.setdefault(candidate.program, {})[node] = candidate
        terms: dict[str, list[Lead]] = {}
        for lead in leads:
            terms.setdefault(lead.program, []).append(lead)
        stopped = common[1]
        held = {name for name, found in terms.items() if any(lead.led or lead.lock_id in stopped for lead in found)}
        parts = {name: (by_name.get(name, {}), terms.get(name, [])) for name in sorted(by_name.keys() | held)}
        if common != self._common:
            self._common, self._programs = common, {}
        self._programs = {name: self._program(name, found) for name, found in parts.items()}
        programs = {name: program for name, (_, program) in self._programs.items()}
        lock_ids = {
            name: frozenset((*(one.lock_id for one in found.values()), *(lead.lock_id for lead in leads)))
            for name, (found, leads) in parts.items()
        }
        return ClusterOverview((), tuple(programs.values()), programs, lock_ids)

    def _program(self, name: str, parts: _Parts) -> tuple[_Parts, ClusterProgram]:
        known = self._programs.get(name)
        return known if known is not None and known[0] == parts else (parts, _program(name, *parts, *self._common))


_Parts = tuple[Mapping[str, CandidatePresence], Sequence[Lead]]
"""Of a program: its candidates by node, and its terms."""


def _program(
    name: str,
    found: Mapping[str, CandidatePresence],
    terms: Sequence[Lead],
    absences: Mapping[str, str],
    stopped: Mapping[int, Held],
) -> ClusterProgram:
    last = max(terms, key=lambda lead: (lead.led, lead.epoch), default=None)
    leader = last.node if last is not None and last.led else None
    leading = None if leader is None else found.get(leader)
    lock_ids = [*(lead.lock_id for lead in terms), *(candidate.lock_id for candidate in found.values())]
    others = {node: candidate for node, candidate in sorted(found.items()) if node != leader}
    hindered = {node: absences.get(node, AWAY) or _hindrance(candidate) for node, candidate in others.items()}
    return ClusterProgram(
        name=name,
        lock_id=lock_ids[0] if last is None else last.lock_id,
        leader=leader,
        epoch=None if last is None else last.epoch,
        since=last.since if last is not None and last.led else None,
        ready=leading is not None and leading.ready,
        candidates=tuple(node for node, why in hindered.items() if not why),
        unable=tuple(
            UnableNode(node, why, _in_backoff(absences, node, found)) for node, why in hindered.items() if why
        ),
        stopped=next((stopped[lock_id] for lock_id in lock_ids if lock_id in stopped), None),
        drift=tuple(_drift(found, leading)),
        reason=next((found[node].reason for node, why in hindered.items() if not why), "") if leader is None else "",
        scheduled=any("schedule" in candidate.digests for candidate in found.values()),
    )


def _absence(node: ClusterNode) -> str:
    """Return why no program could be led on a node now; empty when nothing keeps all of them from it."""
    if not node.present:
        return AWAY + (f", last seen {node.seen}" if node.seen else "")
    return "" if node.drained is None else f"{DRAINED}{node.drained}"


def _hindrance(candidate: CandidatePresence) -> str:
    """Return why a node that is there could not take a program over now; empty when it could."""
    return "" if candidate.able else candidate.reason or candidate.state


def _in_backoff(absences: Mapping[str, str], node: str, found: Mapping[str, CandidatePresence]) -> bool:
    """Return whether a node that is there keeps away for its backoff."""
    return not absences.get(node, AWAY) and found[node].state == "backoff"


def _drift(found: Mapping[str, CandidatePresence], model: CandidatePresence | None) -> Iterator[Drift]:
    """Name the keys in which nodes differ from ``model``, or from the first node if none leads."""
    for node, candidate in sorted(found.items()):
        model = model or candidate
        ours, theirs = model.digests, candidate.digests
        if candidate.lock_id == model.lock_id and ours == theirs:
            continue
        keys = {key for key in (*ours, *theirs) if ours.get(key) != theirs.get(key)}
        keys |= {"lock_key"} if candidate.lock_id != model.lock_id else set()
        if keys:
            yield Drift(node, tuple(sorted(keys)))
