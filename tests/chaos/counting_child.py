"""A child that counts in PostgreSQL, as fenced as it can be: each transaction asks ``assert_leader`` first.

It reads the counter into memory, waits a little, and writes one more: two such children at once would lose an update.
It never believes that its term is over: it asks on until it is killed, so that the fence has something to do.
Beside that it keeps the journal (``journal_child.py``), in which it notes ``asked`` before each COMMIT, and
``committed`` once that was acknowledged without a warning. Started by path, with COUNTER_DSN in its environment.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "children"))

from journal_child import WHO, begin, live, tell

PROGRAM, LOCK_ID, EPOCH = WHO[0], int(WHO[1]), int(WHO[2])
THINKING = 0.03
"""Seconds between reading and writing, at most."""
PONDERING = 1.0
"""The same in one transaction of ten: it may span the end of the term, and the next one's first transactions."""
PAUSE = 0.1
"""Seconds between two transactions, at most; and before the next attempt."""


def count() -> None:
    """Count for ever, on one connection after the other."""
    import psycopg  # takes a while: the first line was written long before

    while True:
        try:
            with psycopg.connect(os.environ["COUNTER_DSN"], autocommit=True) as connection:
                warned: list[object] = []
                connection.add_notice_handler(warned.append)
                while True:
                    increment(connection, warned)
                    time.sleep(random.uniform(0, PAUSE))
        except psycopg.Error:
            time.sleep(PAUSE)


def increment(connection: object, warned: list[object]) -> None:
    """Count one further. Raises psycopg.Error, after which nobody knows whether it is counted."""
    run = connection.execute  # type: ignore[attr-defined]  # psycopg is not imported yet where this is read
    run("BEGIN")
    run("SELECT highlander.assert_leader(%s, %s)", (LOCK_ID, EPOCH))
    [value] = run("SELECT value FROM shop.counter WHERE program = %s", (PROGRAM,)).fetchone()
    time.sleep(random.uniform(0, PONDERING if random.random() < 0.1 else THINKING))
    run("UPDATE shop.counter SET value = %s WHERE program = %s", (value + 1, PROGRAM))
    run("INSERT INTO shop.counted (program, epoch, value) VALUES (%s, %s, %s)", (PROGRAM, EPOCH, value + 1))
    warned.clear()
    tell("asked")
    run("COMMIT")
    if not warned:
        tell("committed")


if __name__ == "__main__":
    begin(*sys.argv[1:])
    threading.Thread(target=count, daemon=True).start()
    live()
