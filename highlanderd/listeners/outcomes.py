"""Waits for the outcome of an order on a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from highlanderd.core.status import ProgramStatus
from highlanderd.errors import HighlanderError, NoSuchProgram, TimedOut
from highlanderd.listeners.orders import ADDED, CHANGED, Goal, Node, NodeOrder

LOOK_AGAIN: Final = 1.0
"""Seconds between two looks: no change on this node announces what another node does."""
READY_AGAIN: Final = 0.25
"""Seconds between two looks whether another node has the program ready: it writes that a second apart at most."""
LOOK_FOR: Final = 0.05
"""Seconds between two looks for a program that leaves the daemon and comes back."""
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
            if not order.hands_over:
                return now
            led = await _handed_over(node, before, now, end)
            return await _ready(node, led, end, gone) if order.hands_over == "ready" and led.leader else led
        if loop.time() >= end or gone():
            raise TimedOut(
                f"{now.name} is still {now.state} after {patience:g} s{': ' * bool(now.reason)}{now.reason}. The order "
                f"stands; see 'highlanderctl status {now.name}', or wait longer with --timeout"
            )
        await next_change(node, min(end, loop.time() + LOOK_AGAIN))
        await node.survey()


async def reloaded(
    node: Node, restarted: Iterable[ProgramStatus], added: Iterable[str], patience: float, gone: Callable[[], bool]
) -> None:
    """Return once what a reload has begun is done. Raises HighlanderError, as ``outcome``.

    ``restarted`` are the programs whose child it starts again, as they were. What it changes leaves the daemon, and
    comes back with its new keys: for a moment there is no such program, as there is none of those that are ``added``.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    changed = [(before.name, CHANGED, before) for before in restarted]
    for name, order, before in (*changed, *((name, ADDED, None) for name in added)):
        while True:
            try:
                await outcome(node, order, before or node.program(name), max(0.0, end - loop.time()), gone)
                break
            except NoSuchProgram:
                if loop.time() >= end or gone():
                    raise
                await asyncio.sleep(LOOK_FOR)


async def _handed_over(node: Node, before: ProgramStatus, now: ProgramStatus, end: float) -> ProgramStatus:
    """Return the status once another node leads what this one has led, or a moment later."""
    end = min(end, asyncio.get_running_loop().time() + SUCCESSOR_WITHIN)
    while before.state == "leading" and now.leader is None and asyncio.get_running_loop().time() < end:
        await next_change(node, asyncio.get_running_loop().time() + SUCCESSOR_WITHIN / 10)
        await node.survey()
        now = node.program(before.name)
    return now


async def _ready(node: Node, now: ProgramStatus, end: float, gone: Callable[[], bool]) -> ProgramStatus:
    """Return the status once the program is ready where it is led; also when no node can say so. Raises TimedOut."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            cluster = await node.cluster()
        except HighlanderError:
            return now
        now, found = node.program(now.name), cluster.program(now.name)
        if found is None or now.leader is None or now.leader in cluster.silent:
            return now
        if found.leader == now.leader and found.ready:
            return now
        if loop.time() >= end or gone():
            raise TimedOut(
                f"{now.name} was released, and {now.leader} leads it, but it is not ready there yet; see "
                f"'highlanderctl explain {now.name}', or wait longer with --timeout"
            )
        await asyncio.sleep(max(0.0, min(READY_AGAIN, end - loop.time())))


async def next_change(node: Node, at: float) -> None:
    """Return at the next change of any program, or at ``at`` on the loop's clock, whichever comes first."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(at):
            await node.changed()
