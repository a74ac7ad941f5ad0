"""Claims about schedules in a cluster: one run for each time, across the loss of a node, or a skip with a reason.

A program that is due once a year is made late in the ledger: no test waits for a time to come.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, settled_ledger
from tests.support.postgres import Cluster, Database
from tests.support.wait import wait_for

LEASE = 6.0
YEARLY = '[program.yearly]\nschedule = "0 0 1 1 *"\ncatch_up = "366d"\ncommand = ["sh", "-c", "{}"]\n'
WRITES = "echo $HIGHLANDER_SCHEDULED_AT >> $JOURNAL.runs; "
LATE = "UPDATE highlander.schedule SET latest = date_trunc('year', now(), 'UTC') - interval '{}'"


def runs(nodes: Nodes) -> list[str]:
    """Return the scheduled time that each run was told."""
    path = nodes.journal.path.with_name(nodes.journal.path.name + ".runs")
    return path.read_text().split() if path.exists() else []


def waits(*made: Node) -> None:
    wait_for(
        lambda: all(str(node.program("yearly")["reason"]).startswith("next run at ") for node in made),
        what="the next run is known",
    )


def next_run(node: Node) -> str:
    return str(node.program("yearly")["next_run"])


def seconds_until(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def history(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(highlanderctl(node.socket, "history", "yearly", "--json").out)
    return found


@pytest.mark.long
@pytest.mark.parametrize(("restart", "times"), [("on-failure", 2), ("never", 1)], ids=["repeated", "once"])
def test_a_run_whose_node_is_lost_is_repeated_for_the_same_time_if_it_may_be(
    nodes: Nodes, database: Database, restart: str, times: int
) -> None:
    settled_ledger(database, LEASE)
    programs = YEARLY.format(f"{WRITES}test $(wc -l < $JOURNAL.runs) -gt 1 || sleep 600") + f'restart = "{restart}"\n'
    a, b = nodes(database, "a", "b", programs=programs, lease=LEASE)
    waits(a, b)
    assert runs(nodes) == [], "no time before the first look counts"
    database.sql(LATE.format("1 day"))
    wait_for(lambda: runs(nodes) and "yearly" in nodes.leaders(), what="it runs")
    leader = nodes.leaders()["yearly"]
    other = b if leader is a else a
    leader.crash()
    ends = ["lapsed", "finished"][:times]
    wait_for(lambda: [term["cause"] for term in history(other)["terms"]] == ends, what="the history says how it ended")
    waits(other)
    assert len(runs(nodes)) == times
    assert len(set(runs(nodes))) == 1


def test_what_is_skipped_stands_in_the_history_with_its_reason(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=YEARLY.format(f"{WRITES}sleep 600"), lease=LEASE)
    waits(a)
    assert a.program("yearly")["next_run"].endswith("-01-01T00:00:00.000Z")
    assert highlanderctl(a.socket, "start", "yearly").code == 0
    wait_for(lambda: nodes.leaders().get("yearly") is a, what="it was started by hand")
    database.sql(LATE.format("1 day"))
    assert highlanderctl(a.socket, "stop", "--everywhere", "yearly").code == 0
    wait_for(lambda: a.program("yearly")["state"] not in ("leading", "draining"), what="it is stopped")
    started = highlanderctl(a.socket, "start", "--everywhere", "yearly").out
    assert started.startswith("yearly: waiting, next run at 2"), started
    waits(a)
    assert [(one["times"], one["cause"]) for one in history(a)["skipped"]] == [(1, "overlap")]
    assert highlanderctl(a.socket, "stop", "--everywhere", "yearly").code == 0
    database.sql("UPDATE highlander.wish SET since = now() - interval '2 years'")
    database.sql(LATE.format("1 year 1 day"))
    assert highlanderctl(a.socket, "start", "--everywhere", "yearly").code == 0
    wait_for(lambda: len(history(a)["skipped"]) == 2, what="what it was stopped for is noted")
    assert [(one["times"], one["cause"]) for one in history(a)["skipped"]] == [(1, "overlap"), (2, "stopped")]
    assert "skipped: stopped, 2 times until" in highlanderctl(a.socket, "history").out
    assert "skipped" in highlanderctl(a.socket, "events").out
    said = "yearly: next run at "  # which the daemon writes a second apart at most
    wait_for(lambda: said in highlanderctl(a.socket, "cluster").out, what="the cluster shows it, too")
    assert "next run at " in highlanderctl(a.socket, "explain", "yearly").out
    assert runs(nodes) == [], "it was run for no time"
    assert [term["scheduled"] for term in history(a)["terms"]] == [None]


def test_a_run_that_start_has_begun_is_repeated_by_restart_and_release(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=YEARLY.format(f"{WRITES}sleep 600"), lease=LEASE)
    waits(a)
    assert highlanderctl(a.socket, "start", "yearly").code == 0
    again = highlanderctl(a.socket, "restart", "yearly")
    assert (again.code, again.out.startswith("yearly: leading, epoch 2, pid ")) == (0, True), again
    assert highlanderctl(a.socket, "release", "yearly", "--for", "1s", "--force").code == 0
    wait_for(lambda: a.program("yearly")["epoch"] == 3 and nodes.leaders().get("yearly") is a, what="it runs again")
    assert highlanderctl(a.socket, "stop", "yearly", "--force").code == 0
    assert highlanderctl(a.socket, "start", "yearly").out.startswith("yearly: waiting, next run at "), "it is over"
    waits(a)
    ends = ["restarted", "released", "stopped"]
    wait_for(lambda: [term["cause"] for term in history(a)["terms"]] == ends, what="the history has all of it")
    assert [term["scheduled"] for term in history(a)["terms"]] == [None] * 3


@pytest.mark.long
def test_a_start_exits_with_the_failure_of_its_run_and_a_schedule_that_cannot_be_read_is_skipped_with_a_line(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    fails = YEARLY.format("exit 3")
    [a] = nodes(database, "a", programs=fails, lease=LEASE)
    waits(a)
    started = highlanderctl(a.socket, "start", "yearly")
    assert (started.code, started.out) == (1, "")
    assert "yearly failed: it ended with status 3" in started.err
    waits(a)
    former = "UPDATE highlander.schedule SET words = '0 0 1 1 * Mars/Olympus', taken_up = now() - interval '1 day', "
    database.sql(f"{former} latest = now() - interval '2 days'")
    a.configure(fails.replace("0 0 1 1", "0 0 2 1"))
    assert highlanderctl(a.socket, "reload").code == 0
    wait_for(lambda: history(a)["skipped"], what="what was open is noted")
    assert [(one["times"], one["cause"]) for one in history(a)["skipped"]] == [(0, "unreadable")]
    waits(a)
    assert a.program("yearly")["next_run"].endswith("-01-02T00:00:00.000Z")


@pytest.mark.long
def test_a_time_that_comes_in_an_outage_longer_than_catch_up_is_skipped(nodes: Nodes, cluster: Cluster) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    keys = f'schedule = "* * * * *"\ncatch_up = "1s"\ncommand = ["sh", "-c", "{WRITES}"]\n'
    a, b = nodes(database, "a", "b", programs="[program.yearly]\n" + keys, lease=LEASE)
    waits(a, b)
    wait_for(lambda: seconds_until(next_run(a)) > 10, 60, "there is time to stop the server")
    waits(a, b)  # what has just begun is over
    missed, ran = next_run(a), runs(nodes)
    cluster.stop()
    wait_for(lambda: seconds_until(missed) < -2, 90, "it has come, and cannot be caught up any more")
    cluster.start()
    nodes.await_up(a, b)
    wait_for(lambda: history(b)["skipped"], what="the skip is noted")
    [skipped] = history(b)["skipped"]
    assert (skipped["times"], skipped["cause"], skipped["from"]) == (1, "missed", missed)
    assert runs(nodes) == ran
    wait_for(lambda: len(runs(nodes)) == len(ran) + 1, 90, "the next one runs, once")
