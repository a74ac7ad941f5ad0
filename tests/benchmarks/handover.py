"""How long a program does not run: handed over in good order, and after its child was killed. Peers in the same run.

From the old child's last act to the new one's first, by the children's own clock; for a killed child, from the signal.
The child is a small C program, so no interpreter's start is measured with it. Ratios count: two runs do not compare.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Protocol

from highlanderd.system.linux import boottime
from tests.support.nodes import Nodes, settled_ledger
from tests.support.postgres import Cluster

from .bed import daemons, program, server
from .lives import Life, Lives
from .peers import Contenders, etcd, peers
from .processes import below
from .results import OURS, lacking, note

ROUNDS = 40
LEASE = 10.0
BETWEEN = 0.6
"""Seconds between two rounds: longer than the backoff, and than it takes a contender to start and to wait."""
PART = "handover"


class Contest(Protocol):
    """Two that contend for one program."""

    def renew(self) -> None:
        """Let both contend again, once a round is over."""

    def hand_over(self, life: Life) -> None:
        """Have the program handed over; ``life`` is the present child."""


class Daemons:
    """Two daemons, which contend all the time."""

    RELEASE: ClassVar[dict[str, object]] = {"force": True}
    """The fields of the order."""

    def __init__(self, nodes: Nodes, cluster: Cluster, lives: Lives) -> None:
        self._nodes = nodes
        database = cluster.database()
        settled_ledger(database, LEASE)
        beat = program("beat", lives.command, backoff=0.1, backoff_max=0.1)
        nodes(database, "a", "b", programs=beat, lease=LEASE)

    def renew(self) -> None:
        """Do nothing."""

    def hand_over(self, life: Life) -> None:
        """Release it. No daemon is asked which one leads it: that would have a daemon look at what its children use."""
        leader = next(node for node in self._nodes.nodes if life.pid in below(node.guardian))
        leader.control.order("beat", "release", self.RELEASE)()


def gaps(contest: Contest, lives: Lives, *, kill: bool) -> list[float]:
    """Return the seconds without a child, round by round."""
    found = []
    for _ in range(ROUNDS):
        time.sleep(BETWEEN)
        number, life, began = len(lives.now()), lives.now()[-1], boottime()
        if kill:
            os.kill(life.pid, signal.SIGKILL)
        else:
            contest.hand_over(life)
        following = lives.await_number(number + 1)
        ended = began if kill else lives.ended(life)
        found.append(following.began - ended)
        contest.renew()
    return found


@contextmanager
def own_lives() -> Iterator[Lives]:
    """Make a file for the children of one contest."""
    with tempfile.TemporaryDirectory(prefix="hl-lives-") as directory:
        yield Lives(Path(directory))


def contests(cluster: Cluster, etcd_at: str | None) -> Iterator[tuple[str, Contest, Lives]]:
    """Yield ours and each peer's that is installed, one after the other."""
    with own_lives() as lives, daemons() as nodes:
        yield OURS, Daemons(nodes, cluster, lives), lives
    for name, peer in peers(cluster.database(), etcd_at):
        if peer is None:
            lacking(PART, name, "it is not installed")
            continue
        with own_lives() as lives:
            contenders = Contenders(peer, lives.command)
            try:
                yield name, contenders, lives
            finally:
                contenders.end()


def main() -> None:
    """Print a row for each."""
    if not shutil.which("cc"):
        lacking(PART, OURS, "without a C compiler the start of an interpreter would be most of it")
        return
    with server() as cluster, etcd() as etcd_at:
        for name, contest, lives in contests(cluster, etcd_at):
            lives.await_number(1)
            for kill in (False, True):
                found = [1000 * gap for gap in gaps(contest, lives, kill=kill)]
                note(PART, "child killed" if kill else "handed over", name, found, "ms")


if __name__ == "__main__":
    main()
