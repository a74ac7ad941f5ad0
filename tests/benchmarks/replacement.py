"""How long it takes until a node whose worker was killed holds each of its locks again.

From SIGKILL to the statement that took a lock back, for each program, by the server's clock, which is this machine's.
Beside it what the server alone needs: so many bare sessions, opened one behind the other as fast as it lets them.
``REPLACEMENT_PROGRAMS`` changes the sizes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from statistics import median

import psycopg

from tests.support.nodes import Node, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

from .bed import daemons, server

SIZES = tuple(map(int, os.environ.get("REPLACEMENT_PROGRAMS", "1,100,1000").split(",")))
ROUNDS = 5
LEASE = 30.0
"""Seconds: no renewal comes between a reattachment and the question when it was."""
GOALS = {1: 0.05, 100: 0.3, 1000: 2.0}
HELD = """
SELECT extract(epoch FROM expires_at - trusted_for)::float8, backend_start / 1e6::float8 FROM highlander.lease
 WHERE backend_start > %s AND released_at IS NULL
"""


def held_again(node: Node, database: Database, programs: int) -> list[tuple[float, float]]:
    """Kill the worker; return for each program after how long its session began, and held the lock."""
    worker, killed = node.worker, time.time()
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.01 if programs == 1 else programs / 250)  # a question takes the server's time, too

    def held() -> list[tuple[float, float]]:
        rows = database.sql(HELD, [killed * 1e6])
        return rows if len(rows) == programs else []

    found = wait_for(held, 60, "every lock is held again")
    return [(began - killed, at - killed) for at, began in found]


def bare_sessions(database: Database, count: int) -> float:
    """Return the seconds that so many sessions take which do nothing."""
    with ExitStack() as opened:
        begun = time.monotonic()
        for _ in range(count):
            opened.enter_context(closing(psycopg.connect(database.dsn)))
        return time.monotonic() - begun


def measure(database: Database, programs: int) -> Iterator[str]:
    """Yield a line for each figure of one size."""
    text = "".join(f'[program.p{number}]\ncommand = ["sleep", "infinity"]\n' for number in range(programs))
    with daemons() as nodes:
        settled_ledger(database, LEASE)
        [node] = nodes(database, "a", programs=text, lease=LEASE, log="info")
        wait_for(lambda: len(node.leading()) == programs, 120, "all are led")
        rounds = []
        for _ in range(ROUNDS):
            time.sleep(2)  # what the last round has left to do is done
            node.worker  # noqa: B018 - it is there
            rounds.append(held_again(node, database, programs))
    first, middle, last = (
        median(sorted(at for _, at in one)[place] for one in rounds) for place in (0, programs // 2, -1)
    )
    began = median(min(began for began, _ in one) for one in rounds)
    yield (
        f"{programs:5} led: first session {began:.3f} s, first lock {first:.3f}, half {middle:.3f}, all {last:.3f} "
        f"(worst of {ROUNDS}: {max(at for one in rounds for _, at in one):.3f}); goal {GOALS.get(programs, 0)}"
    )


def main() -> None:
    """Print the figures."""
    with server(max_connections=str(2 * max(SIZES) + 50)) as cluster:
        for programs in SIZES:
            database = cluster.database()
            for line in measure(database, programs):
                print(f"  {line}", flush=True)
            print(f"  {programs:5} bare sessions, one behind the other: {bare_sessions(database, programs):.3f} s")
    print(f"  load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
