"""Waits for the outcome of an order on a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from highlanderd.core.status import ProgramStatus
from highlanderd.errors import TimedOut
from highlanderd.listeners.orders import Goal, Node, NodeOrder

LOOK_AGAIN: Final = 1.0
"""Seconds between two looks: no change on this node announces what another node does."""


SUCCESSOR_WITHIN: Final = 1.0
"""Seconds in which another node has begun its term, if it waits for it: that takes some tens of milliseconds."""


async def outcome(
    node: Node,
    order: NodeOrder,
    before: ProgramStatus,
    patience: float,
    gone: Callable[[], bool],
    to: str | None = None,
) -> ProgramStatus:
    """Return the program's status once what was ordered has happened.

    ``before`` is its status when it was ordered; ``gone`` returns True once the client is gone; ``to`` is the node that
    is to lead. Raises TimedOut after ``patience`` seconds, and what the order says of a failure.
    """
    loop = asyncio.get_running_loop()
    end, goal = loop.time() + patience, Goal(node.name, to)
    while True:
        now = node.program(before.name)
        if order.outcome(before, now, goal):
            return await _handed_over(node, before, now, end) if order.hands_over else now
        if loop.time() >= end or gone():
            raise TimedOut(
                f"{now.name} is still {now.state} after {patience:g} s{': ' * bool(now.reason)}{now.reason}. The order "
                f"stands; see 'highlanderctl status {now.name}', or wait longer with --timeout"
            )
        await next_change(node, min(end, loop.time() + LOOK_AGAIN))
        await node.survey()


async def _handed_over(node: Node, before: ProgramStatus, now: ProgramStatus, end: float) -> ProgramStatus:
    """Return the status once another node leads what this one has led, or a moment later."""
    end = min(end, asyncio.get_running_loop().time() + SUCCESSOR_WITHIN)
    while before.state == "leading" and now.leader is None and asyncio.get_running_loop().time() < end:
        await next_change(node, asyncio.get_running_loop().time() + SUCCESSOR_WITHIN / 10)
        await node.survey()
        now = node.program(before.name)
    return now


async def next_change(node: Node, at: float) -> None:
    """Return at the next change of any program, or at ``at`` on the loop's clock, whichever comes first."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(at):
            await node.changed()
