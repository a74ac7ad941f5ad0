"""One fault, from a state where all is well to another one, and what it has cost by what the children wrote.

Whether a term was handed over or waited for is a fact in the ledger, so the allowance for a busy machine can be
generous. No fault may touch a program that the struck machine did not lead.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from tests.chaos.faults import Bound
from tests.chaos.oracle import Gap
from tests.support.journal import Life

from .cluster import Cluster
from .machine import Down, Machine

BUSY = 10.0
"""Seconds that a gap may be longer than its bound. Safety gets no such allowance."""
NOTHING = Bound()


@dataclass(frozen=True, slots=True)
class Scene:
    """Where it happens: the cluster, and the machine that leads most."""

    cluster: Cluster
    machine: Machine


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    name: str
    expected: str
    strike: Callable[[Scene], object] = field(repr=False)
    """Strikes, and undoes it; by then nothing has to be well yet."""
    bound: Bound = NOTHING
    ends: frozenset[str] = frozenset()
    """How terms of that machine may end; with none of them, no program is touched at all."""
    everywhere: bool = False
    """Whether all machines are struck, one after another."""


@dataclass(slots=True)
class Outcome:
    """What a fault has cost."""

    fault: Fault
    limit: float
    """The bound in seconds, without the allowance for a busy machine."""
    gaps: list[float] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    whole: bool = False
    """Whether all was well again."""

    @property
    def spent(self) -> bool:
        """Whether the cluster is not for another fault: the journal will show this overlap for ever."""
        return bool(self.overlaps) or not self.whole

    @property
    def failed(self) -> list[str]:
        """All that must not be."""
        return [f"{self.fault.name}: {what}" for what in self.overlaps + self.broken]


def play(cluster: Cluster, fault: Fault) -> Outcome:
    """Strike, wait until all is well again, and ask the children's journal what it has cost."""
    outcome = Outcome(fault, fault.bound.limit(cluster.lease, 0.0))
    began = boottime()
    try:
        before = cluster.await_whole()
        terms = {name: Term(life.node, life.epoch, frozenset(life.pids)) for name, life in before.items()}
        struck = cluster.leader()
        fault.strike(Scene(cluster, struck))
        after = cluster.await_whole()
    except (AssertionError, Down, HighlanderError, OSError):
        outcome.broken.append(traceback.format_exc())
    else:
        outcome.whole = True
        places = {term.node for term in terms.values()} if fault.everywhere else {struck.name}
        outcome.broken += _touched(cluster, fault, terms, after, places)
        outcome.broken += _too_long(cluster.oracle.successions(began), outcome.limit)
        outcome.gaps += [gap.seconds for gap in cluster.oracle.successions(began)]
    outcome.overlaps += cluster.oracle.doubles()
    return outcome


@dataclass(frozen=True, slots=True)
class Term:
    """What must still be there where nothing was to happen."""

    node: str
    epoch: int
    pids: frozenset[int]


def _touched(
    cluster: Cluster, fault: Fault, terms: Mapping[str, Term], after: Mapping[str, Life], places: Container[str]
) -> Iterator[str]:
    """Say which programs lost their processes though they should not, and which terms did not end as they should."""
    ends = cluster.ends({name: term.epoch for name, term in terms.items()})
    for name, term in terms.items():
        if fault.ends and term.node in places:
            if ends.get(name) not in fault.ends:
                yield f"{name} on {term.node} ended: {ends.get(name)}, not {' or '.join(sorted(fault.ends))}"
        elif (now := Term(after[name].node, after[name].epoch, frozenset(after[name].pids))) != term:
            yield f"{name} was touched: {term}, then {now}; its term ended: {ends.get(name)}"


def _too_long(gaps: Iterable[Gap], limit: float) -> Iterator[str]:
    for gap in gaps:
        if gap.seconds > limit + BUSY:
            yield f"no {gap.program} for {gap.seconds:.2f} s: {gap.before}, then {gap.after}"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what each fault has cost, in columns."""
    heads = ("fault", "expected", "restarts", "overlaps", "longest gap", "bound")
    lines = [heads, *map(_cells, outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _cells(outcome: Outcome) -> tuple[str, ...]:
    fault = outcome.fault
    bound = f"{fault.bound} = {outcome.limit:.1f} s" if fault.bound.leases else str(fault.bound)
    longest = f"{max(outcome.gaps, default=0.0):.2f} s"
    return fault.name, fault.expected, str(len(outcome.gaps)), str(len(outcome.overlaps)), longest, bound
