"""The disk of PostgreSQL is full. A limit on the size of files does it without a disk to fill: PostgreSQL ignores the
signal of it, so that every write fails as on a full disk, the log of transactions included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from random import Random
from typing import Any

from tests.support.postgres import Cluster
from tests.support.wait import wait_for

from .bed import Bed
from .faults import Bound, Missed, Strike, fault

PRLIMIT = "prlimit"
FULL = Bound(1.1, lasting=True)
"""As any outage: fenced at 7/10 L, and led again at most 1.1 L after the server takes writes."""


def _limit(server: Cluster, size: str) -> None:
    """Let no process of the server write beyond so many bytes of any file; the postmaster first, which forks more.

    Done by the server's own user, who needs no privilege for it.
    """
    account = server.account
    who: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": ()} if account.foreign else {}
    for pid in sorted(server.processes(), key=lambda pid: pid != server.pid):
        command = [PRLIMIT, f"--pid={pid}", f"--fsize={size}:"]
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False, **who)  # it may have ended meanwhile


@fault("disk of the server full", FULL, lasts=(1.1, 1.5), alone=True)
def fill_disk(bed: Bed, chance: Random) -> Strike:  # noqa: ARG001 - there is no choice
    """Every write fails, for longer than a lease. The server crashes over it, and recovers when there is room."""
    if bed.server_struck or not shutil.which(PRLIMIT):
        raise Missed
    bed.server_struck = True
    _limit(bed.server, "0")
    return Strike("no room for the server's writes", bed.nodes, lambda: _make_room(bed))


def _make_room(bed: Bed) -> None:
    """Make room, and start the server again where it has given up."""
    server = bed.server
    if os.path.exists(f"/proc/{server.pid}"):  # noqa: PTH110
        _limit(server, "unlimited")
    bed.server_struck = False
    wait_for(lambda: bed.answers() or not server.processes(), what="the server answers or has given up")
    if not server.processes():
        server.restart()
    wait_for(bed.answers, what="the server answers")
