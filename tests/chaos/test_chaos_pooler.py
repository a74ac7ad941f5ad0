"""A pooler in the path of one node: it leads nothing, in no mode, and says so. The others never notice."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fact import wait_for
from fix_nodes import Node, Nodes, settled_ledger
from fix_postgres import Database, free_port
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from highlanderd.errors import HighlanderError
from highlanderd.linux import boottime

pytestmark = pytest.mark.chaos
LEASE = 2.0
BOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"


@contextmanager
def pgbouncer(database: Database, directory: Path, mode: str) -> Iterator[str]:
    """Put pgbouncer before the database, as it is set up to take our sessions; gives the DSN that leads through it."""
    if not Path(BOUNCER).exists():
        pytest.skip("pgbouncer is not installed")
    port, target = free_port(), conninfo_to_dict(database.dsn)
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{database.name} = host={target['host']} port={target['port']} user={database.role}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\n"
        f"ignore_startup_parameters = options\nlogfile =\nunix_socket_dir =\n"
    )
    command = [BOUNCER, "-q", *(["-u", "nobody"] if os.geteuid() == 0 else []), str(settings)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield make_conninfo(database.dsn, port=port)
    finally:
        running.terminate()
        running.wait(10)


def _trouble(node: Node) -> str:
    """Give what it says of PostgreSQL."""
    try:
        return str(node.status()["postgres"]["trouble"])
    except HighlanderError:
        return ""


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_node_behind_a_pooler_leads_nothing_and_says_so(
    nodes: Nodes, database: Database, open_dir: Path, mode: str
) -> None:
    settled_ledger(database, LEASE)
    with pgbouncer(database, open_dir, mode) as through:
        [direct] = nodes(database, "a", programs=["beat"], lease=LEASE)
        nodes.await_led("beat")
        behind = Node("b", nodes.directory / "b", through, LEASE, nodes.journal)
        nodes.nodes.append(behind)
        behind.configure(["beat"])
        behind.start()
        wait_for(lambda: "leads to PostgreSQL directly" in _trouble(behind), 30, "it says why")
        direct.crash()
        end = boottime() + 3 * LEASE
        wait_for(lambda: boottime() > end, 4 * LEASE, "every lease is over")
        assert behind.leading() == {}
        direct.start()
        assert nodes.await_led("beat") == {"beat": direct}
