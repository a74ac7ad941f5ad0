"""Waits for the outcome of an order on a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from highlanderd.core.status import ProgramStatus
from highlanderd.errors import NoSuchProgram, TimedOut
from highlanderd.listeners.orders import Node, NodeOrder

LOOK_AGAIN: Final = 1.0
"""Seconds between two looks: no change on this node announces what another node does."""


def program_of(node: Node, name: str) -> ProgramStatus:
    """Return the present status of one program. Raises NoSuchProgram."""
    programs = node.status().programs
    for program in programs:
        if program.name == name:
            return program
    raise NoSuchProgram.among(name, (program.name for program in programs))


async def outcome(
    node: Node, order: NodeOrder, before: ProgramStatus, patience: float, gone: Callable[[], bool]
) -> ProgramStatus:
    """Return the program's status once what was ordered has happened.

    ``before`` is its status when it was ordered; ``gone`` returns True once the client is gone. Raises TimedOut after
    ``patience`` seconds, and what the order says of a failure.
    """
    loop = asyncio.get_running_loop()
    end, us = loop.time() + patience, node.status().node
    while True:
        now = program_of(node, before.name)
        if order.outcome(before, now, us):
            return now
        if loop.time() >= end or gone():
            raise TimedOut(
                f"{now.name} is still {now.state} after {patience:g} s{': ' * bool(now.reason)}{now.reason}. The order "
                f"stands; see 'highlanderctl status {now.name}', or wait longer with --timeout"
            )
        await next_change(node, min(end, loop.time() + LOOK_AGAIN))
        await node.survey()


async def next_change(node: Node, at: float) -> None:
    """Return at the next change of any program, or at ``at`` on the loop's clock, whichever comes first."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(at):
            await node.changed()
