"""Claims about orders to the whole cluster: programs stopped everywhere, drained nodes, and who would take over."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, ends, settled_ledger
from tests.support.postgres import Database
from tests.support.wait import wait_for

LEASE = 20.0
"""Seconds; nothing here waits for it, and no worker of a busy machine is silent for 3/10 of it."""


def stopped(node: Node, program: str) -> str:
    """Return why it is stopped on a node; empty while it is not."""
    found = node.program(program)
    return str(found["reason"]) if found["state"] == "stopped" else ""


def both_know(nodes: Nodes, *programs: str) -> None:
    """Wait until each program has its standby: what a node could lead is written a moment after its start."""
    for program in programs:
        wait_for(partial(_has_standby, nodes, program), what=f"{program} has a standby")


def _has_standby(nodes: Nodes, program: str) -> bool:
    return all(node.program(program)["candidates"] for node in nodes.nodes)


def _unable(asked: Node, name: str, why: str) -> bool:
    """Whether the ledger says of a node that it could lead none of the programs, for this reason."""
    programs = asked.control.ask("GET", "/v1/cluster")["programs"]
    said = [{each["node"]: each["reason"] for each in one["unable"]}.get(name, "") for one in programs]
    return all(reason.startswith(why) for reason in said)


def leader_and_other(nodes: Nodes, database: Database, lease: float = LEASE) -> tuple[Node, Node]:
    """Start two nodes, and return the one that leads ``beat`` and its standby, once the ledger knows both."""
    settled_ledger(database, lease)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=lease)
    leader = nodes.await_led("beat")["beat"]
    both_know(nodes, "beat")
    return leader, b if leader is a else a


def test_a_program_that_is_stopped_everywhere_runs_nowhere_until_it_is_started_everywhere(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=["beat", "bot"], lease=LEASE)
    nodes.await_led("beat", "bot")
    bot = nodes.life("bot").pids
    done = highlanderctl(b.socket, "stop", "beat", "--everywhere", "--reason", "it corrupts data")
    assert (done.code, done.out, done.err) == (0, "beat: led by no node\n", "")
    for node in (a, b):
        wait_for(partial(stopped, node, "beat"), what=f"{node.name} shows it")
        assert stopped(node, "beat").startswith("stopped everywhere by uid ")
        assert stopped(node, "beat").endswith(f" on node b, role {database.role}: it corrupts data")
        refused = highlanderctl(node.socket, "start", "beat")
        assert refused.code == 1
        assert "highlanderctl start --everywhere beat" in refused.err
    assert nodes.life("bot").pids == bot, "no other program was touched"
    a.crash()
    a.start()
    nodes.await_up(a)
    wait_for(lambda: stopped(a, "beat"), what="a daemon that starts later follows the order")
    [(cause, author, remark)] = database.sql(
        "SELECT reason, author, remark FROM highlander.term WHERE program = 'beat'"
    )
    assert (cause, remark) == ("stopped", "it corrupts data")
    assert author.endswith(f" on node b, role {database.role}")
    done = highlanderctl(a.socket, "start", "beat", "--everywhere")
    assert done.code == 0, done
    nodes.await_led("beat")
    assert {*ends(database, "bot")} <= {None, "lapsed"}, "only the crash ended a term of another program"
    events = database.sql("SELECT event, program, author FROM highlander.event ORDER BY id")
    assert [event[:2] for event in events] == [("stopped_everywhere", "beat"), ("started_everywhere", "beat")]
    assert all(author.endswith(f", role {database.role}") for _, _, author in events)


def test_a_drained_node_leads_nothing_even_after_it_was_started_again(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=["beat", "bot"], lease=LEASE)
    nodes.await_led("beat", "bot")
    both_know(nodes, "beat", "bot")
    done = highlanderctl(b.socket, "drain", "a", "--reason", "new disk")
    assert (done.code, done.err) == (0, "")
    assert {node.name for node in nodes.await_led("beat", "bot").values()} == {"b"}
    for program in ("beat", "bot"):
        why = wait_for(partial(stopped, a, program), what=f"a follows with {program}")
        assert re.fullmatch(r"drained by uid \d+.* on node b, role \S+: new disk", why)
    assert wait_for(lambda: a.status()["drained"], what="a knows it of itself")["reason"] == "new disk"
    [drained] = [one["drained"] for one in b.control.ask("GET", "/v1/cluster")["nodes"] if one["name"] == "a"]
    assert drained["reason"] == "new disk"
    assert highlanderctl(a.socket, "start", "beat").code == 1
    a.signal(15)
    assert a.ended() == 0
    a.start()
    nodes.await_up(a)
    wait_for(lambda: stopped(a, "beat"), what="the drain outlives the daemon")
    wait_for(partial(_unable, b, "a", "drained by "), what="and a has written so")

    refused = highlanderctl(a.socket, "drain", "b")
    assert refused.code == 1
    assert "no other node could lead beat now (a: drained by uid " in refused.err
    assert b.leading().keys() == {"beat", "bot"}, "no child was harmed"
    for verb in ("release", "stop"):
        refused = highlanderctl(b.socket, verb, "bot")
        assert refused.code == 1
        assert "use --force" in refused.err
    assert b.leading().keys() == {"beat", "bot"}, "no child was harmed"
    refused = highlanderctl(b.socket, "release", "bot", "--to", "a")
    assert refused.code == 1
    assert "a could not lead bot now: drained by uid " in refused.err

    done = highlanderctl(b.socket, "resume", "a")
    assert (done.code, done.out) == (0, "a: resumed\n")
    wait_for(lambda: [a.program(one)["state"] for one in ("beat", "bot")] == ["waiting"] * 2, what="a contends again")
    assert highlanderctl(b.socket, "release", "bot", "--to", "a").code == 0
    assert nodes.await_led("bot", without=b)["bot"] is a


def test_a_program_goes_back_as_soon_as_it_has_come(nodes: Nodes, database: Database) -> None:
    lease = 60.0  # nothing that is written once a lease comes in time
    settled_ledger(database, lease)
    nodes(database, "a", "b", programs=["beat"], lease=lease)
    here = nodes.await_led("beat")["beat"]
    [there] = (node for node in nodes.nodes if node is not here)
    both_know(nodes, "beat")
    wait_for(lambda: here.control.ask("GET", "/v1/cluster")["programs"][0]["ready"], what="all is written")
    for _ in range(2):
        done = highlanderctl(here.socket, "release", "beat", "--to", there.name)
        assert (done.code, done.err) == (0, "")
        here, there = there, here


def test_a_stop_of_the_only_node_that_has_a_program_needs_force(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    for words in (("stop", "beat"), ("drain",)):
        refused = highlanderctl(a.socket, *words)
        assert refused.code == 1
        assert "no other node could lead beat now; use --force" in refused.err
    assert a.leading().keys() == {"beat"}, "no child was harmed"
    assert highlanderctl(a.socket, "stop", "beat", "--force").code == 0


def test_a_node_whose_daemon_is_down_may_be_drained_and_an_unknown_one_needs_force(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    a, b = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    both_know(nodes, "beat")
    b.signal(15)
    assert b.ended() == 0
    assert highlanderctl(a.socket, "drain", "b").code == 0
    refused = highlanderctl(a.socket, "drain", "c")
    assert refused.code == 4
    assert refused.err.endswith("the ledger knows no node 'c'; it has a, b\n"), "no force is offered for a typo"
    assert highlanderctl(a.socket, "drain", "c", "--force").code == 0
    b.start()
    nodes.await_up(b)
    wait_for(lambda: stopped(b, "beat"), what="b is drained from its start on")
    assert highlanderctl(a.socket, "resume", "b", "c").code == 0
    wait_for(lambda: b.program("beat")["state"] == "waiting", what="b contends again")
    assert database.sql("SELECT name FROM highlander.node ORDER BY name") == [("a",), ("b",)]


def test_a_leader_hears_of_the_order_at_once(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, 20.0)
    [a] = nodes(database, "a", programs=["beat"], lease=20.0)
    nodes.await_led("beat")
    began = time.monotonic()
    assert highlanderctl(a.socket, "stop", "beat", "--everywhere").code == 0
    took = time.monotonic() - began
    print(f"stopped everywhere within {took:.2f} s")  # a fifth of the lease would be 4 s; no test asserts a time
    assert database.sql("SELECT released_at IS NOT NULL FROM highlander.lease") == [(True,)]


def test_an_order_goes_to_the_node_that_leads_and_its_answer_comes_back(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    nodes(database, "a", "b", "c", programs=["beat"], lease=LEASE)
    leader = nodes.await_led("beat")["beat"]
    both_know(nodes, "beat")
    asked, third = (node for node in nodes.nodes if node is not leader)
    done = highlanderctl(asked.socket, "restart", "beat", "--reason", "a leak")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("beat: leading, epoch 2, pid "), done
    assert nodes.await_led("beat")["beat"] is leader, "a restart stays on its node"
    done = highlanderctl(asked.socket, "release", "beat", "--to", third.name)
    assert (done.code, done.err) == (0, "")
    assert nodes.await_led("beat", without=leader)["beat"] is third
    assert "ordered by" not in third.log.read_text(), "it was asked whether it could lead, which is no order"
    told = "SELECT reason, author, remark FROM highlander.term WHERE author IS NOT NULL ORDER BY epoch"
    wait_for(lambda: len(database.sql(told)) == 2, what="the former leader has written who released it")
    rows = database.sql(told)
    assert [(cause, remark) for cause, _, remark in rows] == [("restarted", "a leak"), ("released", None)]
    assert all(author.endswith(f" on node {asked.name}, role {database.role}") for _, author, _ in rows)
    taken = database.sql(
        "SELECT verb, node, taken_by IS NOT NULL, answered IS NOT NULL FROM highlander.command WHERE verb <> 'ask' "
        "ORDER BY id"
    )
    assert taken == [("restart", leader.name, True, True), ("release", leader.name, True, True)]


def test_an_order_to_a_node_that_obeys_no_other_is_refused(nodes: Nodes, database: Database) -> None:
    leader, other = leader_and_other(nodes, database)
    leader.signal(15)
    assert leader.ended() == 0
    leader.file.write_text(leader.file.read_text() + "\n[control]\nremote = false\n")
    leader.start()
    nodes.await_up(leader)
    nodes.await_led("beat", without=leader)
    both_know(nodes, "beat")
    assert highlanderctl(other.socket, "release", "beat", "--to", leader.name).code == 0
    nodes.await_led("beat", without=other)
    refused = highlanderctl(other.socket, "release", "beat")
    assert refused.code == 6
    assert f"{leader.name}: it obeys no orders from other nodes" in refused.err
    assert leader.leading().keys() == {"beat"}


NESTED = "[" * 3000 + "]" * 3000


NONSENSE = (
    ("signal", '{"signal": "NOPE"}'),
    ("signal", "[]"),
    ("restart", '{"wait": true, "timeout": "long"}'),
    ("release", '{"to": 5}'),
    ("release", NESTED),
    ("dance", "{}"),
)


def test_an_order_in_the_ledger_that_makes_no_sense_is_answered_and_costs_no_worker(
    nodes: Nodes, database: Database
) -> None:
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    worker = a.worker
    numbers = [_ordered(database, verb, arguments) for verb, arguments in NONSENSE]
    answers = "SELECT id, answer FROM highlander.command WHERE answered IS NOT NULL ORDER BY id"
    wait_for(lambda: len(database.sql(answers)) == len(numbers), what="all are answered")
    assert [number for number, answer in database.sql(answers) if "error" in answer] == numbers
    assert a.worker == worker


def _ordered(database: Database, verb: str, arguments: str) -> int:
    [(number,)] = database.sql(
        "INSERT INTO highlander.command (node, verb, program, arguments, author, reason, deadline) "
        "VALUES ('a', %s, 'beat', %s, 'a stranger', '', now() + interval '1 minute') RETURNING id",
        [verb, arguments],
    )
    return int(number)


def test_a_program_that_is_started_everywhere_was_stopped_on_no_node(nodes: Nodes, database: Database) -> None:
    leader, other = leader_and_other(nodes, database)
    assert highlanderctl(other.socket, "stop", "beat").code == 0
    assert highlanderctl(leader.socket, "stop", "beat", "--everywhere").code == 0
    done = highlanderctl(leader.socket, "start", "beat", "--everywhere")
    assert done.code == 0, done
    wait_for(lambda: other.program("beat")["state"] != "stopped", what="the stop of that node is lifted, too")


def _has_come(mark: Path, count: int) -> bool:
    return mark.read_text().count("hup") == count


def test_a_signal_reaches_the_child_on_the_node_that_leads_it(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    mark = nodes.directory / "mark"
    command = f"trap 'echo hup >> {mark}' HUP; echo up > {mark}; while :; do sleep 0.05; done"
    programs = f'[program.beat]\ncommand = ["sh", "-c", "{command}"]\n'
    nodes(database, "a", "b", programs=programs, lease=LEASE)
    wait_for(lambda: mark.exists() and mark.read_text() == "up\n", what="the child has set its trap")
    for count, node in enumerate(nodes.nodes, start=1):
        done = highlanderctl(node.socket, "signal", "hup", "beat")
        assert (done.code, done.out, done.err) == (0, "beat: HUP sent\n", "")
        wait_for(partial(_has_come, mark, count), what="the signal has arrived")
    assert "the name or number of a signal" in highlanderctl(nodes.nodes[0].socket, "signal", "NONE", "beat").err


def test_a_stop_everywhere_holds_under_every_lock_key_that_nodes_have(nodes: Nodes, database: Database) -> None:
    settled_ledger(database, LEASE)
    [a, b] = nodes(database, "a", "b", programs=["beat"], lease=LEASE)
    led = nodes.await_led("beat")["beat"]
    other = b if led is a else a
    other.order("stop", "beat")
    other.file.write_text(other.file.read_text().replace("[program.beat]", '[program.beat]\nlock_key = "other"'))
    assert highlanderctl(other.socket, "reload").code == 0
    wait_for(lambda: "lock_key" in highlanderctl(other.socket, "cluster").out, what="the other lock key is known")
    led.order("stop", "beat")
    assert highlanderctl(other.socket, "stop", "beat", "--everywhere").code == 0
    refused = highlanderctl(led.socket, "start", "beat")
    assert refused.code == 1
    assert "beat is stopped everywhere by" in refused.err
    assert database.sql("SELECT count(*) FROM highlander.wish") == [(2,)]
    assert highlanderctl(led.socket, "start", "beat", "--everywhere").code == 0
    assert database.sql("SELECT count(*) FROM highlander.wish") == [(0,)]
