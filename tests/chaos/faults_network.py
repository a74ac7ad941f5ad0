"""The network between a node and PostgreSQL breaks: one way, both ways, for a moment, for longer than a lease."""

from __future__ import annotations

import signal
from collections.abc import Callable
from random import Random

from highlanderd.system.linux import boottime
from tests.support.nodes import Node
from tests.support.wait import wait_for

from .bed import SERVER, Bed, pause
from .faults import Bound, Missed, Strike, fault

BORNE = (0.1, 0.38)
"""Leases: an outage below 4/10 L costs no child."""
LONG = (1.1, 1.6)
"""Leases: others have taken over before the heal."""
ANY = (0.3, 1.2)
"""Leases: the heal may come while the child is being fenced."""

FENCED = Bound(0.8)
"""SIGTERM comes 7/10 L after the last renewal whose answer came; others lead 13/10 L after the last that arrived,
which may be one renewal, 2/10 L, later."""


RENEWAL = "SELECT renewal FROM highlander.lease WHERE program = %s"


def _blackhole(bed: Bed, node: Node) -> Strike:
    """Lose every packet of a node, both ways."""
    bed.network.mute(node.name)
    bed.network.deafen(node.name)
    return Strike(f"{node.name} in a blackhole", [node], lambda: bed.network.heal(node.name), boottime())


def _on_leader(bed: Bed, chance: Random, how: str, *hurts: Callable[[str], None]) -> Strike:
    """Do it to the link of a node that leads."""
    _, node = bed.some_leader(chance)
    for hurt in hurts:
        hurt(node.name)
    return Strike(f"{node.name} {how}", [node], lambda: bed.network.heal(node.name))


@fault("partition, both ways, short", FENCED, lasts=BORNE, spares=True)
def unplug_shortly(bed: Bed, chance: Random) -> Strike:
    """Lose every packet of a leader for less than 4/10 L: a plug would take a while to be seen after the heal."""
    return _on_leader(bed, chance, "in a blackhole", bed.network.mute, bed.network.deafen)


@fault("partition, both ways, at the worst moment", FENCED, lasts=(0.34, 0.36), spares=True)
def blackhole_between_renewals(bed: Bed, chance: Random) -> Strike:
    """It begins right before a renewal: the session is given up before the heal, and so is the first way back."""
    program, node = bed.some_leader(chance)
    [before] = bed.sql(RENEWAL, [program])
    try:
        wait_for(lambda: bed.sql(RENEWAL, [program]) != [before], bed.lease, "a renewal")
    except AssertionError:  # another fault keeps it from renewing
        raise Missed from None
    pause(0.16 * bed.lease)
    return _blackhole(bed, node)


@fault("partition, both ways", FENCED, lasts=LONG)
def unplug(bed: Bed, chance: Random) -> Strike:
    """Pull the plug of a leader until others have taken over."""
    return _on_leader(bed, chance, "unplugged", bed.network.unplug)


@fault("partition, healed during the fence", FENCED, lasts=ANY)
def blackhole_somehow_long(bed: Bed, chance: Random) -> Strike:
    """Lose every packet of a leader, both ways, and heal at any time."""
    return _on_leader(bed, chance, "in a blackhole", bed.network.mute, bed.network.deafen)


@fault("partition, questions lost", FENCED, lasts=LONG)
def mute(bed: Bed, chance: Random) -> Strike:
    """Lose what a leader says."""
    return _on_leader(bed, chance, "muted", bed.network.mute)


@fault("partition, answers lost", FENCED, lasts=LONG)
def deafen(bed: Bed, chance: Random) -> Strike:
    """Lose what a leader is told: its renewals arrive, and it does not know."""
    return _on_leader(bed, chance, "deafened", bed.network.deafen)


@fault("partition of the server", FENCED, lasts=BORNE, spares=True)
def unplug_server(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001 - there is one server
    """Lose every packet of PostgreSQL for less than 4/10 L."""
    bed.network.mute(SERVER)
    bed.network.deafen(SERVER)
    return Strike("the server in a blackhole", bed.nodes, lambda: bed.network.heal(SERVER))


@fault("blackhole, renewal in flight", FENCED, lasts=LONG)
def blackhole_a_renewal(bed: Bed, chance: Random) -> Strike:
    """Stop a leader's backend until a renewal waits there, lose all packets, and let it answer into the void."""
    program, node = bed.some_leader(chance)
    held = [pid for (pid,) in bed.sql("SELECT backend_pid FROM highlander.lease WHERE program = %s", [program])]
    try:
        bed.send(signal.SIGSTOP, held)
        pause(0.22 * bed.lease)  # a renewal comes every 2/10 L, and is waited for for 3/10 L
        bed.network.mute(node.name)
        bed.network.deafen(node.name)
    finally:
        bed.send(signal.SIGCONT, held)
    if not held:
        raise Missed
    return Strike(
        f"{node.name} in a blackhole, {program}'s renewal in flight", [node], lambda: bed.network.heal(node.name)
    )


@fault("link that loses 4 in 10 packets", FENCED, lasts=(0.5, 2.0), needs=("namespaces",))
def spoil(bed: Bed, chance: Random) -> Strike:
    """Some renewals get through in time, some answers do not."""
    return _on_leader(bed, chance, "loses packets", bed.network.spoil)


@fault("link that flaps", FENCED, alone=True)
def flap(bed: Bed, chance: Random) -> Strike:
    """A leader's network goes and comes for one and a half leases, twenty times a lease at most."""
    _, node = bed.some_leader(chance)
    end = boottime() + 1.5 * bed.lease
    while boottime() < end:
        bed.network.mute(node.name)
        bed.network.deafen(node.name)
        pause(chance.uniform(0.05, 0.3) * bed.lease)
        bed.network.heal(node.name)
        pause(chance.uniform(0.0, 0.1) * bed.lease)
    return Strike(f"{node.name}'s link flapped", [node])
