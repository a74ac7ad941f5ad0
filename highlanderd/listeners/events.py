"""What has happened lately, and what happens, as a stream of objects."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Hashable, Iterable
from contextlib import suppress
from typing import Final

from aiohttp import web
from msgspec.structs import asdict

from highlanderd.api import MOST_EVENTS
from highlanderd.core.occurrences import Occurrence, latest
from highlanderd.core.status import ProgramStatus
from highlanderd.errors import HighlanderError
from highlanderd.listeners.orders import Node
from highlanderd.listeners.streams import Part, flag

LOOK_EVERY: Final = 0.2
"""Seconds between two looks for what this node has seen."""
ASK_EVERY: Final = 1.0
"""Seconds between two looks for what the ledger remembers."""
REMEMBERED: Final = 2000
"""Events that are not sent twice: more than a look at the ledger and the node's own memory hold together."""
SNAPSHOT: Final = "snapshot"
"""The event that says who leads a program when a client begins to follow."""


def happenings(node: Node, request: web.Request) -> AsyncGenerator[Part]:
    """Return the parts of the answer to ``GET /v1/events``. Raises BadRequest."""
    if not flag(request, "follow"):
        return _lately(node)
    return _following(node, snapshot=flag(request, "snapshot", default=True))


async def _lately(node: Node) -> AsyncGenerator[Part]:
    """Yield the last hundred; where PostgreSQL is away, those that this node has seen."""
    remembered: Iterable[Occurrence] = ()
    with suppress(HighlanderError):
        remembered = await node.occurrences(MOST_EVENTS)
    for one in latest(remembered, [one for _, one in node.seen_since(0)], MOST_EVENTS):
        yield asdict(one)


async def _following(node: Node, *, snapshot: bool) -> AsyncGenerator[Part]:
    loop = asyncio.get_running_loop()
    seen = node.seen_since(0)
    known, number = _Known(one for _, one in seen), seen[-1][0] if seen else 0
    known.add(await _fresh(node))
    for one in await _now(node) if snapshot else ():
        yield asdict(one)
    asked = loop.time()
    while True:
        await asyncio.sleep(LOOK_EVERY)
        yield None
        news = node.seen_since(number)
        number = news[-1][0] if news else number
        fresh = [one for _, one in news]
        if loop.time() >= asked + ASK_EVERY:
            asked = loop.time()
            fresh += await _fresh(node)
        for one in known.add(fresh):
            yield asdict(one)


async def _fresh(node: Node) -> list[Occurrence]:
    """Return what the ledger has remembered last; nothing while PostgreSQL is away."""
    with suppress(HighlanderError):
        return [*await node.fresh_occurrences()]
    return []


async def _now(node: Node) -> list[Occurrence]:
    """Return who leads what, of all nodes; where PostgreSQL is away, what this node knows."""
    here = {
        one.name: Occurrence(one.since, SNAPSHOT, one.leader, one.name, one.epoch, reason=_about(one, node.name))
        for one in node.status().programs
    }
    with suppress(HighlanderError):
        for program in (await node.cluster()).programs:
            since = program.since or ""
            found = Occurrence(since, SNAPSHOT, program.leader, program.name, program.epoch)
            known = here.setdefault(program.name, found)
            if known.node == found.node != node.name:  # this node knows since when it waits itself
                here[program.name] = found
    return list(here.values())


def _about(program: ProgramStatus, node: str) -> str | None:
    """Return the reason that is shown with the leader: why this node does not lead is nothing of another one."""
    return program.reason or None if program.leader in (None, node) else None


class _Known:
    """What was sent already."""

    def __init__(self, first: Iterable[Occurrence]) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()
        self.add(first)

    def add(self, occurrences: Iterable[Occurrence]) -> list[Occurrence]:
        """Return those that were not known, and know them from now on."""
        fresh = [one for one in occurrences if one.key not in self._keys]
        for one in fresh:
            self._keys[one.key] = None
        while len(self._keys) > REMEMBERED:
            self._keys.popitem(last=False)
        return fresh
