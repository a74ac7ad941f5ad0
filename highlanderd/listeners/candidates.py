"""Refuse an order that would leave a program without a node that can lead it."""

from __future__ import annotations

import asyncio
from typing import Final

from highlanderd.core.cluster import ClusterProgram
from highlanderd.core.status import ProgramStatus
from highlanderd.errors import HighlanderError, NeedsForce, enumerated
from highlanderd.listeners.orders import Node

KNOWN_SINCE: Final = 3
"""The first schema of the ledger in which each node says what it could lead."""
KNOWN_WITHIN: Final = 1.0
"""Seconds for which the ledger may lag behind what a node could lead."""
LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at the ledger meanwhile."""


async def refuse_unless_able(node: Node, program: ProgramStatus, to: str | None) -> None:
    """Raise NeedsForce unless ``to``, or any node at all, could take a program over that this node leads."""
    status = node.status()
    if program.state != "leading" or to == status.node:
        return  # it is refused for that
    if 0 < status.postgres.schema < KNOWN_SINCE:
        return
    end = asyncio.get_running_loop().time() + KNOWN_WITHIN
    while True:
        try:
            found = (await node.cluster()).program(program.name)
        except HighlanderError as error:
            raise NeedsForce(f"cannot tell which node could lead {program.name}: {error}; {_ANYWAY}") from error
        why = _hindrance(found, program.name, to)
        if not why:
            return
        if asyncio.get_running_loop().time() >= end:
            raise NeedsForce(f"{why}; {_ANYWAY}")
        await asyncio.sleep(LOOK_AGAIN)


_ANYWAY: Final = "use --force to release it all the same"


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
