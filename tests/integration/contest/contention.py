"""What contenders contend on: one server with an audited ledger of a short lease, and a door to it for each of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from highlanderd.core.lease import Lease
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.sql.leading import SETTLE_FRESH
from tests.integration.contest.audit import Audit
from tests.support.nodes import settled_ledger
from tests.support.postgres import Cluster
from tests.support.proxy import Door
from tests.support.wait import wait_for

LEASE = Lease(1.0)
"""Shorter than a configuration may have it, so that many of them fit into a test."""
LONG_LEASE = Lease(6.0)
"""Where a test relies on answers that come in time, on a busy machine and a slow disk, too."""
PIECE = 32
"""Bytes in which answers arrive: what is told before an answer is whole shows."""
NAMES = ("n1", "n2", "n3")


class Bed:
    """One server with an audited ledger of a short lease, a door to it per contender, and the loop they live on."""

    def __init__(self, cluster: Cluster, runner: asyncio.Runner, lease: Lease = LEASE) -> None:
        self.cluster, self.runner, self.lease, self.database = cluster, runner, lease, cluster.database()
        settled_ledger(self.database, 2.0)
        self.database.sql("ALTER TABLE highlander.meta DROP CONSTRAINT meta_lease_check")
        length = f"'{lease.length} seconds'"
        self.database.sql(f"UPDATE highlander.meta SET lease = {length}, ceiling = {length}")
        self.audit = Audit(self.database)
        target = conninfo_to_dict(self.database.dsn)
        self.doors = [Door(str(target["host"]), int(str(target["port"])), PIECE) for _ in NAMES]
        self.numbers = itertools.count()
        self.faults: list[str] = []
        """What went wrong on the loop where nobody waited for it."""
        runner.get_loop().set_exception_handler(lambda _, what: self.faults.append(str(what)))

    def close(self) -> None:
        """Leave nothing."""
        self.audit.close()
        for door in self.doors:
            door.close()

    def settle(self, settled: bool) -> None:
        """Let the ledger have been waited out for this server, or not."""
        self.audit.sql("UPDATE highlander.meta SET settled_system = NULL, settled_timeline = NULL")
        if settled:
            self.audit.sql(Ledger("highlander", "highlander", 10.0).statement("settle_fresh", SETTLE_FRESH).sql)

    def refuse_commits(self, refusing: bool) -> None:
        """Let writes succeed and their commits fail."""
        self.audit.sql("UPDATE audit.fault SET refusing = %s", [refusing])

    def lose_standby(self) -> None:
        """Let every commit wait for a synchronous standby that is not there."""
        self.audit.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        self.audit.sql("SELECT pg_reload_conf()")
        with psycopg.connect(self.audit.dsn, autocommit=True, options="") as probe:
            pid = probe.info.backend_pid
            writing = threading.Thread(target=_write_until_it_ends, args=[probe])
            writing.start()
            waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
            wait_for(lambda: self.audit.sql(waits, [pid]), what="commits wait for a standby")
            self.audit.sql("SELECT pg_terminate_backend(%s)", [pid])
            writing.join()

    def find_standby(self) -> None:
        """Let commits be confirmed by this server alone again."""
        self.audit.sql("ALTER SYSTEM RESET synchronous_standby_names")
        self.audit.sql("SELECT pg_reload_conf()")


def _write_until_it_ends(connection: psycopg.Connection[Any]) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            connection.execute("UPDATE audit.fault SET refusing = refusing")
