"""``make chaos``: rounds of faults on several clusters side by side, and the table of what they cost.

Ends with 1 when two children lived at once, an update was lost, or a bound was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from highlanderd.embedded.account import Account, unprivileged
from highlanderd.embedded.installation import Installation, installation_at, installed, pick, reachable
from tests.support.postgres import DISK, passable_directory

from . import table
from .bed import Bed, lacking
from .faults import Fault, registry
from .rounds import Outcome, Planned, many, one, play

MANY_FAULTS = 5
"""In a round of many at once."""
MANY_EVERY = 3
"""Every so many rounds is one of these: half of all faults are."""


class Deck:
    """The rounds of one cluster: every fault in a new order again and again, with many at once in between."""

    def __init__(self, faults: Sequence[Fault], seed: str, lease: float, *, crowds: bool) -> None:
        self._faults, self._seed, self._lease = faults, seed, lease
        self._crowd = [fault for fault in faults if fault.crowded] if crowds else []

    def __iter__(self) -> Iterator[tuple[str, list[Planned]]]:
        chance, waiting, number = random.Random(self._seed), list[Fault](), 0
        while True:
            number += 1
            seed = f"{self._seed}/{number}"
            if self._crowd and number % MANY_EVERY == 0:
                yield seed, many(self._crowd, MANY_FAULTS, self._lease, seed)
                continue
            if not waiting:
                waiting = chance.sample(self._faults, len(self._faults))
            yield seed, one(waiting.pop(), self._lease, seed)


class Run:
    """All clusters of one run."""

    def __init__(self, arguments: argparse.Namespace, programs: Installation, account: Account) -> None:
        self.arguments, self.programs, self.account = arguments, programs, account
        self.outcomes: list[Outcome] = []
        self.over = threading.Event()
        self.broken: list[BaseException] = []
        self._until = time.monotonic() + 60 * arguments.minutes

    def play(self, faults: Sequence[Fault]) -> None:
        """Play on every cluster until the time or the number of faults is over."""
        threads = [
            threading.Thread(target=self._cluster, args=(faults, f"{self.arguments.seed}/{number}"), daemon=True)
            for number in range(1, self.arguments.clusters + 1)
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.5)
                time.sleep(0.1)
        except KeyboardInterrupt:
            print("ending after the present rounds", flush=True)
            self.over.set()
            for thread in threads:
                thread.join(120)

    @property
    def done(self) -> bool:
        """Whether no further round begins."""
        struck = sum(outcome.struck for outcome in self.outcomes)
        return self.over.is_set() or time.monotonic() > self._until or struck >= self.arguments.faults

    def _cluster(self, faults: Sequence[Fault], name: str) -> None:
        crowds = self.arguments.only == "*"
        deck = iter(Deck(faults, name, self.arguments.lease, crowds=crowds))
        try:
            seed, plan = next(deck)
            while not self.done:
                with self._bed(plan) as bed:
                    spent = False
                    while not (spent or self.done or plan[0].fault.servers != bed.servers):
                        spent = self._round(bed, seed, plan)
                        seed, plan = next(deck)
        except BaseException as error:
            self.broken.append(error)
            self.over.set()
            raise

    def _bed(self, plan: list[Planned]) -> Bed:
        servers, doors = plan[0].fault.servers, self.arguments.doors
        return Bed(self.programs, self.account, self.arguments.lease, doors=doors, servers=servers)

    def _round(self, bed: Bed, seed: str, plan: list[Planned]) -> bool:
        outcome = play(bed, plan, seed)
        self.outcomes.append(outcome)
        struck = sum(outcome.struck for outcome in self.outcomes)
        mark = "FAILED" if outcome.failed else "ok"
        print(f"{struck:4} {mark:6} {outcome}" + (f"\n     kept in {outcome.kept}" if outcome.kept else ""), flush=True)
        return outcome.spent


@contextlib.contextmanager
def installation(chosen: str | None) -> Iterator[tuple[Installation, Account]]:
    """Return PostgreSQL's programs and the account they run as: the embedded ones, or those of a directory."""
    account = unprivileged()
    with passable_directory(DISK) as shelf:
        if account.foreign:
            os.chown(shelf, account.uid, account.gid)
        if chosen:
            yield installation_at(Path(chosen).resolve().parent), account
        else:
            yield reachable(pick(installed(), None), account, shelf), account


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=55, help="begin no round after so many (default: 55)")
    parser.add_argument("--faults", type=int, default=1_000_000, help="or after so many faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="of every choice")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="kinds of faults, as in 'partition*'")
    parser.add_argument("--clusters", type=int, default=3, help="side by side (default: 3)")
    parser.add_argument("--lease", type=float, default=4.0, help="seconds (default: 4)")
    parser.add_argument("--doors", action="store_true", help="TCP doors, even where network namespaces can be had")
    parser.add_argument("--pg-bin", metavar="DIR", help="programs of another PostgreSQL")
    return parser.parse_args()


def main() -> int:
    """Play, and print the table."""
    arguments = parsed()
    chosen = [fault for name, fault in registry().items() if fnmatch(name, arguments.only)]
    with installation(arguments.pg_bin) as (programs, account):
        lacks = lacking(doors=arguments.doors, major=programs.major)
        faults = [fault for fault in chosen if not lacks.keys() & {*fault.needs}]
        print(f"seed {arguments.seed}, lease {arguments.lease:g} s, {len(faults)} kinds of faults", flush=True)
        for skipped in [fault for fault in chosen if fault not in faults]:
            print(f"skipped: {skipped.name}: {'; '.join(lacks[one] for one in skipped.needs if one in lacks)}")
        run = Run(arguments, programs, account)
        run.play(faults)
    made = table.rows(registry(), run.outcomes, arguments.lease)
    print(f"\nseed {arguments.seed}, {sum(row.faults for row in made)} faults in {len(run.outcomes)} rounds\n")
    print(table.text(made), "", *table.notes(registry(), run.outcomes), sep="\n")
    print(f"\n{table.markdown(made)}")
    return 1 if run.broken or any(row.failed for row in made) else 0


if __name__ == "__main__":
    sys.exit(main())
