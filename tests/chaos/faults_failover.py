"""PostgreSQL fails over: the standby is promoted, and the old primary is dead, or alive and cut off from everybody.

The nodes know both servers, and ask for the one that can be written to. The bed is spent afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from fact import wait_for

from highlanderd.linux import boottime

from .bed import SERVER, Bed, pause
from .faults import Bound, Missed, Strike, fault
from .faults_network import BORNE, LONG

FAILOVER = Bound(1.1, lasting=True)
"""As any outage; where that lasted too long, led again at most 1.1 L after the reconnection."""
LOSING = "a transaction that the asynchronous standby had not got yet is lost with the old primary"


def _synchronous(bed: Bed) -> None:
    """Let every commit wait for the standby, from now on and only on this server."""
    bed.server.configure(synchronous_standby_names="*")
    wait_for(lambda: bed.sql("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), what="synchronous standby")


def _promote(bed: Bed) -> None:
    """Make the standby the server of this bed."""
    standby = bed.standby
    if standby is None:
        raise Missed
    standby.promote()
    bed.server, bed.database = standby, replace(bed.database, server=standby)


def _killed(bed: Bed, how: str) -> Strike:
    bed.server.kill()
    _promote(bed)
    return Strike(f"the primary killed, its {how} standby promoted", bed.nodes)


def _cut_off(bed: Bed, how: str) -> Strike:
    old, before, began = bed.server, bed.oracle.epochs(), boottime()
    bed.network.mute(SERVER)
    bed.network.deafen(SERVER)
    _promote(bed)
    quick = boottime() - began < BORNE[1] * bed.lease

    def undo() -> None:
        # Whoever heals the network has to stop the old primary first: both would take the children's writes.
        old.stop("immediate")
        after = bed.oracle.epochs()
        assert not quick or after == before, f"children were replaced: epochs {before} before, {after} afterwards"

    return Strike(f"the primary cut off, its {how} standby promoted", bed.nodes, undo)


@fault("failover, old primary killed", FAILOVER, spares=True, spends=True, servers=2, losing=LOSING)
def kill_primary(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001 - there is no choice
    """The usual failover: the machine of an asynchronous primary is gone."""
    return _killed(bed, "asynchronous")


@fault("failover, old primary killed, synchronous", FAILOVER, spares=True, spends=True, servers=2)
def kill_synchronous_primary(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """The same, and nothing that was acknowledged is lost."""
    _synchronous(bed)
    return _killed(bed, "synchronous")


@fault("failover, old primary cut off", FAILOVER, lasts=LONG, spends=True, servers=2, losing=LOSING)
def cut_off_primary(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """It goes on serving in the dark; nobody hears it."""
    return _cut_off(bed, "asynchronous")


@fault("failover, old primary cut off, synchronous", FAILOVER, lasts=LONG, spends=True, servers=2)
def cut_off_synchronous_primary(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """Backends of the old primary wait for a standby that will never answer, and keep their locks there."""
    _synchronous(bed)
    return _cut_off(bed, "synchronous")


@fault("failover, late", FAILOVER, lasts=(0.0, 0.1), spends=True, servers=2, losing=LOSING)
def promote_late(bed: Bed, chance: Random) -> Strike:
    """Nobody is promoted before every child is fenced."""
    bed.server.kill()
    end = chance.uniform(1.1, 1.5) * bed.lease
    pause(end)
    _promote(bed)
    return Strike(f"the primary killed, its standby promoted {end:.2f} s later", bed.nodes)


@fault(
    "failover, old primary serves on",
    FAILOVER,
    lasts=(2.0, 2.5),
    spends=True,
    servers=2,
    doubling="both primaries acknowledge renewals, so both sides lead for as long as both serve",
    losing=LOSING,
)
def promote_beside(bed: Bed, chance: Random) -> Strike:
    """Nobody stops the old primary, and one node that does not lead finds the way to the new one only."""
    old, (_, leader) = bed.server, bed.some_leader(chance)
    other = chance.choice([node for node in bed.nodes if node is not leader])
    bed.network.part(other.name, SERVER)
    _promote(bed)

    def undo() -> None:
        old.stop("immediate")
        bed.network.heal(other.name)

    return Strike(f"{other.name} sees the promoted standby, the others the old primary", bed.nodes, undo)
