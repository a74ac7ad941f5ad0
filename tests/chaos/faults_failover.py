"""PostgreSQL fails over: the standby is promoted, and the old primary is dead, or alive and cut off from everybody.

The nodes know both servers, and ask for the one that can be written to. The bed is spent afterwards.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from random import Random

from highlanderd.system.linux import boottime
from tests.support.wait import wait_for

from .bed import PROGRAMS, SERVER, STANDBY, Bed, pause
from .faults import Bound, Missed, Strike, fault
from .faults_lengths import LONG_OUTAGE, announced
from .faults_network import BORNE, LONG
from .faults_postgres import stop

FAILOVER = Bound(1.1, lasting=True)
"""As any outage; where that lasted too long, led again at most 1.1 L after the reconnection."""
COUNTERS = sum("counting_child" in " ".join(command) for command in PROGRAMS.values())
"""Programs that count."""
LED_AFTER_PROMOTION = "SELECT count(*) FROM highlander.lease WHERE released_at IS NULL AND timeline > 1"
COUNTING_CHILDREN = """
SELECT 1 FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = '' AND usename <> session_user
"""
WRITTEN = "SELECT program, epoch, renewal FROM highlander.lease ORDER BY program"
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


@fault("failover, old primary started again", FAILOVER, lasts=(1.5, 2.0), spends=True, servers=2, losing=LOSING)
def start_old_primary_again(bed: Bed, chance: Random) -> Strike:
    """A service manager starts the old primary, and a daemon that was never here before meets it first."""
    server, old, (_, leader) = bed.server, bed.database, bed.some_leader(chance)
    fresh = chance.choice([node for node in bed.nodes if node is not leader])
    fresh.signal(signal.SIGTERM)
    fresh.ended()
    (fresh.home / "state" / "timelines").unlink(missing_ok=True)
    server.kill()
    _promote(bed)
    wait_for(lambda: bed.sql(LED_AFTER_PROMOTION) == [(len(PROGRAMS),)], what="all are led on the new primary")
    wait_for(lambda: len(bed.sql(COUNTING_CHILDREN)) == COUNTERS, what="the children count on the new primary")
    began, before = boottime(), bed.oracle.epochs()
    server.start()
    written = old.sql(WRITTEN, admin=True)
    bed.start(fresh)

    def undo() -> None:
        after, now = bed.oracle.epochs(), old.sql(WRITTEN, admin=True)
        server.stop("immediate")  # whoever starts a child later would count there
        assert now == written, f"somebody led on the old primary: {written} before, {now} afterwards"
        assert after == before, f"children were replaced: epochs {before} before, {after} afterwards"

    what = f"the primary killed, its standby promoted, the old one started again, and {fresh.name} without a past"
    return Strike(what, bed.nodes, undo, began)


@fault("switchover in a maintenance", Bound(), spares=True, spends=True, servers=2, borne=LONG_OUTAGE)
def switch_over(bed: Bed, chance: Random) -> Strike:
    """It is announced, the primary is stopped in good order, and its standby promoted more than a lease later."""
    bed.sql(f'GRANT pg_monitor TO "{bed.database.role}"')  # what the standby has received is to be seen
    said = announced(bed, chance, LONG_OUTAGE)
    stopped = stop(bed)
    pause(chance.uniform(1.1, 1.4) * bed.lease)
    _promote(bed)
    bed.server_struck = False

    def undo() -> None:
        wait_for(bed.restored, what="the maintenance is ended")

    return Strike(f"{said}, {stopped.what}, its standby promoted", bed.nodes, undo, stopped.since)


def _beside(bed: Bed, chance: Random, *, reached: bool) -> Strike:
    """Promote the standby, and let one node that does not lead reach nothing else."""
    old, (_, leader) = bed.server, bed.some_leader(chance)
    other = chance.choice([node for node in bed.nodes if node is not leader])
    bed.network.part(other.name, SERVER)
    others = [node for node in bed.nodes if node is not other]
    for node in [] if reached else others:
        bed.network.part(node.name, STANDBY)
    _promote(bed)

    def undo() -> None:
        old.stop("immediate")
        for node in bed.nodes:
            bed.network.heal(node.name)

    said = "both servers" if reached else "only the old primary"
    return Strike(f"{other.name} reaches only the promoted standby, the others {said}", bed.nodes, undo)


@fault(
    "failover, old primary serves on",
    FAILOVER,
    lasts=(2.0, 2.5),
    spends=True,
    servers=2,
    doubling="a leader on the old primary learns of the promotion when it asks every host, once a lease",
    losing=LOSING,
    together=Bound(1.0),
)
def promote_beside(bed: Bed, chance: Random) -> Strike:
    """Nobody stops the old primary; its leaders reach both servers."""
    return _beside(bed, chance, reached=True)


@fault(
    "failover, old primary serves on alone",
    FAILOVER,
    lasts=(2.0, 2.5),
    spends=True,
    servers=2,
    doubling="both primaries acknowledge renewals, so both sides lead for as long as both serve",
    losing=LOSING,
    together=Bound(lasting=True),
)
def promote_out_of_reach(bed: Bed, chance: Random) -> Strike:
    """Nobody stops the old primary; its leaders reach nothing else."""
    return _beside(bed, chance, reached=False)
