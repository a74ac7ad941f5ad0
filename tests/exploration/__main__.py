"""Explore as far as time allows: ``make explore EXPLORE_ARGS='--faults 2 --nodes 3 --minutes 30'``.

Every combination of so many kinds of misfortune is searched, with every order, first those from the usual beginning;
then everything that may befall a ledger, its servers and its lengths (``--scenes`` searches nothing else).
Prints what was seen, and exits 1 with the shortest trace of a violation.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import combinations_with_replacement
from multiprocessing import Pool
from time import monotonic
from typing import NamedTuple

from tests.exploration.explore import Found, explore
from tests.exploration.world import FAULTS, LENGTHS, ORDERS, Rules
from tests.exploration.world_stories import SCENES, STORIES


class Search(NamedTuple):
    """One search of many."""

    story: str
    names: str
    kinds: tuple[str, ...]
    swift: bool
    orders: int
    bound: int
    seconds: float

    def __str__(self) -> str:
        """Say where it begins and what happens in it."""
        pace = "swift" if self.swift else "whole"
        if self.story in SCENES:
            return f"{'scene':9}  {pace}  {self.story}"
        return f"{self.story:9}  {pace}  {' + '.join(self.kinds) or 'no misfortune'}"


def main() -> int:
    """Search all combinations on all cores; gives the exit code."""
    arguments = _arguments()
    searches = _searches(arguments)
    began, cores = monotonic(), os.cpu_count() or 1
    share = 60 * arguments.minutes * cores / len(searches)
    searches = [search._replace(seconds=share) for search in searches]
    print(f"{len(searches)} searches on {cores} cores, {share:.0f} s each at most", flush=True)
    worlds = complete = deepest = 0
    with Pool(cores) as pool:
        for search, found, seconds in pool.imap_unordered(_explore, searches):
            worlds, complete = worlds + found.worlds, complete + found.complete
            deepest = max(deepest, found.depth)
            end = "complete" if found.complete else "bound met"
            print(f"{found.worlds:>9} worlds  {found.depth:>5} deep  {end:9}  {seconds:6.1f} s  {search}", flush=True)
            if found.trace:
                print(found)
                return 1
    rate = worlds / (monotonic() - began)
    print(
        f"{worlds} worlds, {complete} of {len(searches)} searches complete, up to {deepest} steps, {rate:.0f} worlds/s"
    )
    return 0


def _searches(arguments: argparse.Namespace) -> list[Search]:
    names = "ABC"[: arguments.nodes]
    combinations = list(combinations_with_replacement(FAULTS, arguments.faults))
    paces = (True,) if arguments.swift else (False, True)
    tales = [(story, kinds) for story in STORIES for kinds in (combinations if story == "led" else [()])]
    rest = arguments.orders, arguments.worlds, 0.0
    searches = [Search(story, names, kinds, swift, *rest) for story, kinds in tales for swift in paces]
    scenes = [Search(name, names, SCENES[name].kinds, swift, *rest) for name in SCENES for swift in paces]
    return scenes if arguments.scenes else [*searches, *scenes]


def _explore(search: Search) -> tuple[Search, Found, float]:
    began = monotonic()
    if search.story in SCENES:
        start = SCENES[search.story].world(swift=search.swift, names=search.names)
    else:
        kinds = frozenset({*search.kinds, *((*ORDERS, *LENGTHS) if search.orders else ())})
        start = STORIES[search.story](
            Rules(kinds=kinds, swift=search.swift), search.names, len(search.kinds), search.orders
        )
    return search, explore(start, search.bound, began + search.seconds), monotonic() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make explore", description=__doc__)
    parser.add_argument("--faults", type=int, default=1, help="misfortunes in each story (1)")
    parser.add_argument("--orders", type=int, default=0, help="orders in each story (0)")
    parser.add_argument("--nodes", type=int, choices=(2, 3), default=2)
    parser.add_argument("--minutes", type=float, default=10.0, help="all searches together, at most (10)")
    parser.add_argument("--worlds", type=int, default=2_000_000, help="of one search, at most; each takes about 1 KB")
    parser.add_argument("--scenes", action="store_true", help="only what may befall a ledger")
    parser.add_argument("--swift", action="store_true", help="only with everything prompt at once")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
