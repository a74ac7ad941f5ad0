"""What an administrator does to PostgreSQL under running daemons, step by step as the page on its maintenance tells it.

After each test the journal is asked: no two lives of a program at once, and every epoch above the one before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from highlanderd.embedded.installation import Installation
from highlanderd.system.linux import boottime
from tests.support.commands import highlanderctl
from tests.support.nodes import Node, Nodes, gone, settled_ledger
from tests.support.postgres import Cluster, Clusters, Database, run
from tests.support.proxy import OpensDoors
from tests.support.wait import wait_for

LEASE = 4.0
OUTAGE = "10s"
"""What a maintenance is switched on for: a busy machine needs some of it to start a server."""
PROGRAMS = ["beat", "bot", "cron", "feed", "relay"]


# --------------------------------------------------------------------------------------------------- planned outages


def test_an_announced_outage_of_one_and_a_half_leases_restarts_nothing_and_a_node_lost_in_it_is_not_doubled(
    nodes: Nodes, cluster: Cluster
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    _spread(nodes, database, PROGRAMS)
    a, b, c = nodes.nodes
    _maintenance_on(a)
    before = _alive(nodes, PROGRAMS)

    cluster.stop("fast")
    stopped = boottime()
    trusted = {program: c.trusted_until(program) for program in ("feed", "relay")}
    c.crash()
    wait_for(lambda: boottime() > stopped + 1.5 * LEASE, what="PostgreSQL was away for one and a half leases")
    cluster.start()
    _await_renewed(database.dsn, "beat", "bot", "cron")
    assert _alive(nodes, ["beat", "bot", "cron"]) == {name: before[name] for name in ("beat", "bot", "cron")}

    leaders = nodes.await_led(*PROGRAMS, without=c)
    assert {leaders[name] for name in PROGRAMS} <= {a, b}
    assert [name for name, until in trusted.items() if nodes.life(name).began <= until] == []
    assert _alive(nodes, ["beat", "bot", "cron"]) == {name: before[name] for name in ("beat", "bot", "cron")}

    done = highlanderctl(b.socket, "maintenance", "off")
    assert (done.code, done.err) == (0, "")
    carried = database.sql("SELECT DISTINCT extract(epoch FROM trusted_for)::float FROM highlander.lease")
    assert carried == [(LEASE,)], "every row carries the ledger's own lease again"
    _each_started_once(nodes)


def test_after_a_failover_the_old_primary_leads_nobody_not_even_a_daemon_that_meets_it_first(
    nodes: Nodes, clusters: Clusters
) -> None:
    primary = clusters.create()
    database = primary.database()
    settled_ledger(database, LEASE)
    standby = clusters.standby(primary)
    both = database.with_standby(standby)
    there = make_conninfo(database.dsn, port=standby.port)
    nodes(both, "a", "b", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    wait_for(lambda: _row(there), what="the standby has the term")

    primary.kill()
    standby.promote()
    _await_renewed(there, "beat")
    nodes.await_led("beat")
    primary.start()  # as a service manager would, with the lapsed row of a ledger that has settled

    [c] = nodes(both, "c", programs=["beat"], lease=LEASE)
    old = _row(database.dsn)
    _await_renewed(there, "beat", times=8)
    wait_for(lambda: c.status()["postgres"]["timeline"] == 2, what="it has found the promoted server")
    assert _row(database.dsn) == old, "nobody has written on the old primary"

    leader = nodes.await_led("beat")["beat"]
    leader.crash()
    nodes.await_led("beat", without=leader)
    assert _row(database.dsn) == old
    assert nodes.life("beat").epoch >> 32 == 1
    _each_started_once(nodes)


# ----------------------------------------------------------------------------------------------- logical replication


def test_a_node_that_moves_first_waits_for_the_leader_whose_renewals_arrive_by_replication(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = _replicated(clusters, postgres_programs)
    [a] = nodes(old, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    [b] = nodes(new, "b", programs=["beat"], lease=LEASE)
    _await_said(b, "a renews it through another server")
    _await_settled(new)  # from here on nothing but the moving row keeps it
    _await_renewed(new.dsn, "beat", times=4)
    assert b.leading() == {}

    a.signal(15)
    assert a.ended() == 0
    assert nodes.await_led("beat")["beat"] is b
    _end_replication(new)
    _move(a, new)
    b.order("release", "beat", to="a")
    assert nodes.await_led("beat", without=b)["beat"] is a
    _each_started_once(nodes)


def test_while_anything_is_led_on_the_old_server_nothing_is_taken_over_on_the_new_one(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = _replicated(clusters, postgres_programs)
    [a] = nodes(old, "a", programs=["beat", "bot"], lease=LEASE)
    nodes.await_led("beat", "bot")
    [b] = nodes(new, "b", programs=["beat", "bot"], lease=LEASE)
    _await_said(b, "a renews it through another server")
    _await_settled(new)

    a.order("stop", "beat")  # its row arrives as released, and stays so for as long as nobody leads it
    _await_renewed(new.dsn, "bot", times=10)  # two leases
    assert b.leading() == {}
    why = "bot is led by a through another server"
    wait_for(lambda: b.program("beat")["reason"].endswith(why), what="it says what keeps it")
    a.order("start", "beat")
    assert nodes.await_led("beat")["beat"] is a

    a.signal(15)
    assert a.ended() == 0
    assert set(nodes.await_led("beat", "bot").values()) == {b}
    _end_replication(new)
    assert [len(nodes.journal.lives(name)) for name in ("beat", "bot")] == [3, 2]


def test_what_nobody_leads_any_more_on_a_server_that_is_gone_is_closed_and_holds_nothing_up(
    nodes: Nodes, cluster: Cluster
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    ghost = """
    INSERT INTO highlander.lease (lock_id, epoch, renewal, program, node, instance, system, timeline, backend_pid,
                                  backend_start, acquired_at, expires_at, trusted_for)
    SELECT 4711, 1, 1, 'ghost', 'gone', instance, system + 1, 1, 1, 1, acquired_at, expires_at, '60 s'::interval / 15
      FROM highlander.lease
    """
    database.sql(ghost)
    _await_said(a, "closed the term of ghost on gone: it was led through another server, and lapsed")
    closed = "SELECT reason FROM highlander.lease WHERE program = 'ghost' AND released_at IS NOT NULL"
    assert database.sql(closed) == [("lapsed",)]
    _each_started_once(nodes)


def test_an_old_server_that_goes_first_has_its_leader_fenced_before_anybody_leads_on_the_new_one(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = _replicated(clusters, postgres_programs)
    [a] = nodes(old, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    [b] = nodes(new, "b", programs=["beat"], lease=LEASE)
    _await_said(b, "a renews it through another server")

    assert isinstance(old.server, Cluster)
    old.server.stop("fast")  # which waits until the subscriber has everything
    assert nodes.await_led("beat", without=a)["beat"] is b
    _end_replication(new)
    _move(a, new)
    b.order("release", "beat", to="a")
    assert nodes.await_led("beat", without=b)["beat"] is a
    _each_started_once(nodes)


def test_leaders_that_were_announced_the_outage_carry_their_children_to_the_new_server(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = _replicated(clusters, postgres_programs)
    new.sql(f'ALTER ROLE "{new.role}" NOLOGIN', admin=True)
    old.sql(f'GRANT pg_monitor TO "{old.role}"', admin=True)
    programs = ["beat", "bot"]
    a, _ = nodes(old.with_standby(new.server), "a", "b", programs=programs, lease=LEASE)
    nodes.await_led(*programs)
    _maintenance_on(a, "8s", "--force")  # the new server takes no login yet, and so cannot tell what it has
    before = _alive(nodes, programs)

    assert isinstance(old.server, Cluster)
    old.sql(f'ALTER ROLE "{old.role}" NOLOGIN', admin=True)
    old.server.stop("fast")
    new.sql(f'ALTER ROLE "{new.role}" LOGIN', admin=True)
    _await_renewed(new.dsn, *programs)
    _end_replication(new)
    assert _alive(nodes, programs) == before

    report = a.control.ask("POST", "/v1/maintenance", {"on": False, "wait": True}, patience=60)
    assert report["in_force"] == LEASE
    assert report["replaced_within"] > report["ceiling"], "which is waited out before anybody is replaced here"
    nodes.await_led(*programs)["beat"].order("release", "beat")
    wait_for(lambda: len(nodes.journal.lives("beat")) == 2, what="the next term, once the ceiling was waited out")
    assert nodes.life("beat").epoch >> 32 == 1, "epochs of the new server are above those of the old one"
    assert _alive(nodes, ["bot"]) == {"bot": before["bot"]}
    _each_started_once(nodes)


# ------------------------------------------------------------------------------------------------- another past


@pytest.mark.parametrize("how", ["restored", "begun anew", "begun anew during maintenance"])
def test_a_ledger_that_is_replaced_under_a_node_that_is_cut_off_waits_for_it_and_repeats_no_epoch(
    nodes: Nodes, cluster: Cluster, door: OpensDoors, postgres_programs: Installation, how: str
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    dump = _dump(postgres_programs, database.dsn, "--schema=highlander")
    way = door(database.dsn)
    [a] = nodes(way.dsn(database.dsn), "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    for _ in range(2):  # epochs that the dump knows nothing of
        a.order("restart", "beat")
        nodes.await_led("beat")
    [b] = nodes(database, "b", programs=["beat"], lease=LEASE)
    _await_kept(b, {"generation": 0})
    if how.endswith("maintenance"):
        _maintenance_on(b)
    last = nodes.life("beat")

    way.stall()
    database.sql(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{database.role}'", admin=True
    )
    database.sql("DROP SCHEMA highlander CASCADE", admin=True)
    if how == "restored":
        _restore(postgres_programs, database, dump)
    else:
        database.sql(f'CREATE SCHEMA highlander AUTHORIZATION "{database.role}"', admin=True)
        b.signal(15)
        assert b.ended() == 0
        b.start()
    assert not all(map(gone, last.pids)), "the child of the node that is cut off runs on"

    assert nodes.await_led("beat", without=a)["beat"] is b
    assert all(map(gone, last.pids))
    way.heal()
    wait_for(a.up, what="the node that was cut off is back")
    b.order("release", "beat", to="a")
    assert nodes.await_led("beat", without=b)["beat"] is a
    _each_started_once(nodes)


def test_a_server_restored_to_a_lower_timeline_is_refused_with_its_cure_which_repeats_no_epoch(
    nodes: Nodes, cluster: Cluster
) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    cluster.stop("fast")
    backup = cluster.directory / "backup"
    subprocess.run(["cp", "-a", cluster.data, backup], check=True)
    for _ in range(2):
        _to_the_next_timeline(cluster)
    [a] = nodes(database, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    _await_kept(a, {"timelines": 3, "generation": 2})
    a.signal(15)
    assert a.ended() == 0

    cluster.stop("fast")
    shutil.rmtree(cluster.data)
    subprocess.run(["cp", "-a", backup, cluster.data], check=True)
    _to_the_next_timeline(cluster)
    a.start()
    _await_said(a, "restored on purpose, stop all daemons, remove the file 'timelines' from each one's state_dir")
    a.signal(15)
    assert a.ended() == 0
    (a.home / "state" / "timelines").unlink()
    a.start()
    nodes.await_up(a)

    nodes.await_led("beat")
    assert [life.epoch >> 32 for life in nodes.journal.lives("beat")] == [2, 3]
    assert a.status()["postgres"]["timeline"] == 2
    _each_started_once(nodes)


# ------------------------------------------------------------------------------------------------------------- steps


def _spread(nodes: Nodes, database: Database, programs: list[str]) -> None:
    """Start three nodes: the first leads all but the last four programs, of which the others lead two each."""
    [a] = nodes(database, "a", programs=programs, lease=LEASE)
    nodes.await_led(*programs)
    nodes(database, "b", "c", programs=programs, lease=LEASE)
    for program, to in zip(programs[-4:], ("b", "b", "c", "c"), strict=True):
        a.order("release", program, to=to)
    leaders = nodes.await_led(*programs)
    wait_for(lambda: [node.name for _, node in sorted(nodes.leaders().items())] == [*"abbcc"], what="they are spread")
    assert len(leaders) == len(programs)


def _maintenance_on(node: Node, outage: str = OUTAGE, *options: str) -> None:
    done = highlanderctl(node.socket, "maintenance", "on", "--for", outage, "--reason", "tests", *options)
    assert (done.code, done.err) == (0, "")


def _alive(nodes: Nodes, programs: Iterable[str]) -> dict[str, tuple[int, frozenset[int]]]:
    """Return epoch and processes of the latest life of each program."""
    return {program: (nodes.life(program).epoch, nodes.life(program).pids) for program in programs}


def _each_started_once(nodes: Nodes) -> None:
    """An epoch that came twice on one node would be one life with two starts."""
    assert [str(life) for life in nodes.journal.lives() if life.starts != 1] == []
    assert nodes.journal.doubles() == []


def _row(dsn: str) -> list[tuple[object, ...]]:
    return run(dsn, "SELECT program, epoch, renewal, node FROM highlander.lease ORDER BY program")


def _renewals(dsn: str) -> dict[str, tuple[int, int]]:
    rows = run(dsn, "SELECT program, epoch, renewal FROM highlander.lease")
    return {program: (epoch, renewal) for program, epoch, renewal in rows}


def _await_renewed(dsn: str, *programs: str, times: int = 2) -> None:
    """Wait until the present term of each program was renewed there, so many times."""
    before = _renewals(dsn)

    def renewed() -> bool:
        now = _renewals(dsn)
        return all(now[name] >= (before[name][0], before[name][1] + times) for name in programs)

    wait_for(renewed, what=f"{', '.join(programs)} are renewed")


def _await_said(node: Node, what: str) -> None:
    wait_for(lambda: what in node.log.read_text(), what=f"{node.name} says: {what}")


def _await_settled(database: Database) -> None:
    settled = """
    SELECT settled_system = system_identifier FROM highlander.meta, pg_control_system()
    """
    wait_for(lambda: database.sql(settled) == [(True,)], what="the new server's ledger has settled")


def _move(node: Node, database: Database) -> None:
    """Stop a daemon, if it runs, and start it on another server."""
    if node.runs:
        node.signal(15)
        assert node.ended() == 0
    node.dsn = database.dsn
    node.configure(["beat"])
    node.start()
    wait_for(node.up, what=f"{node.name} is up on the new server")


def _replicated(clusters: Clusters, programs: Installation) -> tuple[Database, Database]:
    """Return a database with a ledger, and its copy on another server that follows it by logical replication."""
    server, other = clusters.create(wal_level="logical"), clusters.create()
    old = server.database()
    settled_ledger(old, LEASE)
    other.sql(f'CREATE ROLE "{old.role}" LOGIN')
    other.sql(f'CREATE DATABASE "{old.name}"')
    new = Database(other, old.name, old.role)
    as_admin = make_conninfo(old.dsn, user=server.user)
    _restore(programs, new, _dump(programs, as_admin, "--schema-only"))
    old.sql("CREATE PUBLICATION move FOR ALL TABLES", admin=True)
    new.sql(f"CREATE SUBSCRIPTION move CONNECTION '{as_admin}' PUBLICATION move", admin=True)
    wait_for(lambda: new.sql("SELECT 1 FROM highlander.meta"), what="the ledger is copied")
    return old, new


def _end_replication(new: Database) -> None:
    new.sql("ALTER SUBSCRIPTION move DISABLE", admin=True)
    new.sql("ALTER SUBSCRIPTION move SET (slot_name = NONE)", admin=True)
    new.sql("DROP SUBSCRIPTION move", admin=True)


def _to_the_next_timeline(cluster: Cluster) -> None:
    """Stop a server, if it runs, and start it as one that was restored from a backup."""
    cluster.stop("fast")
    signal = cluster.data / "recovery.signal"
    signal.touch()
    os.chown(signal, cluster.data.stat().st_uid, cluster.data.stat().st_gid)
    cluster.settings["restore_command"] = "false"
    cluster.start()
    wait_for(lambda: cluster.sql("SELECT pg_is_in_recovery()") == [(False,)], what="it was promoted")


def _await_kept(node: Node, facts: dict[str, int]) -> None:
    """Wait until the files of a state directory hold these numbers."""

    def kept() -> bool:
        files = {name: node.home / "state" / name for name in facts}
        return all(file.exists() and str(facts[name]) in file.read_text() for name, file in files.items())

    wait_for(kept, what=f"{node.name} has written {facts}")


def _dump(programs: Installation, dsn: str, *options: str) -> str:
    return _printed([programs.program("pg_dump"), "--dbname", dsn, *options])


def _restore(programs: Installation, database: Database, script: str) -> None:
    as_admin = make_conninfo(database.dsn, user=database.server.user)
    _printed([programs.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", as_admin], script)


def _printed(command: list[str | Path], given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
