"""A node with 100 leads that is stopped, and PostgreSQL that is restarted under 500 and 1,000 leads.

A gap is the time from the old child's last act to the new one's first, of each program. After a restart of PostgreSQL
the children run on: measured is when each lock is held again, from the moment at which the server answers.
``OUTAGES_LEADS`` and ``OUTAGES_SIZES`` change the numbers.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from tests.support.nodes import settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

from .bed import daemons, program, server, sleepers
from .lives import Lives
from .replacement import await_held
from .results import OURS, lacking, note

LEADS = int(os.environ.get("OUTAGES_LEADS", "100"))
SIZES = tuple(map(int, os.environ.get("OUTAGES_SIZES", "500,1000").split(",")))
LEASE = 10.0
LONG = 30.0
"""Seconds: no renewal comes between a reattachment and the question when it was."""


def stopped() -> None:
    """Stop a node that leads all; measure the gap of each program.

    No daemon is asked meanwhile who leads: that costs the processors as much as a handover.
    """
    with (
        server(max_connections=str(2 * LEADS + 60)) as cluster,
        daemons() as nodes,
        tempfile.TemporaryDirectory(prefix="hl-lives-") as place,
    ):
        database = cluster.database()
        settled_ledger(database, LEASE)
        lives = [Lives(Path(place), number) for number in range(LEADS)]
        text = "".join(program(f"p{number}", one.command) for number, one in enumerate(lives))
        [first] = nodes(database, "a", programs=text, lease=LEASE, log="error")
        wait_for(lambda: len(first.leading()) == LEADS, 120, "all are led")
        nodes(database, "b", programs=text, lease=LEASE, log="error")
        time.sleep(3)
        first.signal(signal.SIGTERM)
        gaps = [one.await_number(2).began - one.ended(one.now()[0]) for one in lives]
        note("node stopped", "gap of each program", OURS, [1000 * gap for gap in gaps], "ms", LEADS)


def restarted(database: Database, size: int) -> list[float]:
    """Restart the server; return after how many seconds each lock was held again."""
    database.server.stop("fast")  # type: ignore[attr-defined]
    database.server.start()  # type: ignore[attr-defined]
    answers = time.time()
    return [at - answers for at in await_held(database, answers - 1, size)]


def postgres_restarted(size: int) -> None:
    """Measure it for one size."""
    with server(max_connections=str(size + 60)) as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LONG)
        [node] = nodes(database, "a", programs=sleepers(size), lease=LONG, log="error")
        wait_for(lambda: len(node.leading()) == size, 300, "all are led")
        time.sleep(3)
        note("PostgreSQL restarted", "each lock held again after", OURS, restarted(database, size), "s", size)


def main() -> None:
    """Print the figures."""
    if shutil.which("cc"):
        stopped()
    else:
        lacking("node stopped", OURS, "there is no C compiler for the child")
    for size in SIZES:
        postgres_restarted(size)


if __name__ == "__main__":
    main()
