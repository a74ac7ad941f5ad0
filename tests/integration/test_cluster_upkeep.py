"""Claims about what the cluster shares in the ledger: it stays small, and what is gone for good is forgotten."""

from __future__ import annotations

import json

from tests.support.commands import highlanderctl
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 60.0
"""Seconds; a daemon writes that it was seen once in that time, and so not meanwhile."""


def names(database: Database, table: str = "node", column: str = "name") -> set[object]:
    """Return the nodes of a table."""
    return {name for (name,) in database.sql(f"SELECT {column} FROM highlander.{table}")}


def test_a_node_that_is_gone_for_a_week_is_forgotten_unless_it_is_drained(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    nodes(database, "a", programs=["beat"], lease=LEASE)
    wait_for(lambda: names(database, "candidate", "node") == {"a"}, what="a is known")
    database.sql(
        "INSERT INTO highlander.node (name, instance, version, seen, drained_since, drained_by) VALUES "
        "('gone', gen_random_uuid(), '0.1.0', now() - interval '8 days', NULL, NULL), "
        "('kept', gen_random_uuid(), '0.1.0', now() - interval '8 days', now() - interval '8 days', 'ann'), "
        "('late', gen_random_uuid(), '0.1.0', now() - interval '6 days', NULL, NULL)"
    )
    database.sql(
        "INSERT INTO highlander.candidate SELECT n.name, program, lock_id, state, able, reason, ready, since, digests "
        "FROM highlander.candidate AS c, highlander.node AS n WHERE n.name <> 'a'"
    )
    database.sql("UPDATE highlander.node SET seen = now() - interval '8 days' WHERE name = 'a'")
    nodes(database, "b", programs=["beat"], lease=LEASE)
    wait_for(lambda: "gone" not in names(database), what="it is forgotten")
    assert names(database) >= {"a", "kept", "late"}, "a is connected, whatever its row says"
    wait_for(lambda: names(database, "candidate", "node") == {"a", "b", "kept", "late"}, what="so are its programs")


def test_orders_and_events_are_kept_in_bounds(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    database.sql(
        "INSERT INTO highlander.command (node, verb, program, arguments, author, reason, deadline, taken_by) "
        "SELECT 'x', 'restart', 'beat', '{}', 'ann', '', now() - age, taken FROM (VALUES "
        "(interval '2 minutes', NULL::uuid), ('2 minutes', gen_random_uuid()), ('2 days', gen_random_uuid()), "
        "('-1 minute', NULL)) AS v (age, taken)"
    )
    database.sql(
        "INSERT INTO highlander.event (event, reason, at) "
        "SELECT 'drained', n::text, now() - CASE WHEN n <= 5 THEN interval '91 days' ELSE '0' END "
        "FROM generate_series(1, 12000) AS n"
    )
    nodes(database, "a", programs=["beat"], lease=LEASE)
    kept = "SELECT deadline > now() - interval '1 hour' FROM highlander.command"
    wait_for(lambda: database.sql(kept) == [(True,), (True,)], what="one that is taken or stands is kept for a day")
    events = "SELECT min(reason::integer), count(*) FROM highlander.event WHERE reason ~ '^[0-9]+$'"
    wait_for(lambda: database.sql(events) == [(2001, 10000)], what="the newest events are kept")


def test_the_cluster_shows_where_a_node_is_reached(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    a.signal(15)
    assert a.ended() == 0
    a.file.write_text(a.file.read_text().replace("[metrics]\n", '[metrics]\nadvertise = "http://web-1:9841/"\n'))
    a.start()
    nodes.await_up(a)

    def advertised() -> list[object]:
        answer = json.loads(highlanderctl(a.socket, "cluster", "-o", "json").out)
        return [node["advertise"] for node in answer["nodes"]]

    wait_for(lambda: advertised() == ["http://web-1:9841"], what="it is written")
