"""Claims about the page on roles: what is granted there is enough to read and to order, and for nothing more."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.integration.test_cluster_orders import both_know, stopped
from tests.support.memory_node import ended
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it, and no worker of a busy machine is silent for 3/10 of it."""
PAGE = (Path(__file__).parents[2] / "docs/how-to/roles.md").read_text("utf-8")
BLOCKS = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
READER, OPERATOR, RESTART, ANSWER, STOP, START, DRAIN, RESUME = BLOCKS


@pytest.fixture
def roles(nodes: Nodes, database: Database) -> Iterator[tuple[Database, Database]]:
    """Grant what the page says, once two nodes run ``beat``; return the database as the reader and the operator."""
    settled_ledger(database, LEASE)
    nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    both_know(nodes, "beat")
    made = [f"{name}_{database.name}" for name in ("reader", "operator")]
    try:
        for name, block in zip(("reader", "operator"), (READER, OPERATOR), strict=True):
            database.sql(re.sub(rf"\b{name}\b", f"{name}_{database.name}", block), admin=True)
        yield replace(database, role=made[0]), replace(database, role=made[1])
    finally:
        nodes.end()
        for role in made:
            database.sql(f"DROP OWNED BY {role}", admin=True)
            database.sql(f"DROP ROLE {role}", admin=True)


def run(role: Database, block: str) -> list[tuple[object, ...]]:
    """Run each statement of a block of the page as a role; return what the last one answers."""
    answer: list[tuple[object, ...]] = []
    for statement in filter(None, map(str.strip, block.split(";"))):
        answer = role.sql(statement)
    return answer


FORBIDDEN = (
    "UPDATE highlander.lease SET node = 'c'",
    "UPDATE highlander.term SET reason = 'finished'",
    "INSERT INTO highlander.term (lock_id, epoch, program, node, acquired_at) VALUES (1, 1, 'x', 'x', now())",
    "DELETE FROM highlander.term",
    "DELETE FROM highlander.command",
    "DELETE FROM highlander.node",
    "UPDATE highlander.meta SET lease = '60 s'",
    "UPDATE highlander.command SET taken_by = gen_random_uuid()",
    "UPDATE highlander.command SET answer = '{}'",
    "UPDATE highlander.wish SET role = 'postgres'",
    "UPDATE highlander.node SET backend_pid = 1",
    "INSERT INTO highlander.candidate SELECT 'c', program, lock_id, state, able, reason, ready, since, digests "
    "FROM highlander.candidate",
    "INSERT INTO highlander.wish (lock_id, program, author, reason, role) VALUES (1, 'x', 'x', '', 'postgres')",
    "INSERT INTO highlander.event (event, reason) VALUES ('drained', '')",
)


def test_the_reader_reads_the_cluster_and_its_history_without_a_daemon_and_cannot_order(
    roles: tuple[Database, Database],
) -> None:
    reader, _ = roles
    for words in (["cluster"], ["history"], ["events"], ["explain", "all"]):
        ctl = [sys.executable, "-m", "highlanderd.ctl", *words, "--dsn", reader.dsn, "-o", "json"]
        done = asyncio.run(ended(ctl))
        assert (done.code, done.err) == (0, ""), done
        assert "beat" in json.dumps(json.loads(done.out))
    orders = [block.split(";", maxsplit=1)[0] for block in (RESTART, STOP, START, DRAIN, RESUME)]
    for statement in (*orders, *FORBIDDEN):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.sql(statement)


def test_the_operator_orders_by_sql_under_a_role_that_the_server_notes_and_writes_no_term(
    nodes: Nodes, database: Database, roles: tuple[Database, Database]
) -> None:
    _, operator = roles
    leader = nodes.leaders()["beat"]
    assert run(operator, RESTART) == []
    wait_for(lambda: run(operator, ANSWER) not in ([], [(None,)]), what="it is answered")
    [(answer,)] = run(operator, ANSWER)
    assert isinstance(answer, dict)
    assert answer["program"]["epoch"] == 2, answer
    assert nodes.await_led("beat")["beat"] is leader
    said = "SELECT author, remark FROM highlander.term WHERE reason = 'restarted'"
    assert database.sql(said) == [(f"ann, role {operator.role}", "a leak")]

    run(operator, STOP)
    wait_for(lambda: all(stopped(node, "beat") for node in nodes.nodes), what="it is stopped everywhere")
    assert stopped(leader, "beat") == f"stopped everywhere by ann, role {operator.role}: it corrupts data"
    run(operator, START)
    nodes.await_led("beat")
    both_know(nodes, "beat")

    if nodes.leaders()["beat"].name != "a":
        nodes.leaders()["beat"].order("release", "beat", to="a")
    run(operator, DRAIN)
    wait_for(lambda: nodes.leaders().get("beat") is nodes.nodes[1], what="the drained node gives it up")
    why = wait_for(lambda: stopped(nodes.nodes[0], "beat"), what="it knows that it has")
    assert why == "drained by ann: new disk"
    run(operator, RESUME)
    wait_for(lambda: nodes.nodes[0].program("beat")["state"] == "waiting", what="a contends again")

    for statement in FORBIDDEN:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            operator.sql(statement)
