"""How long it takes until a node whose worker was killed holds each of its locks again.

From SIGKILL to the statement that took a lock back, for each program, by the server's clock, which is this machine's.
A lock is held when PostgreSQL shows it as one of the session that the row names. A worker that has replaced another one
has one session for many programs, so each daemon's worker is killed twice: "once more" is the second time. Beside it
what the server alone needs: so many bare sessions, opened one after the other as fast as it lets them.
``REPLACEMENT_PROGRAMS`` changes the sizes.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, closing

import psycopg

from tests.support.nodes import Node, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

from .bed import daemons, server, sleepers
from .results import OURS, note

SIZES = tuple(map(int, os.environ.get("REPLACEMENT_PROGRAMS", "1,10,100,1000").split(",")))
DAEMONS = 2
ROUNDS = 2
"""Of each daemon: it begins with a session for each program, and goes on with one for many."""
PAUSE = 10.5
"""Seconds between two rounds: a worker that dies younger than ten seconds is replaced after a pause."""
PART = "worker replaced"
LEASE = 30.0
"""Seconds: no renewal comes between a reattachment and the question when it was."""
HELD = """
SELECT extract(epoch FROM r.expires_at - r.trusted_for)::float8
  FROM highlander.lease AS r
  JOIN pg_locks AS l ON l.pid = r.backend_pid AND ((l.classid::bigint << 32) | l.objid::bigint) = r.lock_id
 WHERE r.backend_start > %s AND r.released_at IS NULL AND l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
"""


def await_held(database: Database, since: float, programs: int) -> list[float]:
    """Wait until so many locks are held by sessions that began later; return when each was taken (``time.time()``)."""

    def held() -> list[float]:
        taken = [at for (at,) in database.sql(HELD, [since * 1e6])]
        return taken if len(taken) == programs else []

    return wait_for(held, 60, "every lock is held again")


def held_again(node: Node, database: Database, programs: int) -> list[float]:
    """Kill the worker; return after how many seconds each lock was held again."""
    worker, killed = node.worker, time.time()
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.01 if programs == 1 else programs / 250)  # a question takes the server's time, too
    return [at - killed for at in await_held(database, killed, programs)]


def bare_sessions(database: Database, count: int) -> float:
    """Return the seconds that so many sessions take which do nothing."""
    with ExitStack() as opened:
        begun = time.monotonic()
        for _ in range(count):
            opened.enter_context(closing(psycopg.connect(database.dsn)))
        return time.monotonic() - begun


def measure(database: Database, programs: int) -> list[list[float]]:
    """Kill the worker of a node with so many programs, several times; return what each round has found."""
    with daemons() as nodes:
        settled_ledger(database, LEASE)
        [node] = nodes(database, "a", programs=sleepers(programs), lease=LEASE, log="error")
        wait_for(lambda: len(node.leading()) == programs, 120, "all are led")
        rounds = []
        for _ in range(ROUNDS):
            time.sleep(PAUSE)
            rounds.append(held_again(node, database, programs))
        return rounds


def report(programs: int, when: str, rounds: list[list[float]]) -> None:
    """Print the figures of rounds that began alike."""
    note(PART, f"each lock held again after{when}", OURS, [at for one in rounds for at in one], "s", programs)
    note(PART, f"last lock held again after{when}", OURS, [max(one) for one in rounds], "s", programs)


def main() -> None:
    """Print the figures."""
    with server(max_connections=str(2 * max(SIZES) + 50)) as cluster:
        for programs in SIZES:
            measured = [measure(cluster.database(), programs) for _ in range(DAEMONS)]
            report(programs, "", [first for first, *_ in measured])
            report(programs, ", once more", [later for _, *others in measured for later in others])
            database = cluster.database()
            bare = [bare_sessions(database, programs) for _ in range(3)]
            note(PART, "last session opened after", "bare sessions, in turn", bare, "s", programs)


if __name__ == "__main__":
    main()
