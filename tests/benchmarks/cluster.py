"""What the shared view of a cluster costs, and how long an order to another node takes.

Prints writes per second and bytes of WAL for presence beside those of the renewals, how long commands that read take,
and how long an order needs from one node to another and back. ``CLUSTER_PROGRAMS`` and ``CLUSTER_SECONDS`` change the
size.
"""

from __future__ import annotations

import os
import re
import sys
import time
from functools import partial
from pathlib import Path

from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

from .bed import daemons, milliseconds, server, sleepers, timed, whole

PROGRAMS = int(os.environ.get("CLUSTER_PROGRAMS", "500"))
SECONDS = float(os.environ.get("CLUSTER_SECONDS", "60"))
LEASE = 10.0
TIMES = 30
WRITES = """
SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
 WHERE schemaname = 'highlander' AND relname IN ('lease', 'node', 'candidate')
"""
RENEWED = "UPDATE highlander.lease SET renewal = renewal + 1, expires_at = clock_timestamp() WHERE program = 'p0'"
SEEN = "UPDATE highlander.node SET seen = clock_timestamp() WHERE name = 'a'"
GOALS = (
    "goals: presence below a tenth of the renewals; status under 100 ms, cluster and history under 300; "
    "an order under 50 ms"
)


def writes(database: Database) -> dict[str, int]:
    return {str(name): int(number) for name, number in database.sql(WRITES, admin=True)}


def wal_of(database: Database, statement: str) -> int:
    """Return the bytes of WAL of one more such statement, in a transaction that is rolled back."""
    plan = database.sql(f"EXPLAIN (ANALYZE, WAL, COSTS off, TIMING off) {statement}", admin=True)
    found = re.search(r"WAL: records=\d+.* bytes=(\d+)", "\n".join(str(line) for (line,) in plan))
    return 0 if found is None else int(found[1])


def load(database: Database) -> None:
    before, begun = writes(database), time.monotonic()
    time.sleep(SECONDS)
    after, lasted = writes(database), time.monotonic() - begun
    rates = {name: (after[name] - before.get(name, 0)) / lasted for name in after}
    renewed, seen = wal_of(database, RENEWED), wal_of(database, SEEN)
    print(f"  renewals    {rates['lease']:7.2f} writes/s of {renewed} bytes of WAL each")
    print(f"  presence    {rates['node'] + rates['candidate']:7.2f} writes/s of {seen} bytes of WAL each")


def python(*arguments: str | Path) -> list[float]:
    """Return the seconds that Python takes for these arguments, each time."""
    return timed(partial(whole, [sys.executable, *arguments]), TIMES)


def orders(first: Node, other: Node) -> list[float]:
    """Send a signal that changes nothing to a program that the other node leads: its child adds nothing to the time."""
    name = next(iter(other.leading()))

    def order() -> None:
        first.control.order(name, "signal", {"signal": "CONT"})()

    return timed(order, TIMES)


def main() -> None:
    """Print the figures."""
    programs = sleepers(PROGRAMS)
    with server(max_connections=str(3 * PROGRAMS + 50)) as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        _start(nodes, database, programs)
        load(database)
        first = nodes.nodes[0]
        print(f"  {'python':12}{milliseconds(python('-c', 'pass'))}, with nothing to do")
        for line in (["status"], ["cluster"], ["history"], ["events"], ["explain", "p0"], ["version"]):
            print(f"  {line[0]:12}{milliseconds(python('-m', 'highlanderd.ctl', '--socket', first.socket, *line))}")
        leader = max(nodes.nodes, key=lambda node: len(node.leading()))
        asking = next(node for node in nodes.nodes if node is not leader)
        print(f"  an order    {milliseconds(orders(asking, leader))}, there and back")
        print(f"  {GOALS}")


def _start(nodes: Nodes, database: Database, programs: str) -> None:
    nodes(database, "a", "b", "c", programs=programs, lease=LEASE, log="info")
    wait_for(lambda: sum(len(node.leading()) for node in nodes.nodes) == PROGRAMS, 300, "all are led")
    time.sleep(3 * LEASE)


if __name__ == "__main__":
    main()
