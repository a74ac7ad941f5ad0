"""Refuse an order that would leave a program without a node that can lead it.

A release and a drain are meant to hand programs over. A stop may be meant for the program itself: it is refused only
where other nodes have the program and none could lead it, and never because PostgreSQL does not say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from highlanderd.core.cluster import ClusterOverview, ClusterProgram
from highlanderd.core.status import ProgramStatus
from highlanderd.errors import HighlanderError, NeedsForce, enumerated
from highlanderd.listeners.orders import Node

KNOWN_SINCE: Final = 3
"""The first schema of the ledger in which each node says what it could lead."""
KNOWN_WITHIN: Final = 2.0
"""Seconds for which the ledger may lag behind what a node could lead: it writes a second apart at most."""
LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at the ledger meanwhile."""


async def refuse_unless_able(node: Node, program: ProgramStatus, to: str | None) -> None:
    """Raise NeedsForce unless ``to``, or any node at all, could take a program over that this node leads."""
    if program.state != "leading" or to == node.name:
        return  # it is refused for that
    try:
        await _refuse(node, lambda cluster: _hindrance(cluster.program(program.name), program.name, to))
    except NeedsForce:
        raise
    except HighlanderError as error:
        raise NeedsForce(f"cannot tell which node could lead {program.name}: {error}; {_ANYWAY}") from error


async def refuse_bare_stop(node: Node, program: ProgramStatus) -> None:
    """Raise NeedsForce where other nodes have a program that this node leads, and none could lead it."""
    if program.state != "leading":
        return
    try:
        await _refuse(node, lambda cluster: _bare(cluster.program(program.name)))
    except NeedsForce:
        raise
    except HighlanderError:
        return


async def refuse_bare_drain(node: Node, name: str) -> None:
    """Raise NeedsForce where a node leads programs that no other one could lead, or is not known at all.

    Raises HighlanderError when PostgreSQL does not say.
    """

    def judge(cluster: ClusterOverview) -> str:
        known = [one.name for one in cluster.nodes]
        if name not in known:
            return f"the ledger knows no node {name!r}; it has {enumerated(known) or 'none'}"
        return next((why for program in cluster.programs if program.leader == name and (why := _bare(program))), "")

    await _refuse(node, judge)


async def _refuse(node: Node, judge: Callable[[ClusterOverview], str]) -> None:
    """Raise NeedsForce with what ``judge`` says of the cluster, once it has said so for a moment."""
    if 0 < node.status().postgres.schema < KNOWN_SINCE:
        return
    end = asyncio.get_running_loop().time() + KNOWN_WITHIN
    while why := judge(await node.cluster()):
        if asyncio.get_running_loop().time() >= end:
            raise NeedsForce(f"{why}; {_ANYWAY}")
        await asyncio.sleep(LOOK_AGAIN)


_ANYWAY: Final = "use --force to do it all the same"


def _bare(found: ClusterProgram | None) -> str:
    """Return why no other node could lead a program; empty if one could, or no other one has it."""
    return _hindrance(found, found.name, None) if found is not None and found.unable else ""


def _hindrance(found: ClusterProgram | None, name: str, to: str | None) -> str:
    """Return why nobody would lead it; empty if a node could."""
    candidates = () if found is None else found.candidates
    unable = {} if found is None else {one.node: one.reason for one in found.unable}
    if to is None:
        known = enumerated([f"{node}: {why}" for node, why in unable.items()])
        return "" if candidates else f"no other node could lead {name} now" + (f" ({known})" if known else "")
    if to in candidates:
        return ""
    others = f"; these could: {enumerated(candidates)}" if candidates else ""
    return f"{to} could not lead {name} now: {unable.get(to, 'no daemon of that name has it')}{others}"
