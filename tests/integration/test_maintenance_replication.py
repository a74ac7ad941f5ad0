"""What an administrator does to move a ledger to another server by logical replication, under running daemons."""

from __future__ import annotations

import pytest

from highlanderd.embedded.installation import Installation
from tests.support.maintenance import (
    LEASE,
    alive,
    await_renewed,
    await_said,
    await_settled,
    each_started_once,
    end_replication,
    follow,
    maintenance_on,
    replicated,
)
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Cluster, Clusters
from tests.support.wait import wait_for

pytestmark = pytest.mark.long


def test_a_node_that_moves_first_waits_for_the_leader_whose_renewals_arrive_by_replication(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = replicated(clusters, postgres_programs)
    [a] = nodes(old, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    [b] = nodes(new, "b", programs=["beat"], lease=LEASE)
    await_said(b, "a renews it through another server")
    await_settled(new)  # from here on nothing but the moving row keeps it
    await_renewed(new.dsn, "beat", times=4)
    assert b.leading() == {}

    a.signal(15)
    assert a.ended() == 0
    assert nodes.await_led("beat")["beat"] is b
    end_replication(new)
    follow(nodes, a, b, new)
    each_started_once(nodes)


def test_while_anything_is_led_on_the_old_server_nothing_is_taken_over_on_the_new_one(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = replicated(clusters, postgres_programs)
    [a] = nodes(old, "a", programs=["beat", "bot"], lease=LEASE)
    nodes.await_led("beat", "bot")
    [b] = nodes(new, "b", programs=["beat", "bot"], lease=LEASE)
    await_said(b, "a renews it through another server")
    await_settled(new)

    a.order("stop", "beat")  # its row arrives as released, and stays so for as long as nobody leads it
    await_renewed(new.dsn, "bot", times=10)  # two leases
    assert b.leading() == {}
    why = "bot is led by a through another server"
    wait_for(lambda: b.program("beat")["reason"].endswith(why), what="it says what keeps it")
    a.order("start", "beat")
    assert nodes.await_led("beat")["beat"] is a

    a.signal(15)
    assert a.ended() == 0
    assert set(nodes.await_led("beat", "bot").values()) == {b}
    end_replication(new)
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
    SELECT 4711, 1, 1, 'ghost', 'gone', instance, system + 1, 1, 1, 1, acquired_at, expires_at, trusted_for
      FROM highlander.lease
    """
    database.sql(ghost)
    await_said(a, "closed the term of ghost on gone: it was led through another server, and lapsed")
    closed = "SELECT reason FROM highlander.lease WHERE program = 'ghost' AND released_at IS NOT NULL"
    assert database.sql(closed) == [("lapsed",)]
    each_started_once(nodes)


def test_an_old_server_that_goes_first_has_its_leader_fenced_before_anybody_leads_on_the_new_one(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = replicated(clusters, postgres_programs)
    [a] = nodes(old, "a", programs=["beat"], lease=LEASE)
    nodes.await_led("beat")
    [b] = nodes(new, "b", programs=["beat"], lease=LEASE)
    await_said(b, "a renews it through another server")

    assert isinstance(old.server, Cluster)
    old.server.stop("fast")  # which waits until the subscriber has everything
    assert nodes.await_led("beat", without=a)["beat"] is b
    end_replication(new)
    follow(nodes, a, b, new)
    each_started_once(nodes)


def test_leaders_that_were_announced_the_outage_carry_their_children_to_the_new_server(
    nodes: Nodes, clusters: Clusters, postgres_programs: Installation
) -> None:
    old, new = replicated(clusters, postgres_programs)
    new.sql(f'ALTER ROLE "{new.role}" NOLOGIN', admin=True)
    old.sql(f'GRANT pg_monitor TO "{old.role}"', admin=True)
    programs = ["beat", "bot"]
    a, _ = nodes(old.with_standby(new.server), "a", "b", programs=programs, lease=LEASE)
    nodes.await_led(*programs)
    maintenance_on(a, "12s", "--force")  # the new server takes no login yet, and so cannot tell what it has
    before = alive(nodes, programs)

    assert isinstance(old.server, Cluster)
    old.sql(f'ALTER ROLE "{old.role}" NOLOGIN', admin=True)
    old.server.stop("fast")
    new.sql(f'ALTER ROLE "{new.role}" LOGIN', admin=True)
    await_renewed(new.dsn, *programs)
    end_replication(new)
    assert alive(nodes, programs) == before

    report = a.control.ask("POST", "/v1/maintenance", {"on": False, "wait": True}, patience=60)
    assert report["in_force"] == LEASE
    assert report["replaced_within"] > report["ceiling"], "which is waited out before anybody is replaced here"
    nodes.await_led(*programs)["beat"].order("release", "beat")
    wait_for(lambda: len(nodes.journal.lives("beat")) == 2, what="the next term, once the ceiling was waited out")
    assert nodes.life("beat").epoch >> 32 == 1, "epochs of the new server are above those of the old one"
    assert alive(nodes, ["bot"]) == {"bot": before["bot"]}
    each_started_once(nodes)
