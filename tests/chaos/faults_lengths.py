"""Operators change how long leases are while programs run: by another lease, and by a maintenance.

Whatever becomes of the order, ``Bed.whole`` has the ledger's own lease back before the round ends.
"""

from __future__ import annotations

from math import inf
from random import Random

from highlanderd.errors import HighlanderError
from tests.support.wait import wait_for

from .bed import Bed
from .faults import Bound, Missed, Strike, fault
from .faults_postgres import stop
from .faults_processes import kill_tree

NOTHING = Bound()
ANNOUNCED_LOST = Bound(1.85)
"""1.05 leases that are 1.5 times as long, and 0.25 L."""
STRETCH = 1.75
"""Leases: the longest that one of these faults, or two at once, make a lease."""
LONGER, SHORTER = 1.5, 0.75
"""Leases."""
OUTAGE = 0.7
"""Leases: what a maintenance is to bear while nothing is away. It makes leases about 1.5 times as long."""
LONG_OUTAGE = 2.0
"""Leases: what is to be borne where PostgreSQL really is away."""


def order(bed: Bed, chance: Random, resource: str, body: dict[str, object]) -> str:
    """Have the node of some leader do it, and return its name."""
    _, node = bed.some_leader(chance)
    bed.lengthened = True
    try:
        node.control.ask("POST", resource, body)
    except HighlanderError:  # it is down, or cannot reach PostgreSQL, or a maintenance is on
        raise Missed from None
    return node.name


@fault("lease changed", NOTHING, lasts=(0.5, 2.0), spares=True, borne=inf, stretch=STRETCH)
def change_lease(bed: Bed, chance: Random) -> Strike:
    """A longer or a shorter one, and back."""
    lease = chance.choice((LONGER, SHORTER)) * bed.lease
    name = order(bed, chance, "/v1/ledger/lease", {"lease": lease})
    return Strike(f"{name} sets the lease to {lease:g} s", bed.nodes, bed.restored)


@fault("maintenance on and off", NOTHING, lasts=(0.5, 2.0), spares=True, borne=inf, stretch=STRETCH)
def announce(bed: Bed, chance: Random) -> Strike:
    """It may end by itself before it is ended."""
    outage = OUTAGE * bed.lease
    name = order(bed, chance, "/v1/maintenance", {"on": True, "for": outage, "reason": "chaos"})
    return Strike(f"{name} begins a maintenance for {outage:g} s", bed.nodes, bed.restored)


def announced(bed: Bed, chance: Random, leases: float) -> str:
    """Begin a maintenance for an outage of so many leases, wait until every leader bears it, and return who did it."""
    outage = leases * bed.lease
    body: dict[str, object] = {"on": True, "for": outage, "reason": "chaos", "wait": True, "timeout": outage}
    return f"{order(bed, chance, '/v1/maintenance', body)} begins a maintenance for {outage:g} s"


@fault("server stopped in a maintenance", NOTHING, lasts=(1.1, 1.4), spares=True, borne=LONG_OUTAGE, alone=True)
def stop_announced(bed: Bed, chance: Random) -> Strike:
    """PostgreSQL is away for longer than a lease, as it was announced."""
    said = announced(bed, chance, LONG_OUTAGE)
    stopped = stop(bed)

    def start() -> None:
        stopped.undo()
        wait_for(bed.restored, what="the maintenance is ended")

    return Strike(f"{said}, {stopped.what}", bed.nodes, start, stopped.since)


@fault("node lost in a maintenance", ANNOUNCED_LOST, alone=True)
def lose_announced(bed: Bed, chance: Random) -> Strike:
    """Its rows carry the longer lease, which the others wait for, whether or not the maintenance is over."""
    said = announced(bed, chance, OUTAGE)
    _, node = bed.some_leader(chance)
    return Strike(f"{said}, {kill_tree(bed, node).what}", [node], bed.restored)
