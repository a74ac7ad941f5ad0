"""PostgreSQL is restarted, crashes, hangs, or throws a session out."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from random import Random

import psycopg
from psycopg.conninfo import make_conninfo

from highlanderd.system.linux import boottime
from tests.support.postgres import Mode
from tests.support.wait import wait_for

from .bed import Bed, pause
from .faults import Bound, Missed, Strike, fault
from .faults_network import BORNE, FENCED, LONG

DISCONNECTED = Bound(1.1, lasting=True)
"""Fenced at 7/10 L, and led again at most 1.1 L after the server is back."""

BACKENDS = "SELECT backend_pid FROM highlander.lease WHERE program = %s AND released_at IS NULL"
TERMINATE = f"SELECT pg_terminate_backend(backend_pid) FROM ({BACKENDS}) AS mine"


@fault("pg_terminate_backend", DISCONNECTED, spares=True)
def terminate_backend(bed: Bed, chance: Random) -> Strike:
    """End the session of a leader."""
    program, node = bed.some_leader(chance)
    bed.sql(TERMINATE, [program])
    return Strike(f"backend of {program} on {node.name} terminated", [node])


@fault("pg_terminate_backend of everybody", DISCONNECTED, spares=True)
def terminate_everybody(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001 - there is no choice
    """End all sessions at once, those of children too."""
    bed.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        "pg_backend_pid()"
    )
    return Strike("every backend terminated", bed.nodes)


@fault("pg_terminate_backend in a partition", DISCONNECTED, lasts=BORNE, spares=True)
def terminate_unheard(bed: Bed, chance: Random) -> Strike:
    """End the sessions of a leader that cannot hear of it: the lock is free, the lease is not."""
    return _terminate_unheard(bed, chance)


@fault("pg_terminate_backend in a partition, long", FENCED, lasts=LONG)
def terminate_long_unheard(bed: Bed, chance: Random) -> Strike:
    """The same for longer than a lease: the lease alone keeps others away until the child is dead."""
    return _terminate_unheard(bed, chance)


def _terminate_unheard(bed: Bed, chance: Random) -> Strike:
    _, node = bed.some_leader(chance)
    bed.network.mute(node.name)
    bed.network.deafen(node.name)
    bed.sql("SELECT pg_terminate_backend(backend_pid) FROM highlander.lease WHERE node = %s", [node.name])
    return Strike(f"{node.name} in a blackhole, its backends terminated", [node], lambda: bed.network.heal(node.name))


def _restart(bed: Bed, mode: Mode) -> Strike:
    if bed.server_struck:
        raise Missed
    bed.server.restart(mode)
    return Strike(f"pg_ctl restart -m {mode}", bed.nodes)


@fault("pg_ctl restart fast", DISCONNECTED, spares=True)
def restart_fast(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """What an upgrade of a minor version does."""
    return _restart(bed, "fast")


@fault("pg_ctl restart immediate", DISCONNECTED, spares=True)
def restart_immediate(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """No shutdown checkpoint: the server recovers from its log."""
    return _restart(bed, "immediate")


@fault("SIGKILL of a backend", DISCONNECTED, spares=True)
def kill_backend(bed: Bed, chance: Random) -> Strike:
    """The postmaster takes every other backend down with it, and recovers."""
    program, _ = bed.some_leader(chance)
    pids = [pid for (pid,) in bed.sql(BACKENDS, [program])]
    if not pids or not os.path.exists(f"/proc/{pids[0]}"):  # noqa: PTH110
        raise Missed
    bed.send(signal.SIGKILL, pids)
    wait_for(bed.answers, what="the server has recovered")
    return Strike(f"backend of {program} killed", bed.nodes)


def _pause(bed: Bed) -> Strike:
    if bed.server_struck:
        raise Missed
    bed.server_struck = True
    bed.server.pause()

    def resume() -> None:
        bed.server.resume()
        bed.server_struck = False

    return Strike("SIGSTOP of the server", bed.nodes, resume)


@fault("SIGSTOP of the server, short", DISCONNECTED, lasts=BORNE, spares=True)
def pause_server_shortly(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """The machine of PostgreSQL hangs for less than 4/10 L."""
    return _pause(bed)


@fault("SIGSTOP of the server", DISCONNECTED, lasts=(1.1, 1.5))
def pause_server(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """The machine of PostgreSQL hangs for longer than a lease, and goes on as if nothing had been."""
    return _pause(bed)


@fault("server stopped", DISCONNECTED, lasts=(1.1, 1.5))
def stop_server(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """No server for longer than a lease."""
    return stop(bed)


def stop(bed: Bed) -> Strike:
    """Stop the server in good order."""
    if bed.server_struck:
        raise Missed
    bed.server_struck = True
    began = boottime()
    bed.server.stop("fast")

    def start() -> None:
        bed.server.start()
        bed.server_struck = False

    return Strike("the server stopped", bed.nodes, start, began)


@fault("power cut of the server", DISCONNECTED, spares=True)
def cut_power(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """SIGKILL of every process of PostgreSQL at once, and a start."""
    if bed.server_struck:
        raise Missed
    bed.server.kill()
    bed.server.start()
    return Strike("power cut of the server", bed.nodes)


@fault("sessions terminated all the time", DISCONNECTED, alone=True)
def hammer(bed: Bed, chance: Random) -> Strike:
    """Every session that leads is ended again and again, for one and a half leases."""
    end = boottime() + 1.5 * bed.lease
    while boottime() < end:
        bed.sql("SELECT pg_terminate_backend(backend_pid) FROM highlander.lease")
        pause(chance.uniform(0.0, 0.1) * bed.lease)
    return Strike("every backend terminated all the time", bed.nodes)


@fault("ledger locked", DISCONNECTED, lasts=(1.1, 1.5))
def lock_ledger(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001
    """What VACUUM FULL does, for longer than a lease: no renewal, no look, and no child's transaction gets through."""
    if bed.server_struck:
        raise Missed
    held = psycopg.connect(make_conninfo(bed.database.dsn, user=bed.server.user), connect_timeout=5)
    try:
        held.execute("LOCK TABLE highlander.lease IN ACCESS EXCLUSIVE MODE")
    except psycopg.Error:
        held.close()
        raise Missed from None
    bed.server_struck = True

    def let_go() -> None:
        with suppress(psycopg.Error):
            held.rollback()
        held.close()
        bed.server_struck = False

    return Strike("the ledger locked", bed.nodes, let_go)
