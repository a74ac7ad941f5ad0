"""Walk every way through a small world, breadth first, and show the shortest one that breaks a promise."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from property.world import Violation, World
from property.world_key import key
from property.world_steps import Label, steps

from highlanderd.core.machine import ImpossibleEvent


class Found(NamedTuple):
    """What a search came to."""

    worlds: int
    """How many different ones were seen."""
    complete: bool
    """Every world that can be reached was seen; else the bound was met first."""
    trace: tuple[str, ...] = ()
    """The shortest story that ends in a violation; empty when there is none."""

    def __str__(self) -> str:
        return "\n".join((f"{self.worlds} worlds", *self.trace))


def explore(start: World, bound: int) -> Found:
    """Search until everything was seen, ``bound`` worlds were, or a promise is broken."""
    seen: dict[int, tuple[int, int]] = {hash(key(start)): (0, 0)}
    queue = deque([(start, hash(key(start)))])
    while queue:
        world, here = queue.popleft()
        for n, (_label, go) in enumerate(steps(world)):
            try:
                onward = go()
            except (Violation, ImpossibleEvent) as broken:
                return Found(len(seen), False, _tell(start, [*_path(seen, here), n], str(broken)))
            there = hash(key(onward))
            if there in seen:
                continue
            if len(seen) >= bound:
                return Found(len(seen), False)
            seen[there] = here, n
            queue.append((onward, there))
    return Found(len(seen), True)


def _path(seen: dict[int, tuple[int, int]], here: int) -> list[int]:
    path: list[int] = []
    while seen[here][0]:
        here, n = seen[here]
        path.append(n)
    return path[::-1]


def _tell(start: World, path: list[int], ending: str) -> tuple[str, ...]:
    """Walk a path again, and say each step and what it changed."""
    world, lines = start, [f"t={start.now:g}  in the beginning  | {start.show()}"]
    for n in path[:-1]:
        label, go = list(steps(world))[n]
        world = go()
        lines.append(_line(world, label))
    label, _ = list(steps(world))[path[-1]]
    return (*lines, _line(world, label), ending)


def _line(world: World, label: Label) -> str:
    return f"t={world.now:g}  {': '.join(label)}  | {world.show()}"
