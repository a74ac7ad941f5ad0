"""Refuse an order that would leave a program without a node that can lead it.

A release, a stop and a drain of one node leave a program to the others; ``stop --everywhere`` does not ask. What nodes
have written into the ledger may be a second old. A node that a program is released to is asked itself, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from highlanderd.core.cluster import ClusterOverview
from highlanderd.core.status import ProgramStatus
from highlanderd.errors import HighlanderError, NeedsForce, NoSuchNode, Unanswered, enumerated
from highlanderd.listeners.orders import Node

KNOWN_SINCE: Final = 3
"""The first schema of the ledger in which each node says what it could lead."""
KNOWN_WITHIN: Final = 2.0
"""Seconds for which a refusal is doubted: nodes write what they could lead a second apart at most, and a session that
was lost is replaced meanwhile."""
LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at the ledger meanwhile."""


async def refuse_unless_able(node: Node, program: ProgramStatus, to: str | None) -> None:
    """Raise NeedsForce unless ``to``, or any node at all, could take a program over that this node leads."""
    if program.state != "leading":
        return  # nothing is taken from it
    try:
        await _refuse(node, lambda cluster: _refusal(cluster, program.name, to))
        if to is not None and (why := await node.ask_hindrance(to, program.name)):
            raise NeedsForce(f"{to} could not lead {program.name} now: {why}; {_ANYWAY}")
    except (NeedsForce, NoSuchNode):
        raise
    except HighlanderError as error:
        raise NeedsForce(f"cannot tell which node could lead {program.name}: {error}; {_ANYWAY}") from error


async def refuse_bare_drain(node: Node, name: str) -> Callable[[], Awaitable[None]]:
    """Raise NeedsForce where a node leads, or could lead, programs that nobody would lead without it.

    Returns what asks the same once the order is written: two nodes that are drained at the same moment may each have
    been counted on. Raises HighlanderError when PostgreSQL does not say.
    """
    concerned: list[str] = []

    def judge(cluster: ClusterOverview) -> HighlanderError | None:
        if unknown := _unknown(cluster, name):
            return unknown
        concerned[:] = [one.name for one in cluster.programs if name in (one.leader, *one.candidates)]
        return _bare(cluster, concerned, name)

    async def confirm() -> None:
        await _refuse(node, lambda cluster: _bare(cluster, concerned, name), within=0.0)

    await _refuse(node, judge)
    return confirm


def _unknown(cluster: ClusterOverview, name: str) -> HighlanderError | None:
    known = [one.name for one in cluster.nodes]
    return None if name in known else NoSuchNode.among([name], known)


def _bare(cluster: ClusterOverview, programs: Sequence[str], without: str) -> HighlanderError | None:
    """Return the refusal when nobody would lead one of these programs without a node."""
    leaving = {None, without, *(one.name for one in cluster.nodes if one.drained is not None)}
    left = (one.name for one in map(cluster.program, programs) if one is not None and one.leader in leaving)
    return next((why for program in left if (why := _refusal(cluster, program, None, without))), None)


async def _refuse(
    node: Node, judge: Callable[[ClusterOverview], HighlanderError | None], within: float = KNOWN_WITHIN
) -> None:
    """Raise what ``judge`` says of the cluster, or that PostgreSQL does not answer, once that was so for a moment."""
    if 0 < node.facts().postgres.schema < KNOWN_SINCE:
        return
    began = asyncio.get_running_loop().time()
    while True:
        try:
            why, over = judge(await node.cluster()), began + within
        except Unanswered as error:  # a session that was lost is replaced within a moment
            why, over = error, began + KNOWN_WITHIN
        if why is None:
            return
        if asyncio.get_running_loop().time() >= over:
            raise why
        await asyncio.sleep(LOOK_AGAIN)


_ANYWAY: Final = "use --force to do it all the same"


def _refusal(cluster: ClusterOverview, name: str, to: str | None, without: str | None = None) -> HighlanderError | None:
    if to is not None and (unknown := _unknown(cluster, to)):
        return unknown
    why = _hindrance(cluster, name, to, without)
    return NeedsForce(f"{why}; {_ANYWAY}") if why else None


def _hindrance(cluster: ClusterOverview, name: str, to: str | None, without: str | None) -> str:
    """Return why nobody would lead it; empty if a node could. A daemon that is too old to say so perhaps could."""
    found = cluster.program(name)
    candidates = () if found is None else found.candidates
    unable = {} if found is None else {one.node: one.reason for one in found.unable}
    perhaps = {*candidates, *cluster.silent} - {without, None if found is None else found.leader}
    if to is None:
        known = enumerated([f"{node}: {why}" for node, why in unable.items()])
        return "" if perhaps else f"no other node could lead {name} now" + (f" ({known})" if known else "")
    if to in perhaps:
        return ""
    others = f"; these could: {enumerated(candidates)}" if candidates else ""
    return f"{to} could not lead {name} now: {unable.get(to, 'it does not have it')}{others}"
