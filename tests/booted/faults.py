"""What befalls the cluster: each fault from a state where all is well to another one, and what it may cost.

Bounds are those of docs/explanation/promise.md. Whether a term was handed over or waited for is a fact in the ledger,
so the allowance for a busy machine can be generous. No fault may touch a program that the struck machine did not lead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos.bed import pause
from chaos.faults import Bound
from chaos.rounds import BORNE
from fact import wait_for

from highlanderd import __version__
from highlanderd.linux import boottime

from .cluster import SHARED, Cluster
from .machine import PATIENCE, UNIT, Machine
from .versions import NEXT

BUSY = 10.0
"""Seconds that a gap may be longer than its bound. Safety gets no such allowance."""
ORDERLY = Bound(seconds=1)
LOST = Bound(1.3)
FROZEN = Bound(0.6)
FENCED = Bound(0.8)
NOTHING = Bound()
HANDED_OVER = frozenset({"shutdown"})
WAITED_FOR = frozenset({"lapsed"})
EITHER = HANDED_OVER | WAITED_FOR
"""Why terms end, as the ledger says: told by their leader, or found to be over by the next one."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where it happens: the cluster, and the machine that leads most."""

    cluster: Cluster
    machine: Machine


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    name: str
    expected: str
    strike: Callable[[Scene], object] = field(repr=False)
    """Strikes, and undoes it; by then nothing has to be well yet."""
    bound: Bound = NOTHING
    ends: frozenset[str] = frozenset()
    """How terms of that machine may end; with none of them, no program is touched at all."""
    everywhere: bool = False
    """Whether all machines are struck, one after another."""


@dataclass(slots=True)
class Outcome:
    """What a fault has cost."""

    fault: Fault
    limit: float
    gaps: list[float]
    overlaps: list[str]
    broken: list[str]

    @property
    def failed(self) -> list[str]:
        """All that must not be."""
        return [f"{self.fault.name}: {what}" for what in self.overlaps + self.broken]


def play(cluster: Cluster, fault: Fault) -> Outcome:
    """Strike, wait until all is well again, and ask the children's journal what it has cost."""
    before = cluster.await_whole()
    epochs = {name: life.epoch for name, life in before.items()}
    pids = {name: frozenset(life.pids) for name, life in before.items()}
    struck = cluster.leader()
    concerned = {name for name, life in before.items() if fault.ends and (fault.everywhere or life.node == struck.name)}
    known, began = set(cluster.oracle.overlaps()), boottime()
    fault.strike(Scene(cluster, struck))
    after = cluster.await_whole()
    outcome = Outcome(fault, fault.bound.limit(cluster.lease, 0.0), [], [], [])
    outcome.overlaps += [said for said in cluster.oracle.overlaps() if said not in known]
    ends = cluster.ends(epochs)
    for name, life in after.items():
        if name not in concerned and (life.epoch, frozenset(life.pids)) != (epochs[name], pids[name]):
            outcome.broken.append(f"{name} was touched: {before[name]}, then {life}; its term ended: {ends.get(name)}")
    for gap in cluster.oracle.gaps(began):
        outcome.gaps.append(gap.seconds)
        if gap.seconds > outcome.limit + BUSY:
            outcome.broken.append(f"no {gap.program} for {gap.seconds:.2f} s: {gap.before}, then {gap.after}")
    for name in concerned:
        if ends.get(name) not in fault.ends:
            outcome.broken.append(f"the term of {name} on {before[name].node} ended: {ends.get(name)}")
    return outcome


# ------------------------------------------------------------------------------------------------------------ the unit


def stop(scene: Scene) -> None:
    """Stop the unit, and start it when everything is led elsewhere."""
    scene.machine.does("systemctl", "stop", UNIT)
    scene.machine.does("systemctl", "start", UNIT)


def restart(scene: Scene) -> None:
    scene.machine.does("systemctl", "restart", UNIT)


def restart_everywhere(scene: Scene) -> None:
    """One machine after another: the guardian, too, is of the installed version then."""
    for machine in scene.cluster.machines:
        machine.does("systemctl", "restart", UNIT)
        scene.cluster.await_whole()


def kill_main_pid(scene: Scene) -> None:
    """Systemd kills the rest of the cgroup, and starts it again."""
    scene.machine.does("kill", "-KILL", scene.machine.main_pid())


def kill_everything(scene: Scene) -> None:
    """Leave nobody who could tell of anybody's end."""
    (scene.machine.unit / "cgroup.kill").write_text("1")


def freeze_guardian(scene: Scene) -> None:
    """The worker notices and drains, or the watchdog kills, whichever is sooner; systemd starts it again."""
    _freeze(scene.machine, [next(iter(_daemon(scene.machine)))])


def freeze_daemon(scene: Scene) -> None:
    """Stop guardian, worker and keepers, and no child: nobody but systemd is left who could end the children."""
    _freeze(scene.machine, _daemon(scene.machine))


def _daemon(machine: Machine) -> dict[int, str]:
    """Give the daemon's own processes by their pids as we see them, the guardian first: it is the oldest."""
    pids = sorted(map(int, (machine.unit / "cgroup.procs").read_text().split()))
    return {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}


def _freeze(machine: Machine, pids: Iterable[int]) -> None:
    main = machine.main_pid()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: machine.main_pid() not in (main, "0"), PATIENCE, "systemd has started another daemon")


# ------------------------------------------------------------------------------------------------- network, PostgreSQL


def unplug_shortly(scene: Scene) -> None:
    _unplug(scene, BORNE / 2)


def unplug(scene: Scene) -> None:
    _unplug(scene, 1.5)


def _unplug(scene: Scene, leases: float) -> None:
    scene.cluster.network.unplug(scene.machine.name)
    pause(leases * scene.cluster.lease)
    scene.cluster.network.heal(scene.machine.name)


def restart_fast(scene: Scene) -> None:
    scene.cluster.server.restart("fast")


def restart_immediate(scene: Scene) -> None:
    scene.cluster.server.restart("immediate")


# --------------------------------------------------------------------------------------------------------- the machine


def reboot(scene: Scene) -> None:
    scene.machine.does("systemctl", "reboot")
    scene.machine.await_down()
    scene.machine.boot()
    scene.machine.await_up()


def cut_power(scene: Scene) -> None:
    """The link goes first, so that nobody hears of the end of a connection."""
    scene.cluster.network.unplug(scene.machine.name)
    scene.machine.cut_power()
    scene.cluster.network.heal(scene.machine.name)
    scene.machine.boot()
    scene.machine.await_up()


# --------------------------------------------------------------------------------------------------------- the package


def upgrade(scene: Scene) -> None:
    _install_everywhere(scene.cluster, "next.deb", NEXT)


def downgrade(scene: Scene) -> None:
    _install_everywhere(scene.cluster, "first.deb", __version__)


def _install_everywhere(cluster: Cluster, package: str, version: str) -> None:
    """One machine after another, as an administrator does: the next one when all is well."""
    for machine in cluster.machines:
        machine.does("dpkg", "--install", f"{SHARED}/{package}")
        cluster.await_whole()
        running = machine.control.ask("GET", "/v1/status")["version"]
        assert running == version, f"{machine.name} has {version}, and runs {running}"


# ----------------------------------------------------------------------------------------------------------- the table

FAULTS: Sequence[Fault] = (
    Fault("systemctl stop", "handed over", stop, ORDERLY, HANDED_OVER),
    Fault("systemctl restart", "handed over", restart, ORDERLY, HANDED_OVER),
    Fault("kill -9 of the main pid", "systemd kills the rest; waited for", kill_main_pid, LOST, WAITED_FOR),
    Fault("kill -9 of everything", "waited for", kill_everything, LOST, WAITED_FOR),
    Fault("SIGSTOP of the guardian", "handed over, or killed by the watchdog", freeze_guardian, LOST, EITHER),
    Fault("SIGSTOP of all but the children", "killed by the watchdog", freeze_daemon, FROZEN, WAITED_FOR),
    Fault("link cut for 2/10 of a lease", "nothing", unplug_shortly),
    Fault("link cut for 1.5 leases", "fenced; waited for", unplug, FENCED, WAITED_FOR),
    Fault("PostgreSQL restarted, fast", "nothing", restart_fast),
    Fault("PostgreSQL restarted, immediate", "nothing", restart_immediate),
    Fault("package upgraded everywhere", "nothing", upgrade),
    Fault("systemctl restart everywhere", "handed over", restart_everywhere, ORDERLY, HANDED_OVER, everywhere=True),
    Fault("package downgraded everywhere", "nothing", downgrade),
    Fault("reboot", "handed over", reboot, ORDERLY, HANDED_OVER),
    Fault("power cut", "waited for", cut_power, LOST, WAITED_FOR),
)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what each fault has cost, in columns."""
    heads = ("fault", "expected", "restarts", "overlaps", "longest gap", "bound")
    lines = [heads, *map(_cells, outcomes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _cells(outcome: Outcome) -> tuple[str, ...]:
    fault = outcome.fault
    bound = f"{fault.bound} = {outcome.limit:.1f} s" if fault.bound.leases else str(fault.bound)
    longest = f"{max(outcome.gaps, default=0.0):.2f} s"
    return fault.name, fault.expected, str(len(outcome.gaps)), str(len(outcome.overlaps)), longest, bound
