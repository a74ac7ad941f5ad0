"""One round: strike, let it last, undo, wait until all is whole again, and judge by what the children wrote."""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from pathlib import Path
from random import Random

import psycopg

from highlanderd.errors import HighlanderError
from highlanderd.system.linux import boottime
from tests.support.wait import wait_for

from .bed import PROGRAMS, Bed, pause
from .faults import Bound, Fault, Missed, Strike

BUSY = 6.0
"""Seconds that a gap may be longer than its bound: two cores run several clusters, and starting a Python takes time.
Safety gets no such allowance."""
LATE = 1.0
"""Seconds that two may live at once beyond what is promised where that is a stated exception, on a busy machine."""
PATIENCE = 90.0
"""Seconds until all must be whole again after the last undo."""
MANY = Bound(1.5, lasting=True)
"""The bound for many faults at once: until the last is undone and every daemon runs again, one lease that runs out,
and one takeover more."""
MANY_SPREAD = 2.0
"""Leases over which many faults are spread."""
MANY_NAME = "many at once"


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a round: when, for how long, and the seed of its choices."""

    fault: Fault
    after: float
    lasts: float
    seed: str

    def __str__(self) -> str:
        return f"{self.fault.name!r} after {self.after:.2f} s for {self.lasts:.2f} s"


@dataclass(slots=True)
class Outcome:
    """What a round was, and what it cost."""

    name: str
    seed: str
    began: float
    """CLOCK_BOOTTIME in seconds, as in the journal."""
    clock: str
    """The same moment as the logs show it."""
    struck: int = 0
    """Faults that were really done."""
    did: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """Seconds, for each program that the faults concerned: 0 when its child lived through."""
    restarts: int = 0
    limit: float = 0.0
    """The bound in seconds, without the allowance for a busy machine."""
    overlaps: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)
    """Overlaps and losses under a stated exception."""
    together: float = 0.0
    """Seconds that two children of a program lived at once."""
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Bounds that were not kept."""
    kept: Path | None = None
    """Where logs, journal and story of a failed round are."""

    spent: bool = False
    """Whether the bed is not for another round."""

    @property
    def failed(self) -> list[str]:
        """All that must not be."""
        return self.overlaps + self.lost + self.broken

    def __str__(self) -> str:
        verdict = "; ".join(self.failed) or f"longest gap {max(self.gaps, default=0.0):.2f} s"
        if self.together > 0:
            verdict += f", two at once for {self.together:.2f} s"
        return f"{self.name} (seed {self.seed}): {', '.join(self.did) or 'missed'}: {verdict}"


def one(fault: Fault, lease: float, seed: str) -> list[Planned]:
    """Plan a round with one fault."""
    return [Planned(fault, 0.0, Random(seed).uniform(*fault.lasts) * lease, seed)]


def many(faults: Sequence[Fault], count: int, lease: float, seed: str) -> list[Planned]:
    """Plan a round with many faults that overlap."""
    chance = Random(seed)
    chosen = [chance.choice(faults) for _ in range(count)]
    spread = MANY_SPREAD * lease
    return [
        Planned(fault, chance.uniform(0, spread), chance.uniform(*fault.lasts) * lease, f"{seed}/{number}")
        for number, fault in enumerate(chosen)
    ]


def play(bed: Bed, plan: Sequence[Planned], seed: str) -> Outcome:
    """Play a round on a bed that is whole. Whatever goes wrong is in the outcome."""
    name = plan[0].fault.name if len(plan) == 1 else MANY_NAME
    before = bed.oracle.present()
    lease = max(bed.ceiling(), bed.lease * max(one.fault.stretch for one in plan))
    began = boottime()
    outcome = Outcome(name, seed, began, datetime.now(UTC).isoformat(timespec="milliseconds"))
    concerned: set[str] = set()
    try:
        strikes = _strike(bed, plan, outcome)
        concerned = {node.name for strike in strikes for node in strike.nodes}
        lasted = boottime() - max([began, *(strike.since for strike in strikes)])
        bed.mend()
        if len(plan) > 1:
            wait_for(bed.running, PATIENCE, "every daemon runs again")
            lasted = boottime() - began
        wait_for(_whole(bed, boottime()), PATIENCE, "all is whole again")
        bound = plan[0].fault.bound if len(plan) == 1 else MANY
        outcome.limit = bound.limit(lease, lasted)
        places = {program: life.node for program, life in before.items()}
        _measure(bed, plan, outcome, bound, places, concerned, lasted)
    except (AssertionError, HighlanderError, OSError, StopIteration, psycopg.Error) as error:
        outcome.broken.append(f"{type(error).__name__}: {error}")
        outcome.did.append(traceback.format_exc())
    _judge(bed, plan, outcome)
    if outcome.failed:
        outcome.kept = keep(bed, outcome)
    outcome.spent = bool(outcome.failed) or any(
        one.fault.spends or one.fault.doubling or one.fault.losing for one in plan
    )
    return outcome


def _whole(bed: Bed, since: float) -> Callable[[], bool]:
    return lambda: bed.whole(since) is not None


def _strike(bed: Bed, plan: Sequence[Planned], outcome: Outcome) -> list[Strike]:
    """Do all of it, each at its time, and undo it at its time."""
    began = boottime()
    strikes: list[Strike] = []
    agenda: list[tuple[float, int, Planned | Strike]] = [(one.after, number, one) for number, one in enumerate(plan)]
    heapify(agenda)
    while agenda:
        at, number, entry = heappop(agenda)
        bed.revive()
        pause(began + at - boottime())
        if isinstance(entry, Strike):
            entry.undo()
            continue
        try:
            strike = entry.fault.strike(bed, Random(entry.seed))
        except Missed:
            outcome.did.append(f"{boottime() - began:.2f} s: missed {entry.fault.name}")
            continue
        outcome.did.append(f"{boottime() - began:.2f} s: {strike.what} for {entry.lasts:.2f} s")
        outcome.struck += 1
        strikes.append(strike)
        heappush(agenda, (boottime() - began + entry.lasts, number, strike))
    return strikes


def _measure(
    bed: Bed,
    plan: Sequence[Planned],
    outcome: Outcome,
    bound: Bound,
    places: dict[str, str],
    concerned: set[str],
    lasted: float,
) -> None:
    """Measure the gaps of the programs that the concerned nodes led when it began, and of every one that moved."""
    gaps = bed.oracle.successions(outcome.began)
    single = plan[0].fault if len(plan) == 1 else None
    spared = single is not None and single.spares and lasted <= single.borne * bed.lease
    if not outcome.struck:
        return
    for program in PROGRAMS:
        mine = [gap for gap in gaps if gap.program == program]
        if places[program] in concerned or mine:
            outcome.gaps.append(max((gap.seconds for gap in mine), default=0.0))
        outcome.restarts += len(mine)
        if spared and mine and places[program] in concerned:
            outcome.broken.append(f"{program} was restarted: {mine[0].before}, then {mine[0].after}")
        outcome.broken += [
            f"{program} had no child for {gap.seconds:.2f} s, more than {bound} = {outcome.limit:.2f} s: "
            f"{gap.before}, then {gap.after}"
            for gap in mine
            if gap.seconds > outcome.limit + BUSY
        ]


def _judge(bed: Bed, plan: Sequence[Planned], outcome: Outcome) -> None:
    """Ask the oracle. What a fault's stated exception explains is told, and is no failure."""
    overlaps = [*bed.oracle.doubles(), *bed.left()]
    doubling = any(one.fault.doubling for one in plan)
    losing = any(one.fault.losing for one in plan)
    (outcome.excused if doubling else outcome.overlaps).extend(overlaps)
    outcome.together = max(0.0, bed.oracle.together(outcome.began))
    promised = plan[0].fault.together if len(plan) == 1 else None
    if promised is not None and outcome.together > promised.limit(bed.lease, boottime() - outcome.began) + LATE:
        outcome.broken.append(f"two lived at once for {outcome.together:.2f} s, more than {promised}")
    try:
        outcome.lost += bed.oracle.lost_updates(bed.sql, complete=not losing)
    except Missed:
        outcome.broken.append("the server is still in the hands of a fault")


def keep(bed: Bed, outcome: Outcome) -> Path:
    """Keep what explains a failure: logs, journal, ledger and the story."""
    place = Path("/tmp") / f"highlander-chaos-{re.sub('[^a-z0-9]+', '-', outcome.seed.lower())}"
    place.mkdir(exist_ok=True)
    shutil.copy(bed.oracle.path, place / "journal")
    shutil.copy(bed.server.log, place / "postgres.log")
    for node in bed.nodes:
        shutil.copy(node.log, place / f"{node.name}.log")
    story = [
        outcome.name,
        f"seed {outcome.seed}",
        f"began at {outcome.began:.3f} of CLOCK_BOOTTIME, {outcome.clock}",
        *outcome.did,
        "",
        *outcome.failed,
        "",
        *map(str, bed.oracle.lives()),
    ]
    (place / "story").write_text("\n".join(story) + "\n")
    return place
