"""Claims about the history against real PostgreSQL: which terms are read, what two nodes say, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time

import psycopg
import pytest

from highlanderd.core.events import Granted
from highlanderd.core.occurrences import ENDED, LED
from highlanderd.core.terms import Former, PastTerm
from highlanderd.errors import HighlanderError
from highlanderd.postgres.history import History
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.sql.leading import END_TERM
from tests.support.commands import highlanderctl
from tests.support.memory_node import run
from tests.support.nodes import Nodes, ends, settled_ledger
from tests.support.postgres import Cluster, Database
from tests.support.session import LEASE, Desk, Line, desk, settle
from tests.support.wait import until, wait_for

WRITE = """
INSERT INTO highlander.term (lock_id, epoch, program, node, acquired_at, ended_at, reason)
SELECT id, epoch, program, node, '2026-01-02 03:00:00.25Z'::timestamptz + make_interval(secs => began),
       '2026-01-02 03:00:00.25Z'::timestamptz + make_interval(secs => ended), reason
  FROM (VALUES (7, 4294967297, 'beat', 'a', 0, 60, 'released'), (7, 4294967298, 'beat', 'b', 61.5, 90, 'lapsed'),
               (7, 4294967299, 'beat', 'a', 90, NULL, NULL), (-8, 1, 'relay', 'c', 30, 70, 'finished'))
       AS t (id, epoch, program, node, began, ended, reason)
"""
LOCK_IDS = [7, -8]
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"


def written(database: Database) -> Database:
    """Return a database whose ledger holds four terms of two lock ids."""
    settled_ledger(database, LEASE)
    database.sql(WRITE)
    return database


async def connected(pool: Pool) -> History:
    await until(lambda: pool.listener.connected)
    return History(pool)


def test_the_newest_terms_are_read_with_the_gaps_before_them(database: Database) -> None:
    async def main() -> None:
        async with desk(written(database).dsn) as one:
            history = await connected(one.pool)
            terms = await history.read(LOCK_IDS, 100)
            assert [(term.program, term.epoch, term.gap, term.cause) for term in terms] == [
                ("beat", 4294967297, None, "released"),
                ("relay", 1, None, "finished"),
                ("beat", 4294967298, 1.5, "lapsed"),
                ("beat", 4294967299, 0.0, None),
            ]
            before = Former(4294967297, "a", "released")
            began, ended = "2026-01-02T03:01:01.750Z", "2026-01-02T03:01:30.250Z"
            assert terms[2] == PastTerm("beat", 4294967298, "b", began, ended, 28.5, "lapsed", before, 1.5)
            assert terms[3].ended is None
            assert terms[3].lasted > 0
            newest = await history.read(LOCK_IDS, 2)
            assert newest[0] == terms[2]
            assert [term.epoch for term in newest] == [4294967298, 4294967299]
            assert await history.read([-8], 100) == (terms[1],)
            assert await history.read([], 100) == ()
            late = "UPDATE highlander.term SET scheduled_at = acquired_at - interval '250 ms' WHERE lock_id = 7"
            database.sql(f"{late} AND epoch > 4294967297")
            found = [
                (term.late, term.former and term.former.scheduled, term.unled) for term in await history.read([7], 9)
            ]
            assert found == [(None, None, None), (0.25, None, 0.25), (0.25, "2026-01-02T03:01:01.500Z", 0.0)]

    run(main)


def test_a_term_whose_beginning_was_never_written_is_in_the_history_once_it_has_ended(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line = await one.line()
            settle(database)
            granted = await line.lead()
            await until(lambda: database.sql("SELECT epoch FROM highlander.term") == [(granted.epoch,)])
            database.sql("DELETE FROM highlander.term")  # as if the session had been lost before
            await line.release(granted.epoch)
            found = "SELECT epoch, reason, ended_at IS NOT NULL FROM highlander.term"
            await until(lambda: database.sql(found) == [(granted.epoch, "released", True)])

    run(main)


def test_a_term_whose_node_was_lost_before_it_could_write_that_it_began_is_in_the_history(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line = await one.line()
            settle(database)
            lost = await line.lead()
            await until(lambda: database.sql("SELECT epoch FROM highlander.term") == [(lost.epoch,)])
            [(began,)] = database.sql("DELETE FROM highlander.term RETURNING acquired_at")
            granted = await line.lead()  # its row says that it leads, and it has no child
            found = "SELECT epoch, node, acquired_at = %s, reason, ended_at IS NULL FROM highlander.term ORDER BY epoch"
            await until(lambda: len(database.sql(found, [began])) == 2)
            assert database.sql(found, [began]) == [
                (lost.epoch, "n1", True, "lapsed", False),
                (granted.epoch, "n1", False, None, True),
            ]

    run(main)


def test_a_term_that_lapsed_ends_with_its_lease_however_long_nobody_took_over(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line = await one.line()
            settle(database)
            lost = await line.lead()
            await until(lambda: database.sql("SELECT epoch FROM highlander.term") == [(lost.epoch,)])
            earlier = "expires_at = expires_at - interval '1 hour', acquired_at = acquired_at - interval '2 hours'"
            [(over,)] = database.sql(f"UPDATE highlander.lease SET {earlier} RETURNING expires_at")
            database.sql("UPDATE highlander.term SET acquired_at = (SELECT acquired_at FROM highlander.lease)")
            await line.lead()
            found = "SELECT reason, ended_at FROM highlander.term ORDER BY epoch LIMIT 1"
            await until(lambda: database.sql(found) == [("lapsed", over)])
            [_, newer] = await (await connected(one.pool)).read([line.lock_id], 9)
            assert newer.gap is not None
            assert newer.gap > 3000

    run(main)


async def _released(here: Desk, database: Database) -> tuple[Line, Granted]:
    """Return a line that has led for the first time, with that term: it was released, and the history says so."""
    line = await here.line()
    settle(database)
    first = await line.lead()
    await line.release(first.epoch)
    await until(lambda: database.sql("SELECT reason FROM highlander.term") == [("released",)])
    return line, first


def test_an_end_that_the_history_could_not_be_told_of_is_told_by_the_next_leader(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line, first = await _released(one, database)
            [(over,)] = database.sql("SELECT least(released_at, expires_at) FROM highlander.lease")
            database.sql("DELETE FROM highlander.term")
            second = await line.lead()
            found = "SELECT epoch, reason, ended_at FROM highlander.term ORDER BY epoch"
            await until(lambda: database.sql(found) == [(first.epoch, "released", over), (second.epoch, None, None)])

    run(main)


def test_the_former_leader_may_tell_of_its_end_after_the_next_one_has(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line, first = await _released(one, database)
            database.sql("UPDATE highlander.term SET reason = NULL, ended_at = NULL")
            second = await line.lead()
            await until(lambda: len(database.sql("SELECT epoch FROM highlander.term")) == 2)
            [(over,)] = database.sql("SELECT ended_at FROM highlander.term WHERE ended_at IS NOT NULL")
            end = Ledger("highlander", "highlander", LEASE).statement("end_term", END_TERM).sql
            with psycopg.connect(database.dsn) as teller:
                teller.execute(f"PREPARE x AS {end}".encode())
                told = f"{line.lock_id}, {first.epoch}, 'stopped', 3, NULL, 'uid 7', 'late'"
                teller.execute(f"EXECUTE x({told})".encode())
            found = "SELECT reason, exit_status, author, ended_at FROM highlander.term WHERE epoch < %s"
            assert database.sql(found, [second.epoch]) == [("stopped", 3, "uid 7", over)]

    run(main)


def test_an_end_is_no_event_before_the_former_leader_has_told_of_it_or_could_have(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            await _released(one, database)
            history = await connected(one.pool)
            untold = "UPDATE highlander.term SET exit_status = NULL, exit_signal = NULL, author = NULL, ended_at = "
            database.sql(f"{untold} clock_timestamp() + interval '1 hour'")  # just now
            assert [found.event for found in await history.events(9)] == [LED]
            database.sql("UPDATE highlander.term SET author = 'ann'")
            assert [(found.event, found.author) for found in await history.events(9)] == [(LED, None), (ENDED, "ann")]
            database.sql(f"{untold} acquired_at, acquired_at = acquired_at - interval '1 minute'")
            database.sql("UPDATE highlander.term SET ended_at = ended_at - interval '30 seconds'")
            assert [found.event for found in await history.events(9)] == [LED, ENDED]

    run(main)


def test_an_end_that_was_written_after_the_takeover_is_not_that_of_the_takeover(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line, _ = await _released(one, database)
            [(over,)] = database.sql("SELECT ended_at FROM highlander.term")
            database.sql("UPDATE highlander.term SET ended_at = ended_at + interval '1 hour', reason = 'fenced'")
            await line.lead()
            found = "SELECT reason, ended_at FROM highlander.term ORDER BY epoch LIMIT 1"
            await until(lambda: database.sql(found) == [("fenced", over)])

    run(main)


def test_two_nodes_lost_in_a_row_do_not_overlap_in_the_history(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line = await one.line()
            settle(database)
            await line.lead()
            await until(lambda: len(database.sql("SELECT epoch FROM highlander.term")) == 1)
            second = await line.lead()
            await until(lambda: len(database.sql("SELECT epoch FROM highlander.term")) == 2)
            database.sql("DELETE FROM highlander.term WHERE epoch = %s", [second.epoch])
            database.sql("UPDATE highlander.term SET ended_at = NULL, reason = NULL")
            await line.lead()
            await until(lambda: len(database.sql("SELECT epoch FROM highlander.term")) == 3)
            terms = await (await connected(one.pool)).read([line.lock_id], 9)
            assert [term.overlaps for term in terms] == [False, False, False]
            assert [term.cause for term in terms] == ["lapsed", "lapsed", None]

    run(main)


def test_what_the_row_tells_of_a_term_stands_in_the_history_that_does_not(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            line, history = await one.line(), await connected(one.pool)
            settle(database)
            for _ in range(3):
                granted = await line.lead()
                await line.release(granted.epoch)
            last = await line.lead()
            await until(lambda: len(database.sql("SELECT epoch FROM highlander.term")) == last.epoch)
            database.sql("DELETE FROM highlander.term WHERE epoch IN (1, 3, 4)")
            [second, fourth] = await history.read([line.lock_id], 9)
            assert [(one.epoch, one.unwritten, one.cause) for one in (second, fourth)] == [
                (2, 1, "released"),
                (4, 1, None),
            ]
            assert not fourth.overlaps
            database.sql("UPDATE highlander.lease SET expires_at = acquired_at + interval '1 ms'")
            [_, fourth] = await history.read([line.lock_id], 9)
            assert (fourth.cause, fourth.lasted) == ("lapsed", 0.001), "its leader has fallen silent"
            await line.release(last.epoch)
            database.sql("DELETE FROM highlander.term")
            [fourth] = await history.read([line.lock_id], 9)
            assert (fourth.epoch, fourth.unwritten, fourth.cause) == (4, 3, "released")

    run(main)


def test_a_term_that_lapsed_under_another_lock_key_ends_in_the_history(database: Database) -> None:
    async def main() -> None:
        async with desk(database.dsn) as one:
            former, line = await one.line(key="former"), await one.line()
            settle(database)
            lapsed = await former.lead()
            former.session.close()
            granted = await line.lead()
            found = "SELECT lock_id, epoch, reason FROM highlander.term"
            terms = {(former.lock_id, lapsed.epoch, "lapsed"), (line.lock_id, granted.epoch, None)}
            await until(lambda: set(database.sql(found)) == terms)

    run(main)


def test_no_session_is_left_of_a_question_and_no_other_session_waits_for_one(database: Database) -> None:
    async def main() -> None:
        async with desk(written(database).dsn) as one:
            history = await connected(one.pool)
            [(before,)] = database.sql(SESSIONS, [database.role], admin=True)
            with psycopg.connect(database.dsn) as blocker:
                blocker.execute("LOCK highlander.term IN ACCESS EXCLUSIVE MODE")
                asked = asyncio.ensure_future(history.read(LOCK_IDS, 100))
                await until(lambda: database.sql(WAITING, [database.role], admin=True) == [(1,)])
                await one.pool.listener.survey()
                assert not asked.done(), "the history was read in spite of the lock"
                blocker.rollback()
            assert len(await asked) == 4
            await until(lambda: database.sql(SESSIONS, [database.role], admin=True) == [(before,)])

    run(main)


def test_a_role_that_may_not_read_the_history_is_told_the_grant(database: Database) -> None:
    async def main() -> None:
        async with desk(written(database).dsn) as one:
            history = await connected(one.pool)
            database.sql(f'REVOKE SELECT ON highlander.term FROM "{database.role}"')
            grant = f'GRANT SELECT ON "highlander".term TO "{database.role}"'
            with pytest.raises(HighlanderError, match="may not read the history") as refused:
                await history.read(LOCK_IDS, 100)
            assert str(refused.value).endswith(f"let an administrator run: {grant}")
            database.sql(grant)
            assert len(await history.read(LOCK_IDS, 100)) == 4

    run(main)


def test_without_postgresql_the_reason_is_told(cluster: Cluster) -> None:
    async def main() -> None:
        async with desk(written(cluster.database()).dsn) as one:
            history = await connected(one.pool)
            cluster.stop()
            with pytest.raises(HighlanderError, match="PostgreSQL does not answer: "):
                await history.read(LOCK_IDS, 100)

    run(main)


def test_every_node_tells_what_happened_and_when_a_program_had_finished(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    once = '[program.once]\ncommand = ["true"]\nrestart = "never"\n'
    nodes(database, "a", "b", programs=f"[program.beat]\n{once}", lease=LEASE)
    first = nodes.await_led("beat")["beat"]
    assert highlanderctl(first.socket, "release", "beat", "--reason", "disk full").code == 0
    nodes.await_led("beat", without=first)
    told = "SELECT program, coalesce(exit_signal, exit_status::text) IS NOT NULL FROM highlander.term ORDER BY 1, epoch"
    known = [("beat", True), ("beat", False), ("once", True)]
    wait_for(lambda: database.sql(told) == known, what="the history has every term, and how those that are over ended")
    for node in nodes.nodes:
        done = highlanderctl(node.socket, "wait", "once", "--for", "finished")
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("once: finished on ")
        terms = json.loads(highlanderctl(node.socket, "history", "beat", "--json").out)["terms"]
        [old, new] = terms
        assert (old["node"], old["epoch"], old["cause"], old["gap"]) == (first.name, 1, "released", None)
        assert re.fullmatch(rf"uid {os.getuid()}( \(.+\))? on node {first.name}", old["author"])
        assert old["reason"] == "disk full"
        assert (old["exit_status"] is None) != (old["exit_signal"] is None), "how its main process ended"
        assert (new["epoch"], new["cause"], new["to"]) == (2, None, None)
        assert new["gap"] > 0
        summary = highlanderctl(node.socket, "history", "--summary")
        assert (summary.code, summary.err) == (0, "")
        assert "\n3 terms since " in summary.out
        assert highlanderctl(node.socket, "history", "baet").code == 4
    begun = "SELECT previous_node, extract(epoch FROM lease) FROM highlander.term WHERE program = 'beat' ORDER BY epoch"
    assert database.sql(begun) == [(None, LEASE), (first.name, LEASE)]
    [(status,)] = database.sql("SELECT exit_status FROM highlander.term WHERE program = 'once'")
    assert status == 0
    later = "ended_at = ended_at + interval '1 hour'"
    database.sql(f"UPDATE highlander.term SET {later} WHERE program = 'beat' AND epoch = 1")
    summary = highlanderctl(first.socket, "history", "--summary")
    assert summary.code == 1
    other = next(node.name for node in nodes.nodes if node is not first)
    assert f"epoch 2 on {other} began at " in summary.err
    assert f"before epoch 1 on {first.name} ended" in summary.err


def test_a_term_ends_no_later_than_the_next_began_whichever_is_written_first(nodes: Nodes, database: Database) -> None:
    """The next leader is in the row before it is in the history; the former one may write its own end in between."""
    settled_ledger(database, LEASE)
    nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    wait_for(lambda: database.sql("SELECT 1 FROM highlander.term"), what="the term is in the history")
    database.sql("UPDATE highlander.term SET epoch = epoch - 1, node = 'b', acquired_at = acquired_at - interval '9 s'")
    [(lock_id, epoch, began)] = database.sql("SELECT lock_id, epoch, acquired_at FROM highlander.lease")
    end = Ledger("highlander", "highlander", LEASE).statement("end_term", END_TERM).sql
    with psycopg.connect(database.dsn, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
        connection.execute(end.encode(), [lock_id, epoch - 1, "released", None, None, None, None])
    assert database.sql("SELECT node, ended_at FROM highlander.term") == [("b", began)]


@pytest.mark.long
def test_a_term_that_postgresql_hears_of_late_ends_with_its_lease_and_the_gap_after_it_shows(
    nodes: Nodes, cluster: Cluster
) -> None:
    database, lease = cluster.database(), 2.0
    settled_ledger(database, lease)
    [node] = nodes(database, "a", programs=["beat"], lease=lease)
    nodes.await_led("beat")
    cluster.stop()
    wait_for(lambda: node.program("beat")["pid"] is None, what="the child was fenced")
    time.sleep(2 * lease)
    cluster.start()
    wait_for(lambda: len(nodes.journal.lives("beat")) == 2, what="beat is led again")
    wait_for(lambda: ends(database, "beat") == ["fenced", None], what="the end is in the history")
    [found] = json.loads(highlanderctl(node.socket, "history", "--summary", "--json").out)["programs"]
    [gaps] = found["gaps"]
    assert gaps["cause"] == "fenced"
    assert gaps["longest"] > lease
