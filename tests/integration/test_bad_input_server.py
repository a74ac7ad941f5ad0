"""What a daemon says when its PostgreSQL is away, refuses it, or lacks what it needs."""

from __future__ import annotations

import signal
import socket

from psycopg.conninfo import make_conninfo

from tests.support.bad_input import LEASE, UNREACHABLE, answering, begin, reason
from tests.support.commands import highlanderctl, led
from tests.support.deaths import gone
from tests.support.nodes import Nodes, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Cluster, Clusters, Database


def test_an_unreachable_server_is_waited_for_and_the_status_says_so(nodes: Nodes, clusters: Clusters) -> None:
    cluster = clusters.create()
    database = cluster.database()
    settled_ledger(database, LEASE)
    cluster.stop()
    node = answering(begin(nodes, database.dsn))

    why = reason(node, "beat", "refused")
    assert f'connection to server at "127.0.0.1", port {cluster.port} failed: Connection refused' in why
    asked = highlanderctl(node.socket, "status")
    assert asked.code == 0
    assert asked.out.splitlines()[1].split()[:2] == ["beat", "waiting"]
    assert asked.err == f"warning: PostgreSQL cannot be used: {why}\n"
    assert highlanderctl(node.socket, "status", "beat").code == 3
    assert node.status()["postgres"]["connected"] is False

    cluster.start()
    led(node, "beat")
    assert "warning" not in highlanderctl(node.socket, "status", "beat").err


def test_a_daemon_without_its_server_ends_at_once_when_told(nodes: Nodes) -> None:
    node = answering(begin(nodes, UNREACHABLE.format(reserved_port())))
    reason(node, "beat", "refused")
    node.signal(signal.SIGTERM)
    assert node.ended() == 0
    assert not node.socket.exists()


def test_a_daemon_whose_server_swallows_everything_ends_at_once_when_told(nodes: Nodes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it accepts, and never says a word
        node = answering(begin(nodes, UNREACHABLE.format(mute.getsockname()[1])))
        reason(node, "beat", "no connection within 2 s")
        node.signal(signal.SIGTERM)
        assert node.ended() == 0


def test_a_leader_whose_server_is_gone_ends_with_its_child_when_told(nodes: Nodes, cluster: Cluster) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    node = begin(nodes, database.dsn)
    led(node, "beat")
    child = node.program("beat")["pid"]
    cluster.stop("immediate")
    reason(node, "beat", "leads on for the rest of its lease")
    node.signal(signal.SIGTERM)
    assert node.ended() == 0
    assert gone(child)


def test_a_wrong_password_is_told_and_a_mended_one_leads(nodes: Nodes, cluster: Cluster) -> None:
    database = cluster.database()
    settled_ledger(database, LEASE)
    demand_passwords(cluster, database)
    node = answering(begin(nodes, make_conninfo(database.dsn, password="wrong-one")))

    why = reason(node, "beat", "password")
    assert f'FATAL: password authentication failed for user "{database.role}"' in why
    assert "wrong-one" not in node.log.read_text()

    database.server.sql(f"ALTER ROLE \"{database.role}\" PASSWORD 'wrong-one'")
    led(node, "beat")


def demand_passwords(cluster: Cluster, database: Database) -> None:
    """Let the role in with the password ``right-one`` only."""
    cluster.sql(f"ALTER ROLE \"{database.role}\" PASSWORD 'right-one'")
    rules = cluster.data / "pg_hba.conf"
    rules.write_text(f"host all {database.role} all scram-sha-256\n{rules.read_text()}")
    cluster.sql("SELECT pg_reload_conf()")


def test_a_role_without_privileges_is_told_what_an_administrator_has_to_do(nodes: Nodes, database: Database) -> None:
    database.sql("DROP SCHEMA highlander")
    node = answering(begin(nodes, database.dsn))
    why = reason(node, "beat", "may not")
    assert why == (
        f"role {database.role} may not create or use the ledger in database {database.name} (permission denied for "
        f"database {database.name}); let an administrator run what `highlanderd -c FILE --print-schema` prints"
    )
    assert highlanderctl(node.socket, "status").err == f"warning: PostgreSQL cannot be used: {why}\n"
