"""What a long history costs a handover: a program with no history beside one with a million terms.

Both programs are led by the same two daemons, through one ledger, and released in turn, so that whatever else the
machine does meets both. Measured from the old child's last act to the first line of the new one, by their journal.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median

from highlanderd.core.key import lock_id
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

from .bed import daemons, milliseconds, server

TERMS = 1_000_000
ROUNDS = 40
LEASE = 10.0
BETWEEN = 0.3
"""Seconds between two rounds: longer than the backoff, so that both nodes are candidates again."""
GOAL = 10
"""Per cent."""
EMPTY, FULL = "empty", "full"
FILL = """
INSERT INTO highlander.term (lock_id, epoch, program, node, acquired_at, ended_at, reason)
SELECT %s, n, %s, 'x', now() - interval '1 second' * (%s - n + 1), now() - interval '1 second' * (%s - n), 'released'
  FROM generate_series(1, %s) AS n
"""
COUNT = "SELECT count(*) FROM highlander.term WHERE program = %s"


def fill(database: Database) -> float:
    """Write the history, and return the seconds that it took."""
    began = time.perf_counter()
    database.sql(FILL, [lock_id("highlander", FULL), FULL, TERMS, TERMS, TERMS])
    database.sql("VACUUM ANALYZE highlander.term")
    return time.perf_counter() - began


def release(nodes: Nodes, program: str) -> None:
    """Hand a program over to the other node."""
    before = len(nodes.journal.lives(program))
    name = nodes.life(program).node
    leader = next(node for node in nodes.nodes if node.name == name)
    leader.control.order(program, "release", {})()
    wait_for(partial(lives_more_than, nodes, program, before), what=f"{program} is led by another node")


def lives_more_than(nodes: Nodes, program: str, count: int) -> bool:
    """Whether a program has lived more often than that. Asks nobody: a question would cost what is measured."""
    return len(nodes.journal.lives(program)) > count


def main() -> None:
    """Print the figures."""
    with server() as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        took = fill(database)
        programs = "".join(f"[program.{name}]\nbackoff = 0.1\nbackoff_max = 0.1\n" for name in (EMPTY, FULL))
        nodes(database, "a", "b", programs=programs, lease=LEASE)
        nodes.await_led(EMPTY, FULL)
        for number in range(2 * ROUNDS):
            time.sleep(BETWEEN)
            release(nodes, (EMPTY, FULL)[number % 2])
        gaps = {name: nodes.journal.gaps(name) for name in (EMPTY, FULL)}
        left, doubles = {name: database.sql(COUNT, [name])[0][0] for name in gaps}, nodes.journal.doubles()
    more = 100 * (median(gaps[FULL]) / median(gaps[EMPTY]) - 1)
    print(f"  {TERMS:,} terms written in {took:.0f} s; {left[FULL]:,} of them and of {ROUNDS} new ones are left")
    print(f"  release, empty history         {milliseconds(gaps[EMPTY])}")
    print(f"  release, a million terms       {milliseconds(gaps[FULL])}")
    print(f"  more than with an empty one    {more:+.1f} %   (goal: under {GOAL} %)")
    print(f"  doubled                        {doubles or 'never'}")


if __name__ == "__main__":
    main()
