"""Walk every way through a small world, breadth first, and show the shortest one that breaks a promise."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from time import monotonic
from typing import NamedTuple

from highlanderd.core import machine
from highlanderd.core.states import Leading, Want
from tests.exploration.world import LEASE, LONGER, Violation, World
from tests.exploration.world_key import key
from tests.exploration.world_steps import Label, steps

LED_WITHIN = 4
"""Leases after the last misfortune within which somebody leads, if anybody is wanted to; the longest one counts."""

STEPS = 1000
"""Nothing ordinary needs so many."""

LIVELY_EVERY = 500
"""Each world of so many is followed until somebody leads: the promise that no search for harm can show."""


class Found(NamedTuple):
    """What a search came to."""

    worlds: int
    """How many different ones were seen."""
    complete: bool
    """Every world that can be reached was seen; else the bound was met first."""
    trace: tuple[str, ...] = ()
    """The shortest story that ends in a violation; empty when there is none."""
    depth: int = 0
    """How many steps the longest of the stories has that were followed to their end."""

    def __str__(self) -> str:
        return "\n".join((f"{self.worlds} worlds, {self.depth} steps deep", *self.trace))


def explore(start: World, bound: int, until: float = float("inf")) -> Found:
    """Search until everything was seen, ``bound`` worlds were, a promise is broken, or it is ``until`` (monotonic)."""
    first = hash(key(start))
    seen: dict[int, tuple[int, int]] = {first: (0, 0)}
    queue = deque([(start, first, 0)])
    depth = 0
    while queue:
        world, here, depth = queue.popleft()
        if here % LIVELY_EVERY == 0 and (dead := _unled(world)):
            return Found(len(seen), False, (*_tell(start, _path(seen, here)), *dead), depth)
        for n, (_label, go) in enumerate(steps(world)):
            try:
                onward = go()
            except (Violation, machine.ImpossibleEvent) as broken:
                return Found(len(seen), False, (*_tell(start, [*_path(seen, here), n]), str(broken)), depth)
            there = hash(key(onward))
            if there in seen:
                continue
            if len(seen) >= bound or (not len(seen) % 1000 and monotonic() > until):
                return Found(len(seen), False, (), depth)
            seen[there] = here, n
            queue.append((onward, there, depth + 1))
    return Found(len(seen), True, (), depth)


UNCERTAIN = frozenset({"the server notices a lost client"})
"""What may never happen: a host that is gone says nothing, and only the idle timeout ends its session."""


def calm(world: World) -> World:
    """Return the same world with its misfortune over."""
    rules = world.rules._replace(horizon=float("inf"), reconnect="ABC")
    return world._replace(faults=0, orders=0, rules=rules)


def is_led(world: World) -> bool:
    """Whether a child runs for somebody who leads."""
    return any(node.running and node.situation and isinstance(node.situation.state, Leading) for node in world.nodes)


def is_wanted(world: World) -> bool:
    """Whether a node is left that should lead."""
    suspended = world.pg.ledger.suspended
    return not suspended and any(node.wish is Want.RUN and not node.ended for node in world.nodes)


def _unled(world: World) -> tuple[str, ...]:
    """Let everything take its ordinary course, and tell the story if nobody leads in time."""
    world, lines = calm(world), []
    until = world.now + led_within(world)
    while not is_led(world) and is_wanted(world):
        label, go = next(way for way in steps(world) if way[0][0] not in UNCERTAIN)
        before = world
        try:
            world = go()
        except (Violation, machine.ImpossibleEvent):
            return ()  # the search meets it on a shorter way
        lines.append(_line(before, world, label))
        if world.now > until or len(lines) > STEPS:
            return (*lines, f"nobody leads, {LED_WITHIN} leases after the last misfortune")
    return ()


def led_within(world: World) -> float:
    """Ticks within which somebody leads once nothing goes wrong any more."""
    lengths = [LONGER for pg in world.servers if pg.ledger.ceiling.length > LEASE]
    return LED_WITHIN * max([LEASE, *lengths])


def _path(seen: dict[int, tuple[int, int]], here: int) -> list[int]:
    path: list[int] = []
    while seen[here][0]:
        here, n = seen[here]
        path.append(n)
    return path[::-1]


def _tell(start: World, path: list[int]) -> tuple[str, ...]:
    """Walk a path again, and say each step and what it changed; the last one may break off."""
    world, lines = start, [f"t={start.now:g}  in the beginning  | {start.show()}"]
    for n in path:
        label, go = list(steps(world))[n]
        before = world
        with suppress(Violation, machine.ImpossibleEvent):
            world = go()
        lines.append(_line(before, world, label))
    return tuple(lines)


def _line(before: World, world: World, label: Label) -> str:
    changed = world.show(before)
    return f"t={world.now:g}  {': '.join(label)}{'  | ' if changed else ''}{changed}"
