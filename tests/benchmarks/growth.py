"""What 1, 10, 100 and 1,000 programs cost: to start, to keep, to wait for, and to ask about. Supervisors beside it.

``sleep infinity`` is each program. For each size one node leads all, and then a second one waits for all, by
connections of its own and by shared ones. CPU and memory are those of the daemon's processes, the programs' own apart,
and of PostgreSQL's. supervisord and circus keep as many programs on one host: no failover, no lease, no server.
The memory of the most keepers is measured on a newer Python, too, where one is found, because it depends on that.
``GROWTH_SIZES`` and ``GROWTH_SECONDS`` change it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.nodes import PACKAGE, Node, Nodes, settled_ledger
from tests.support.ports import reserved_port
from tests.support.postgres import Cluster, Database

from . import interpreters
from .bed import await_sparingly, daemons, server, sleepers, timed, whole
from .processes import below, cpu, name, private_megabytes
from .results import OURS, lacking, note
from .supervisors import SUPERVISORS, fetch

SIZES = tuple(map(int, os.environ.get("GROWTH_SIZES", "1,10,100,1000").split(",")))
SECONDS = float(os.environ.get("GROWTH_SECONDS", "12"))
LEASE = 10.0
SETTLED = 5.0
"""Seconds before a measurement: what comes with a start is over."""
COUNTED = 11.0
"""Seconds before transactions are counted: PostgreSQL's processes may report theirs ten seconds late."""
TIMES = 7
PATIENCE = 600.0
"""Seconds for all of a size to run: a busy machine starts a thousand slowly, so that it can renew their leases."""
SHARED, RESTS = 1.2, 12.0
"""A page is shared for a second, and rests for ten times what it has cost: seconds, times. Scrapers ask every 15 s."""
STATUS = "status, whole process"
WORDS = ["sleep", "infinity"]
RUNS_ON = ".".join(platform.python_version_tuple()[:2])
MODES: dict[str, dict[str, Any]] = {
    "led and waited for": {},
    "led and waited for, shared": {"standby_connections": "shared"},
}
"""How a second node waits, by the table that it is in."""
COUNTS = "SELECT xact_commit + xact_rollback, pg_current_wal_lsn() - '0/0' FROM pg_stat_database WHERE datname = %s"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE '%%/' || %s || '%%'"


def parts(node: Node, version: str = RUNS_ON) -> dict[str, list[int]]:
    """Return the processes of a node by what they are; the programs' own are left out."""
    few = f"keepers and loggers of Python {version}"
    found: dict[str, list[int]] = {"worker": [node.worker], "guardian": [node.guardian], few: []}
    for pid in below(node.guardian):
        if name(pid).startswith(("keep ", "log ")):
            found[few].append(pid)
        elif name(pid) in ("fork server", "forked"):
            found["guardian"].append(pid)
    return found


def used(part: str, nodes: Sequence[Node], cluster: Cluster, database: Database, size: int) -> None:
    """Measure what nodes and their server use while nothing happens."""
    time.sleep(COUNTED)
    watched = {f"{node.name}: {what}": pids for node in nodes for what, pids in parts(node).items()}
    watched["PostgreSQL"] = list(below(cluster.pid))
    before, [(commits, wal)], began = {k: cpu(p) for k, p in watched.items()}, _counts(database), time.monotonic()
    time.sleep(SECONDS)
    lasted, [(after, written)] = time.monotonic() - began, _counts(database)
    for what, pids in watched.items():
        note(part, f"{what}, CPU", OURS, [100 * (cpu(pids) - before[what]) / lasted], "% of a core", size)
        note(part, f"{what}, memory of its own", OURS, [private_megabytes(pids)], "MB", size)
    note(part, "transactions", OURS, [(after - commits) / lasted], "a second", size)
    note(part, "WAL", OURS, [float(written - wal) / lasted / 1000], "kB a second", size)
    for node in nodes:
        [[sessions]] = database.sql(SESSIONS, [database.name, node.name], admin=True)
        note(part, f"{node.name}: sessions", OURS, [sessions], "", size)


def statements(part: str, node: Node, cluster: Cluster, size: int) -> None:
    """Count what a node's sessions ask, by the server's log: not while CPU is measured, because logging takes some."""
    cluster.configure(log_statement="all", log_line_prefix="%a|")
    time.sleep(SETTLED)
    began, at = cluster.log.stat().st_size, time.monotonic()
    time.sleep(SECONDS)
    lasted = time.monotonic() - at
    with cluster.log.open("rb") as log:
        log.seek(began)
        asked = log.read(cluster.log.stat().st_size - began)
    cluster.configure(log_statement="none")
    found = re.findall(rb"^[^|\n]*/%b\b[^|\n]*\|\w+: +(?:execute|statement)" % node.name.encode(), asked, re.MULTILINE)
    note(part, f"{node.name}: statements", OURS, [len(found) / lasted], "a second", size)


def _counts(database: Database) -> list[tuple[int, float]]:
    return [(int(commits), float(wal)) for commits, wal in database.sql(COUNTS, [database.name], admin=True)]


def asked(node: Node, port: int, size: int) -> None:
    """Measure what it takes to ask."""
    status = [sys.executable, "-m", "highlanderd.ctl", "--socket", str(node.socket), "status"]
    note_asked(STATUS, OURS, timed(partial(whole, status), TIMES), size)
    pages = [0.0]
    for _ in range(TIMES):
        time.sleep(max(SHARED, RESTS * pages[-1]))
        pages += timed(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read(), 1)
    note_asked("/metrics", OURS, pages[1:], size)


def note_asked(what: str, who: str, seconds: Sequence[float], size: int) -> None:
    """Keep what it takes to ask."""
    note("asking", what, who, [1000 * one for one in seconds], "ms", size)


def started(
    nodes: Nodes, dsn: str, node_name: str, size: int, port: int = 0, python: str = sys.executable, **postgres: object
) -> Node:
    """Start a node as a shell would, and not from a process that has imported everything."""
    node = Node(node_name, nodes.directory / node_name, dsn, LEASE, nodes.journal)
    node.python = python
    node.configure(sleepers(size), log="error", **postgres)
    if port:
        said = node.file.read_text()
        node.file.write_text(re.sub(r'listen = ""', f'listen = "127.0.0.1:{port}"', said))
    node.environment = {"PYTHONPATH": str(PACKAGE)}
    nodes.nodes.append(node)
    node.start()
    return node


def ours(size: int) -> None:
    """Measure all of it for one size."""
    with server(max_connections=str(2 * size + 60)) as cluster, daemons() as nodes:
        database, port = cluster.database(), reserved_port()
        settled_ledger(database, LEASE)
        began = time.monotonic()
        leader = started(nodes, database.dsn, "leader", size, port)
        note("start", "until all run", OURS, [await_led(leader, size) - began], "s", size)
        used("led", [leader], cluster, database, size)
        asked(leader, port, size)
        for part, how in MODES.items():
            waiting = started(nodes, database.dsn, "waiting", size, **how)
            nodes.await_up(waiting)
            await_sparingly(partial(_has_all, leader, waiting, size), PATIENCE, "the first node leads all again")
            used(part, nodes.nodes, cluster, database, size)
            if size == max(SIZES):
                statements(part, waiting, cluster, size)
            waiting.signal(signal.SIGTERM)
            waiting.ended()
            nodes.nodes.remove(waiting)


def await_led(leader: Node, size: int) -> float:
    """Wait until all programs are led; return when all ran."""
    await_sparingly(lambda: count(leader.guardian) == size, PATIENCE, "all run")
    ran = time.monotonic()
    await_sparingly(lambda: len(leader.leading()) == size, PATIENCE, "all are led")
    return ran


def newer(size: int) -> None:
    """Measure the keepers' and loggers' memory on the newest Python that is found."""
    found = interpreters.newest()
    if found is None:
        lacking("led", f"{OURS} on a newer Python", "none is found, or its packages could not be fetched from PyPI")
        return
    version, python = found
    with server(max_connections=str(size + 60)) as cluster, daemons() as nodes:
        database = cluster.database()
        settled_ledger(database, LEASE)
        leader = started(nodes, database.dsn, "leader", size, python=python)
        await_led(leader, size)
        time.sleep(SETTLED)
        for what, pids in parts(leader, version).items():
            if version in what:
                note("led", f"leader: {what}, memory of its own", OURS, [private_megabytes(pids)], "MB", size)


def _has_all(leader: Node, waiting: Node, size: int) -> bool:
    """Have the second node only wait: its start can make the first one late, and then leads move to it."""
    for program in waiting.leading():
        waiting.control.order(program, "release", {"to": leader.name})()
    return len(leader.leading()) == size


def count(pid: int) -> int:
    """Return how many programs run below a process."""
    return sum(name(one) == WORDS[0] for one in below(pid))


def theirs(who: str, size: int) -> None:
    """Measure a supervisor."""
    with tempfile.TemporaryDirectory(prefix="hl-growth-") as home:
        began = time.monotonic()
        with SUPERVISORS[who](Path(home), WORDS, size) as found:
            if found is None:
                lacking("led", who, "it could not be fetched from PyPI")
                return
            await_sparingly(lambda: count(found.process.pid) == size, PATIENCE, "all run")
            note("start", "until all run", who, [time.monotonic() - began], "s", size)
            time.sleep(SETTLED)
            pid, before, began = found.process.pid, cpu([found.process.pid]), time.monotonic()
            time.sleep(SECONDS / 2)
            note("led", "CPU", who, [100 * (cpu([pid]) - before) / (time.monotonic() - began)], "% of a core", size)
            note("led", "memory of its own", who, [private_megabytes([pid])], "MB", size)
            if shutil.which(found.status[0]):
                note_asked(STATUS, who, timed(partial(_ask, found.status), TIMES), size)


def _ask(command: Sequence[str]) -> None:
    """Ask a supervisor; its exit code says something else than whether it has answered."""
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main() -> None:
    """Print the figures."""
    fetch()
    for size in SIZES:
        ours(size)
        for who in SUPERVISORS:
            theirs(who, size)
    if sys.version_info < (3, 12):
        newer(max(SIZES))


if __name__ == "__main__":
    main()
