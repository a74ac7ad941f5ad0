"""The last lines of programs, and the next ones as they come.

The loggers keep the lines, so a slow client costs no more than its place. A client gets the lines after its own last
one, and the number of those that it has missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from aiohttp import web

from highlanderd.api import DEFAULT_LINES, MOST_LINES, is_number
from highlanderd.choice import meant
from highlanderd.core.states import Author
from highlanderd.errors import BadRequest, Interrupted, NoSuchProgram, NotLeading
from highlanderd.listeners.carrying import LOGS, addressee
from highlanderd.listeners.lines import line_facts
from highlanderd.listeners.orders import Node
from highlanderd.listeners.streams import Part, Streams, flag

LOOK_EVERY: Final = 0.2
"""Seconds between two looks for new lines: to a person that is at once."""


class Logs:
    """Answers ``GET /v1/logs`` and ``GET /v1/programs/{name}/logs``."""

    def __init__(self, node: Node, streams: Streams) -> None:
        self._node, self._streams = node, streams

    async def answer(self, request: web.Request, by: Author) -> web.StreamResponse:
        """Send the last lines of the programs that are named, and with ``?follow=true`` the next ones."""
        most, follow = _number(request), flag(request, "follow")
        one = request.match_info.get("name")
        wanted = request.query.getall("name", []) if one is None else [one]
        await self._node.survey()
        here, elsewhere = await self._places(wanted)
        if follow and elsewhere:
            name, leader = next(iter(elsewhere.items()))
            raise NotLeading(f"{name} is led by {leader}: follow its lines there, with 'highlanderctl logs -f {name}'")
        asked = await asyncio.gather(
            *(self._node.lines_elsewhere(where, name, most, by) for name, where in elsewhere.items())
        )
        parts = self._parts(here, most, [line for lines in asked for line in lines], follow=follow)
        return await self._streams.send(request, parts)

    async def _places(self, wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Return the programs whose lines are here, and the leaders of the others. Raises HighlanderError.

        A name means the program wherever it is led. A glob, ``all`` or no name means what this node has lines of.
        """
        known = self._node.programs
        here: dict[str, None] = {}
        elsewhere: dict[str, str] = {}
        for name in wanted or ["all"]:
            found = [] if name in known else meant(name, known)
            if found or name == "all":
                here |= dict.fromkeys(found)
            elif (leader := await addressee(self._node, LOGS, name, {})) == self._node.name:
                here[name] = None
            else:
                elsewhere[name] = leader
        return list(here), elsewhere

    async def _parts(
        self, here: Sequence[str], most: int, others: Sequence[dict[str, object]], *, follow: bool
    ) -> AsyncGenerator[Part]:
        for line in others:
            yield line
        following = {name: _Following(self._node, name) for name in here}
        for one in following.values():
            for part in one.first(most):
                yield part
            await asyncio.sleep(0)
        while follow and following:
            await asyncio.sleep(LOOK_EVERY)
            yield None
            for name, one in list(following.items()):
                try:
                    parts = one.more()
                except (NoSuchProgram, Interrupted):
                    del following[name]
                    continue
                for part in parts:
                    yield part


class _Following:
    """One program whose lines are sent as they come."""

    def __init__(self, node: Node, name: str) -> None:
        self._node, self._name = node, name
        self._seen = 0

    def first(self, most: int) -> list[dict[str, object]]:
        """Return the last lines."""
        lines = self._node.lines(self._name)
        self._seen = lines[-1].number if lines else 0
        return [line_facts(self._name, line) for line in lines[-most:]]

    def more(self) -> list[dict[str, object]]:
        """Return the lines since the last ones, after a note that says how many were not kept. Raises NoSuchProgram."""
        lines = self._node.lines(self._name)
        if lines and lines[-1].number < self._seen:
            self._seen = 0  # its configuration was replaced, and the numbers begin anew
        fresh = [line for line in lines if line.number > self._seen]
        if not fresh:
            return []
        missed = fresh[0].number - self._seen - 1
        self._seen = fresh[-1].number
        facts = [line_facts(self._name, line) for line in fresh]
        return [{**facts[0], "stream": None, "line": None, "missed": missed}, *facts] if missed else facts


def _number(request: web.Request) -> int:
    text = request.query.get("n", str(DEFAULT_LINES))
    if text == "all":
        return MOST_LINES
    if not is_number(text, MOST_LINES):
        raise BadRequest(f"n={text!r} must be all, or a number of lines from 1 to {MOST_LINES}")
    return int(text)
