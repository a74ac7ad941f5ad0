"""Which functions of a worker take the time: ``make profile``; ``PROFILE_ARGS='--programs 1000 --seconds 30'``.

One daemon with so many programs, led and left alone; with ``--replaced`` the first seconds of a worker that takes the
place of a killed one. Seconds are of the processor, and the profiler makes each call dearer: shares count.
"""

from __future__ import annotations

import argparse
import os
import pstats
import signal
import sys
import time
from pathlib import Path

from tests.support.nodes import PACKAGE, Node, Nodes, settled_ledger
from tests.support.postgres import Cluster
from tests.support.wait import wait_for

from .bed import daemons, server, sleepers

SETTLED = 5.0
"""Seconds after which a worker has done what comes with its start."""


def started(nodes: Nodes, cluster: Cluster, arguments: argparse.Namespace) -> Node:
    """Start the daemon, whose workers profile themselves; return it once it leads all."""
    database = cluster.database()
    settled_ledger(database, arguments.lease)
    node = Node("a", nodes.directory / "a", database.dsn, arguments.lease, nodes.journal)
    text = sleepers(arguments.programs)
    node.configure(text, log="info")
    node.enter = (sys.executable, "-m", "tests.benchmarks.profiled")
    node.environment = {
        "PYTHONPATH": str(PACKAGE),
        "PROFILE_INTO": str(nodes.directory / "profile"),
        "PROFILE_FROM": str(0 if arguments.replaced else SETTLED),
        "PROFILE_SECONDS": str(arguments.seconds),
    }
    nodes.nodes.append(node)
    node.start()
    wait_for(node.socket.exists, 60, "the daemon answers")
    wait_for(lambda: len(node.leading()) == arguments.programs, 300, "all are led")
    return node


def main() -> None:
    """Print the functions that took most."""
    parser = argparse.ArgumentParser(prog="make profile", description=__doc__)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--lease", type=float, default=10)
    parser.add_argument("--lines", type=int, default=30)
    parser.add_argument("--replaced", action="store_true", help="a worker's first seconds, after another was killed")
    parser.add_argument("--into", type=Path, help="keep the profile there, for pstats or another reader")
    arguments = parser.parse_args()
    with server(max_connections=str(2 * arguments.programs + 50)) as cluster, daemons() as nodes:
        node, profile = started(nodes, cluster, arguments), nodes.directory / "profile"
        if not arguments.replaced:  # its start is over now, however long it took
            time.sleep(SETTLED)
        profile.unlink(missing_ok=True)
        os.kill(node.worker, signal.SIGKILL)
        wait_for(profile.exists, 60 + SETTLED + arguments.seconds, "the profile is written")
        stats = pstats.Stats(str(profile))
        stats.sort_stats("tottime").print_stats(arguments.lines)
        stats.sort_stats("cumulative").print_stats(arguments.lines)
        if arguments.into is not None:
            stats.dump_stats(arguments.into)


if __name__ == "__main__":
    main()
