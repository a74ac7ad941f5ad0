"""The wall clock of a node is stepped: nothing that the protocol decides may look at it."""

from __future__ import annotations

from datetime import datetime
from random import Random

from highlanderd.errors import HighlanderError
from tests.support.nodes import Node

from .bed import Bed
from .faults import Bound, Missed, Strike, fault
from .faults_network import BORNE

LIVES = Bound()


def _step(bed: Bed, chance: Random, seconds: int) -> Strike:
    program, node = bed.some_leader(chance)
    before = _shown(node, program)
    bed.clocks.step(node.name, seconds)
    assert abs(_shown(node, program) - before - seconds) < abs(seconds) / 2, "the node has seen another time"
    return Strike(f"{node.name}'s clock stepped by {seconds} s", [node], lambda: bed.clocks.step(node.name, 0))


def _shown(node: Node, program: str) -> float:
    """Return a time of the past as the node shows it: it moves with its clock."""
    try:
        return datetime.fromisoformat(node.program(program)["since"]).timestamp()
    except (HighlanderError, StopIteration):  # its worker has just begun
        raise Missed from None


@fault("wall clock stepped forward", LIVES, lasts=BORNE, spares=True, needs=("clocks",))
def step_forward(bed: Bed, chance: Random) -> Strike:
    """By an hour, and back."""
    return _step(bed, chance, 3600)


@fault("wall clock stepped back", LIVES, lasts=BORNE, spares=True, needs=("clocks",))
def step_back(bed: Bed, chance: Random) -> Strike:
    """By a year, and on again."""
    return _step(bed, chance, -365 * 86400)
