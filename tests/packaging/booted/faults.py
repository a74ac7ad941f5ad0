"""What befalls the cluster. Bounds are those of docs/explanation/promise.md."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from highlanderd import __version__
from highlanderd.core.lease import Lease
from tests.chaos.bed import pause
from tests.chaos.faults import Bound
from tests.support.wait import wait_for

from .cluster import SHARED, Cluster
from .machine import PATIENCE, UNIT, Machine
from .rounds import Fault, Scene
from .versions import NEXT

ORDERLY = Bound(seconds=1)
LOST = Bound(1.3)
FROZEN = Bound(0.6)
FENCED = Bound(0.8)
HANDED_OVER = frozenset({"shutdown"})
WAITED_FOR = frozenset({"lapsed"})
EITHER = HANDED_OVER | WAITED_FOR
CUT_OFF = WAITED_FOR | {"fenced"}
"""Why terms end, as the ledger says: told by their leader, or found to be over by the next one. When the guardian dies,
the worker may be faster than systemd; who comes back late, but before the next one, still tells it himself."""


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
    main = scene.machine.main_pid()
    scene.machine.does("kill", "-STOP", main)
    _await_another(scene.machine, main)


def freeze_daemon(scene: Scene) -> None:
    """Stop guardian, worker and keepers, and no child: nobody but systemd is left who could end the children."""
    main = scene.machine.main_pid()
    _stop_all_but_children(scene.machine)
    _await_another(scene.machine, main)


def freeze_in_a_start(scene: Scene) -> None:
    """The same at a moment when systemd is patient, because a worker takes its time to start."""
    main, worker = scene.machine.main_pid(), scene.machine.worker()
    scene.machine.does("kill", "-KILL", worker)
    wait_for(lambda: scene.machine.worker() not in (worker, ""), PATIENCE, "another worker starts")
    _stop_all_but_children(scene.machine)
    _await_another(scene.machine, main)


def _stop_all_but_children(machine: Machine) -> None:
    for pid in (machine.unit / "cgroup.procs").read_text().split():  # children are in cgroups below
        os.kill(int(pid), signal.SIGSTOP)


def _await_another(machine: Machine, main: str) -> None:
    wait_for(lambda: machine.main_pid() not in (main, "0"), PATIENCE, "systemd has started another daemon")


def disturb_systemd(scene: Scene) -> None:
    """Do to it what its own upgrade does, and kill the journal that the daemon writes to."""
    scene.machine.does("systemctl", "daemon-reexec")
    kill = ("systemctl", "kill", "--signal=KILL", "systemd-journald")
    wait_for(lambda: scene.machine.run(*kill).returncode == 0, PATIENCE, "systemd answers again")
    scene.machine.does("systemctl", "start", "systemd-journald")


# ------------------------------------------------------------------------------------------------- network, PostgreSQL


def unplug_shortly(scene: Scene) -> None:
    _unplug(scene, Lease(1.0).outage_borne / 2)


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
        if _running(machine) != version:  # it was too busy for a renewal, and said so
            machine.renew()
            cluster.await_whole()
        assert _running(machine) == version, f"{machine.name} has {version}, and runs {_running(machine)}"


def _running(machine: Machine) -> str:
    version: str = machine.control.ask("GET", "/v1/status")["version"]
    return version


# ----------------------------------------------------------------------------------------------------------- the table

FAULTS: Sequence[Fault] = (
    Fault("systemctl stop", "handed over", stop, ORDERLY, HANDED_OVER),
    Fault("systemctl restart", "handed over", restart, ORDERLY, HANDED_OVER),
    Fault("kill -9 of the main pid", "killed by systemd, waited for", kill_main_pid, LOST, EITHER),
    Fault("kill -9 of everything", "waited for", kill_everything, LOST, WAITED_FOR),
    Fault("systemd executed anew, journald killed", "nothing", disturb_systemd),
    Fault("SIGSTOP of the guardian", "handed over, or killed by the watchdog", freeze_guardian, LOST, EITHER),
    Fault("SIGSTOP of all but the children", "killed by the watchdog", freeze_daemon, FROZEN, WAITED_FOR),
    Fault("the same while a worker starts", "killed by the watchdog", freeze_in_a_start, FROZEN, WAITED_FOR),
    Fault("link cut for 2/10 of a lease", "nothing", unplug_shortly),
    Fault("link cut for 1.5 leases", "fenced, waited for", unplug, FENCED, CUT_OFF),
    Fault("PostgreSQL restarted, fast", "nothing", restart_fast),
    Fault("PostgreSQL restarted, immediate", "nothing", restart_immediate),
    Fault("package upgraded everywhere", "nothing", upgrade),
    Fault("systemctl restart everywhere", "handed over", restart_everywhere, ORDERLY, HANDED_OVER, everywhere=True),
    Fault("package downgraded everywhere", "nothing", downgrade),
    Fault("reboot", "handed over", reboot, ORDERLY, HANDED_OVER),
    Fault("power cut", "waited for", cut_power, LOST, WAITED_FOR),
)
