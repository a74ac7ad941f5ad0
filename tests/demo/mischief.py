"""What the demo does to the cluster: each kind of it, how one sees that it is over, and what it cost.

An act is done to the node that leads a program, and is over when the cluster is whole again: what was killed has been
started, every program is led, and its child has written since.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

from highlanderd.system.linux import boottime

from .cluster import PROGRAMS, Cluster, Node
from .witness import Handover, Witness

PATIENCE = 60.0
"""Seconds after which the demo says that the cluster has not recovered."""

Wait = Callable[[Callable[[], bool]], bool]
"""Waits for a fact and draws meanwhile; False when it does not come."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One act: on whom, and for which program's sake."""

    cluster: Cluster
    victim: Node
    program: str
    wait: Wait


def kill_child(scene: Scene) -> bool:
    """SIGKILL to the child itself. Another node takes over at once; this one sits out for a second."""
    status = scene.victim.program(scene.program)
    if status and status["pid"]:
        os.kill(status["pid"], signal.SIGKILL)
    return True


def release(scene: Scene) -> bool:
    """What an operator types before a maintenance."""
    command = [sys.executable, "-m", "highlanderd.ctl", "--socket", str(scene.victim.socket), "release", scene.program]
    typed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return scene.wait(lambda: typed.poll() is not None) and typed.returncode == 0


def kill_worker(scene: Scene) -> bool:
    """SIGKILL to the process that talks to PostgreSQL. The guardian starts another one; the children notice nothing."""
    worker = scene.victim.worker
    os.kill(worker, signal.SIGKILL)
    return scene.wait(lambda: scene.victim.worker not in (0, worker))


def restart_postgres(scene: Scene) -> bool:
    """A fast restart of the only coordinator: every session and every lock is gone, the leases are not."""
    postmaster = scene.cluster.postmaster
    os.kill(postmaster, signal.SIGINT)
    return scene.wait(lambda: scene.cluster.postmaster not in (0, postmaster))


def kill_guardian(scene: Scene) -> bool:
    """SIGKILL to the daemon's first process. Its worker sees it, and hands everything over in good order."""
    worker = scene.victim.worker
    os.kill(scene.victim.guardian, signal.SIGKILL)
    ended = scene.wait(lambda: not scene.victim.runs and not _alive(worker))
    return ended and _start_again(scene)


def kill_node(scene: Scene) -> bool:
    """SIGKILL to all of its processes at once, as a power cut. Nobody can say so: the others wait for the lease."""
    for pid in scene.victim.family:
        os.kill(pid, signal.SIGKILL)
    taken = scene.wait(lambda: scene.cluster.leader(scene.program) not in (None, scene.victim))
    return taken and not scene.victim.runs and _start_again(scene)


def _start_again(scene: Scene) -> bool:
    """The children of the dead have been taken over, or will be: let the node come back as a candidate."""
    scene.victim.start()
    return True


def _alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110 - a path of /proc


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to disturb a cluster."""

    name: str
    """As in the summary."""
    says: str
    """As announced; takes ``program``, ``node``."""
    act: Callable[[Scene], bool]
    moves: bool
    """Whether another node has to take the program over."""
    kills: bool = True


KINDS = (
    Kind("SIGKILL of a child", "SIGKILL of {program}'s child on {node}", kill_child, moves=True),
    Kind("highlanderctl release", "highlanderctl release {program} on {node}", release, moves=True, kills=False),
    Kind("SIGKILL of a worker", "SIGKILL of {node}'s worker", kill_worker, moves=False),
    Kind("PostgreSQL restart", "restart of PostgreSQL", restart_postgres, moves=False, kills=False),
    Kind("SIGKILL of a guardian", "SIGKILL of {node}'s guardian", kill_guardian, moves=True),
    Kind("SIGKILL of a whole node", "SIGKILL of all of {node} at once", kill_node, moves=True),
)


@dataclass(slots=True)
class Cost:
    """What an act cost, by the children's own journal."""

    kind: Kind
    said: str
    handovers: list[Handover] = field(default_factory=list)
    kept: int = 0
    """Children that it was done to, or to whose daemon, and that live on."""
    trouble: str = ""

    @property
    def gaps(self) -> list[float]:
        """Seconds without a child, one for each program that moved."""
        return [one.gap for one in self.handovers]


def perform(kind: Kind, scene: Scene, witness: Witness, announce: Callable[[Cost], None]) -> Cost:
    """Do it, wait until it is over, and tell what it cost."""
    cost = Cost(kind, kind.says.format(program=scene.program, node=scene.victim.name))
    announce(cost)
    before, known = dict(witness.lives), len(witness.handovers)
    everybody = kind.act is restart_postgres
    concerned = [name for name, life in before.items() if everybody or life.node == scene.victim.name]
    done = kind.act(scene)
    since = boottime()

    def over() -> bool:
        moved = not kind.moves or witness.lives[scene.program].epoch > before[scene.program].epoch
        return moved and whole(scene.cluster, witness, since)

    if not (done and scene.wait(over)):
        cost.trouble = f"the cluster is not whole again after {PATIENCE:g} s"
    cost.handovers = witness.handovers[known:]
    moved_programs = {one.before.program for one in cost.handovers}
    cost.kept = 0 if kind.moves else sum(name not in moved_programs for name in concerned)
    return cost


def whole(cluster: Cluster, witness: Witness, since: float) -> bool:
    """Whether every node is well, and every program led by a node that renewed, with a child that wrote, since then."""
    if not all(node.well for node in cluster.nodes) or not cluster.postmaster:
        return False
    for name in PROGRAMS:
        leader, life = cluster.leader(name), witness.lives.get(name)
        if leader is None or life is None or life.node != leader.name:
            return False
        if life.last < since or not leader.renewed(name, since):
            return False
    return True


@dataclass(frozen=True, slots=True)
class Row:
    """All acts of one kind."""

    kind: str
    kills: bool
    times: int
    kept: int
    gaps: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds; there must be a gap."""
        return median(self.gaps)


def summed(costs: Iterable[Cost]) -> list[Row]:
    """Return one row for each kind that was done."""
    rows = []
    for kind in KINDS:
        mine = [cost for cost in costs if cost.kind is kind]
        if mine:
            gaps = tuple(gap for cost in mine for gap in cost.gaps)
            rows.append(Row(kind.name, kind.kills, len(mine), sum(cost.kept for cost in mine), gaps))
    return rows
