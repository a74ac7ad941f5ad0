"""How long it takes from the command to the first child: ours, and supervisors of one host.

The child is a small C program, which says when it begins; the ledger is there. Each is started as by a shell.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from highlanderd.system.linux import boottime
from tests.support.nodes import PACKAGE, Node, settled_ledger
from tests.support.postgres import Cluster

from .bed import daemons, program, server
from .lives import Lives
from .results import OURS, lacking, note
from .supervisors import SUPERVISORS, fetch

ROUNDS = 15
LEASE = 10.0
PART = "start"
WHAT = "command to first child"


def ours(cluster: Cluster) -> float:
    """Return the milliseconds that a daemon takes; each has a ledger of its own, so nothing has to be waited for."""
    with tempfile.TemporaryDirectory(prefix="hl-lives-") as place, daemons() as nodes:
        lives, database = Lives(Path(place)), cluster.database()
        settled_ledger(database, LEASE)
        node = Node("a", nodes.directory / "a", database.dsn, LEASE, nodes.journal)
        node.configure(program("beat", lives.command), log="info")
        node.environment = {"PYTHONPATH": str(PACKAGE)}
        nodes.nodes.append(node)
        began = boottime()
        node.start()
        return 1000 * (lives.await_number(1).began - began)


def theirs(who: str) -> float | None:
    """Return the milliseconds that a supervisor takes; None where it cannot be fetched."""
    with tempfile.TemporaryDirectory(prefix="hl-start-") as home, tempfile.TemporaryDirectory() as place:
        lives, began = Lives(Path(place)), boottime()
        with SUPERVISORS[who](Path(home), lives.command, 1) as found:
            return None if found is None else 1000 * (lives.await_number(1).began - began)


def main() -> None:
    """Print a row for each."""
    if not shutil.which("cc"):
        lacking(PART, OURS, "there is no C compiler for the child")
        return
    fetch()
    with server() as cluster:
        ways: dict[str, Callable[[], float | None]] = {OURS: partial(ours, cluster)}
        ways |= {who: partial(theirs, who) for who in SUPERVISORS}
        found: dict[str, list[float]] = {who: [] for who in ways}
        for _ in range(ROUNDS):
            for who, way in ways.items():  # in turns: whatever else the machine does meets all of them
                if (taken := way()) is not None:
                    found[who].append(taken)
                time.sleep(0.2)
    for who, times in found.items():
        if times:
            note(PART, WHAT, who, times, "ms")
        else:
            lacking(PART, who, "it could not be fetched from PyPI")


if __name__ == "__main__":
    main()
