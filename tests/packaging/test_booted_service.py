"""The unit under a real systemd: what it hears and shows, what it reloads, waits for and kills, what it hands to whom.

Needs what test_booted_debian.py needs. One machine of each release is booted for all of these tests; each of them has
its own configuration, database and drop-ins.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd import __version__
from tests.packaging.booted.machine import PATIENCE, Machine, machines_lacking
from tests.support.nodes import settled_ledger
from tests.support.packages import made, root_beneath
from tests.support.postgres import Database
from tests.support.proxy import OpensDoors
from tests.support.wait import wait_for

LEASE = 30.0
"""Seconds; a busy machine takes some of them to load a worker, and none is replaced when they could pass meanwhile."""
DROP_INS = "etc/systemd/system/highlanderd.service.d"
BEAT = '[program.beat]\ncommand = ["sleep", "infinity"]\n'
OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM")
"""What systemd tells the daemon, and no program of its."""


class Service:
    """The daemon of a booted machine, as its administrator sees it."""

    def __init__(self, machine: Machine, database: Database) -> None:
        self.machine, self.database = machine, database

    def configure(self, programs: str = BEAT, dsn: str = "", drop_in: str = "") -> None:
        """Write the configuration and a drop-in for the unit."""
        where = dsn or self.database.dsn
        quiet = '[metrics]\nlisten = ""\n'  # the machine shares our network
        self.file("etc/highlander.toml", f'{quiet}[postgres]\ndsn = "{where}"\nlease = {LEASE}\n{programs}')
        if drop_in:
            self.file(f"{DROP_INS}/test.conf", f"[Service]\n{drop_in}\n")
            self.machine.does("systemctl", "daemon-reload")

    def file(self, path: str, text: str) -> None:
        """Write a file of the machine's, with whatever directories it takes."""
        file = self.machine.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def start(self) -> dict[str, int]:
        """Start the unit, and give the pids of its programs when all of them are led."""
        self.systemctl("start")
        return self.await_led()

    def await_led(self) -> dict[str, int]:
        """Wait until every program is led; gives their pids."""
        machine = self.machine
        wait_for(lambda: machine.led().keys() == machine.programs().keys() != set(), PATIENCE, "all programs are led")
        return machine.led()

    def systemctl(self, verb: str) -> str:
        """Order something that has to succeed."""
        return self.machine.does("systemctl", verb, "highlanderd")

    def shows(self, name: str) -> str:
        """Return a property of the unit."""
        return self.machine.says("systemctl", "show", f"--property={name}", "--value", "highlanderd")

    def guardian(self) -> int:
        """Return the daemon's main process."""
        return int(self.shows("MainPID"))

    def children(self, pid: int) -> list[int]:
        """Return the children of a process."""
        return [int(child) for child in self.machine.says("cat", f"/proc/{pid}/task/{pid}/children").split()]

    def about(self, pid: int, what: str) -> str:
        """Return what /proc tells of a process; an error's text when it is gone."""
        return self.machine.says("cat", f"/proc/{pid}/{what}")

    def gone(self, pid: int) -> bool:
        """Tell whether a process has ended."""
        return not (self.machine.root / f"proc/{pid}").exists()


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    deb = made(f"highlander_{__version__}-*_amd64.deb")  # or skip, before anything is fetched
    home = tmp_path_factory.mktemp("booted")
    if why := machines_lacking(home):
        pytest.skip(why)
    machine = Machine(f"service-{request.param}", root_beneath(request.param), home)
    try:
        machine.boot()
        machine.await_up()
        shutil.copy(deb, machine.root / "root/highlander.deb")
        machine.does("dpkg", "--install", "/root/highlander.deb")
        yield machine
    finally:
        machine.close()


@pytest.fixture
def service(machine: Machine, database: Database) -> Iterator[Service]:
    settled_ledger(database, LEASE)
    yield Service(machine, database)
    print(machine.says("systemctl", "status", "--no-pager", "highlanderd"), machine.journal(), sep="\n")
    machine.run("systemctl", "kill", "--signal=SIGCONT", "highlanderd")
    machine.does("systemctl", "stop", "highlanderd")
    machine.does("rm", "-rf", f"/{DROP_INS}", "/var/lib/highlander", "/etc/highlander/dsn")
    machine.does("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", "highlanderd")


# ---------------------------------------------------------------------------------------------------- what it shows


@pytest.mark.timeout(300)
def test_the_status_says_how_many_lead_and_what_is_wrong(service: Service, door: OpensDoors) -> None:
    away = door(service.database.dsn)
    service.configure(BEAT + BEAT.replace("beat", "bot"), away.dsn(service.database.dsn))
    service.start()
    wait_for(lambda: service.shows("StatusText") == "leading 2", PATIENCE, "both are counted")
    assert 'Status: "leading 2"' in service.machine.says("systemctl", "status", "--no-pager", "highlanderd")
    away.cut()
    wait_for(lambda: "; PostgreSQL: " in service.shows("StatusText"), PATIENCE, "PostgreSQL's absence is told")
    away.heal()
    wait_for(lambda: service.shows("StatusText") == "leading 2", PATIENCE, "all is well again")


@pytest.mark.timeout(300)
def test_it_counts_as_started_without_postgresql(service: Service, door: OpensDoors) -> None:
    away = door(service.database.dsn)
    service.configure(dsn=away.dsn(service.database.dsn))
    away.cut()
    service.systemctl("start")
    wait_for(lambda: "waiting 1; PostgreSQL: " in service.shows("StatusText"), PATIENCE, "it says what it lacks")
    assert service.shows("ActiveState") == "active"
    away.heal()
    service.await_led()


@pytest.mark.timeout(300)
def test_a_configuration_that_is_refused_fails_the_start_and_is_not_tried_again(service: Service) -> None:
    service.configure("[colours]\n")
    assert service.machine.run("systemctl", "start", "highlanderd").returncode != 0
    assert (service.shows("ActiveState"), service.shows("ExecMainStatus")) == ("failed", "78")
    assert "highlander.toml:6: colours" in service.machine.journal()


@pytest.mark.timeout(300)
def test_a_reload_tells_its_outcome(service: Service) -> None:
    service.configure()
    pids = service.start()
    service.configure(BEAT + BEAT.replace("beat", "bot"))
    service.systemctl("reload")
    assert service.await_led()["beat"] == pids["beat"]
    service.configure("[colours]\n")
    assert service.machine.run("systemctl", "reload", "highlanderd").returncode != 0
    assert (service.shows("ActiveState"), service.shows("SubState")) == ("active", "running")
    assert service.machine.led().keys() == {"beat", "bot"}
    service.configure()
    service.systemctl("reload")
    assert service.machine.led() == pids


# ------------------------------------------------------------------------------------------------- what it waits for


@pytest.mark.timeout(300)
def test_a_drain_may_take_longer_than_the_unit_waits(service: Service) -> None:
    slow = 'trap "sleep 20; echo done > /root/farewell; exit" TERM; while :; do sleep 0.1; done'
    program = f"[program.slow]\ncommand = ['sh', '-c', '{slow}']\nstop_timeout = 90\nstop_to = \"main\"\n"
    service.configure(program, drop_in="TimeoutStopSec=5s")
    service.start()
    service.systemctl("stop")
    assert (service.machine.root / "root/farewell").read_text() == "done\n"
    assert (service.shows("Result"), service.shows("ExecMainStatus")) == ("success", "0")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("whole", [False, True], ids=["guardian", "everything"])
def test_what_is_frozen_is_killed_before_others_may_lead(service: Service, whole: bool) -> None:
    alive = "while :; do cut -d ' ' -f 1 /proc/uptime > /root/new; mv /root/new /root/alive; sleep 0.05; done"
    service.configure(f'[program.beat]\ncommand = ["sh", "-c", "{alive}"]\n')
    [child] = service.start().values()
    guardian = service.guardian()
    promised = f"{0.7 * LEASE:g}s"
    wait_for(lambda: service.shows("WatchdogUSec") == promised, PATIENCE, "the daemon promises a cycle within 7/10")
    frozen = [guardian, *(service.children(guardian) if whole else ())]
    assert child not in frozen
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    service.machine.does("kill", "-STOP", *map(str, frozen))
    wait_for(lambda: service.gone(child), PATIENCE, "the child is killed")
    last = float((service.machine.root / "root/alive").read_text())
    # Its last renewal may be 2/10 older than what froze it; another node may lead 1.05 leases after that renewal.
    assert last - before < 0.85 * LEASE
    wait_for(lambda: service.guardian() not in (0, guardian), PATIENCE, "it is started again")
    [again] = service.await_led().values()
    assert again != child
    assert "watchdog" in service.machine.journal().lower() or not whole


@pytest.mark.timeout(300)
def test_what_is_frozen_while_it_drains_is_killed_as_soon(service: Service) -> None:
    stubborn = "trap '' TERM; while :; do sleep 1; done"
    service.configure(f'[program.slow]\ncommand = ["sh", "-c", "{stubborn}"]\nstop_timeout = 200\n')
    [child] = service.start().values()
    guardian = service.guardian()
    service.machine.does("systemctl", "stop", "--no-block", "highlanderd")
    wait_for(lambda: service.shows("StatusText") == "draining 1", PATIENCE, "it drains")
    frozen = [guardian, *service.children(guardian)]
    service.machine.does("kill", "-STOP", *map(str, frozen))
    wait_for(lambda: service.gone(child), PATIENCE, "the child is killed")
    wait_for(lambda: service.shows("ActiveState") == "failed", PATIENCE, "it has ended")
    assert service.shows("Result") == "watchdog"  # and not TimeoutStopSec, minutes later


@pytest.mark.timeout(300)
def test_a_watchdog_that_is_switched_off_kills_nothing(service: Service) -> None:
    service.configure(drop_in="WatchdogSec=0")
    service.start()
    assert service.shows("WatchdogUSec") in ("0", "infinity")
    variables = service.about(service.guardian(), "environ").split("\0")
    assert not [variable for variable in variables if variable.startswith("WATCHDOG_")]


# -------------------------------------------------------------------------------------------- what it hands to whom


@pytest.mark.timeout(300)
def test_only_the_daemon_is_spared_by_a_machine_without_memory(service: Service) -> None:
    if service.machine.run("sh", "-c", "echo -1 > /proc/self/oom_score_adj").returncode:
        pytest.skip("nobody may be protected from the OOM killer here")
    service.configure(BEAT + BEAT.replace("beat", "bot") + 'user = "nobody"\n')
    pids = service.start()
    guardian = service.guardian()
    for pid in (guardian, *service.children(guardian)):
        assert service.about(pid, "oom_score_adj") == "-500"
    for pid in pids.values():
        assert service.about(pid, "oom_score_adj") == "0"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("hardening", ["", "root", "unprivileged"])
def test_a_credential_holds_the_password_and_an_upgrade_finds_it(service: Service, hardening: str) -> None:
    stricter = Path(__file__).parents[2] / f"packaging/files/hardening/{hardening}.conf"
    more = stricter.read_text().partition("[Service]\n")[2] if hardening else ""
    service.file("etc/highlander/dsn", service.database.dsn)
    (service.machine.root / "etc/highlander/dsn").chmod(0o600)
    service.configure(
        dsn="file:${CREDENTIALS_DIRECTORY}/dsn", drop_in=f"LoadCredential=dsn:/etc/highlander/dsn\n{more}"
    )
    pids = service.start()
    worker = service.machine.worker()
    assert "programs reattached: 1: beat" in service.machine.does("dpkg", "--install", "/root/highlander.deb")
    assert service.await_led() == pids
    assert service.machine.worker() != worker
    service.systemctl("reload")
    [child] = pids.values()
    variables = [variable.partition("=")[0] for variable in service.about(child, "environ").split("\0")]
    assert set(OURS).isdisjoint(variables)
    assert "HIGHLANDER_EPOCH" in variables
