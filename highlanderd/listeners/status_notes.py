"""What is out of the ordinary in the cluster: a sentence for each thing that an operator should know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from msgspec import Struct

from highlanderd.core.cluster import ClusterOverview, ClusterProgram, Held
from highlanderd.core.status import NodeStatus
from highlanderd.core.terms import PastTerm
from highlanderd.durations import clock
from highlanderd.errors import HighlanderError, enumerated

MOST: Final = 10
"""Names in one sentence, and sentences of one kind."""


class Note(Struct, frozen=True):
    """One sentence, and how grave it is."""

    kind: Literal["bad", "warn"]
    text: str


# By sentence: how grave it is, and which programs it is said of.
_OF_PROGRAMS: Final[dict[str, tuple[Literal["bad", "warn"], Callable[[ClusterProgram], bool]]]] = {
    "Nobody leads": ("bad", lambda program: program.leader is None and program.stopped is None),
    "Led, but not ready:": ("warn", lambda program: program.leader is not None and not program.ready),
    "No other node could take over": ("warn", lambda program: program.leader is not None and not program.candidates),
}


def notes(
    status: NodeStatus, cluster: ClusterOverview | HighlanderError, terms: Sequence[PastTerm] = ()
) -> Iterator[Note]:
    """Yield the gravest first. Without the cluster, it is what this node knows by itself."""
    if names := sorted({term.program for term in terms if term.overlaps}):
        yield Note("bad", f"Terms overlap: {enumerated(names, MOST)}; 'highlanderctl history --summary' says which")
    if isinstance(cluster, HighlanderError):
        yield Note("bad", f"Only what the node knows by itself can be shown: {cluster}")
    else:
        yield from _of_cluster(cluster, resting(status, cluster))
    if (under_way := status.maintenance) is not None:
        held = Held(under_way.author, under_way.reason, under_way.since)
        yield Note("warn", f"Maintenance of PostgreSQL until {_at(under_way.until)}, begun {held}")
    yield from (Note("warn", text) for text in status.warnings)


def resting(status: NodeStatus, cluster: ClusterOverview) -> frozenset[str]:
    """Return the programs that nobody needs to lead now: they have finished, or wait for their next time."""
    here = {program.name for program in status.programs if program.finished or program.idle}
    return frozenset(here | {program.name for program in cluster.programs if program.next_run is not None})


def _of_cluster(cluster: ClusterOverview, rests: frozenset[str]) -> Iterator[Note]:
    for text, (kind, concerns) in _OF_PROGRAMS.items():
        if names := [one.name for one in cluster.programs if concerns(one) and one.name not in rests]:
            yield Note(kind, f"{text} {enumerated(names, MOST)}")
    if names := [node.name for node in cluster.nodes if not node.present]:
        yield Note("warn", f"Not connected: {enumerated(names, MOST)}")
    for found in (list(_drained(cluster)), list(_stopped(cluster)), list(_drifting(cluster))):
        yield from (Note("warn", text) for text in found[:MOST])
        if len(found) > MOST:
            yield Note("warn", f"and {len(found) - MOST} more like this")


def _drained(cluster: ClusterOverview) -> Iterator[str]:
    for node in cluster.nodes:
        if node.drained is not None:
            yield f"{node.name} is drained since {_at(node.drained.since)} {node.drained}"


def _stopped(cluster: ClusterOverview) -> Iterator[str]:
    for program in cluster.programs:
        if program.stopped is not None:
            yield f"{program.name} is stopped everywhere since {_at(program.stopped.since)} {program.stopped}"


def _drifting(cluster: ClusterOverview) -> Iterator[str]:
    for program in cluster.programs:
        for drift in program.drift:
            yield f"{drift.node} has another configuration of {program.name}: {enumerated(drift.keys)}"


def _at(moment: str) -> str:
    return clock(moment, time.time())
