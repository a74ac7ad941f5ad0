"""From `apt install ./highlander.deb` to a failover: two machines of each release, with nothing done to them before.

apt finds what the package needs by itself, in its lists and its cache: the machines ask no mirror. The steps are
printed with their times (`-s` shows them); no test judges them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from highlanderd import __version__
from tests.packaging.booted.machine import PATIENCE, Machine, machines_lacking
from tests.support.packages import made, root_beneath
from tests.support.postgres import Database
from tests.support.wait import wait_for

CONFIGURED = """\
[metrics]
listen = ""  # the machines share a network
[postgres]
dsn = "{dsn}"
[program.beat]
command = ["sleep", "infinity"]
"""


@pytest.fixture(params=["bookworm", "trixie"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Machine]]:
    deb = made(f"highlander_{__version__}-*_amd64.deb")  # or skip, before anything is fetched
    if why := machines_lacking(tmp_path):
        pytest.skip(why)
    lower = root_beneath(request.param, "-apt")
    machines = [Machine(f"{request.param}-{name}", lower, tmp_path / name) for name in ("a", "b")]
    try:
        for machine in machines:
            machine.boot()
        for machine in machines:
            machine.await_up()
            shutil.copy(deb, machine.root / "root/highlander.deb")
        yield machines
    finally:
        for machine in machines:
            machine.close()
            shutil.rmtree(machine.home)


class Transcript:
    """What was done, and when it was done."""

    def __init__(self, title: str) -> None:
        self._begun = time.monotonic()
        print(f"\n{title}")

    def step(self, what: str) -> None:
        """Print a step that is done."""
        print(f"{time.monotonic() - self._begun:6.1f} s  {what}")


def leaders(machines: list[Machine]) -> list[Machine]:
    """Return the machines on which the program runs."""
    return [machine for machine in machines if "beat" in machine.led()]


@pytest.mark.timeout(1200)
def test_from_apt_install_to_a_failover(pair: list[Machine], database: Database) -> None:
    release = pair[0].does("sh", "-c", ". /etc/os-release; echo $PRETTY_NAME").strip()
    transcript = Transcript(release)
    for machine in pair:
        done = machine.does("apt-get", "install", "--yes", "/root/highlander.deb")
        assert "Need to get 0 B" in done
        assert "Setting up libpq5" in done
        assert "Setting up highlander" in done
    transcript.step("apt install ./highlander.deb, on both nodes")
    for machine in pair:
        (machine.root / "etc/highlander.toml").write_text(CONFIGURED.format(dsn=database.dsn))
        machine.does("highlanderd", "--check")
        machine.does("systemctl", "enable", "--now", "highlanderd")
    transcript.step("configured, checked, enabled and started, on both")
    [leader] = wait_for(lambda: leaders(pair), PATIENCE, "one node leads")
    transcript.step(f"beat runs on {leader.name}")
    [other] = [machine for machine in pair if machine is not leader]
    leader.cut_power()
    wait_for(lambda: leaders([other]), PATIENCE, "the other node leads")
    transcript.step(f"its power was cut; beat runs on {other.name}")
    assert other.does("dpkg", "--verify", "highlander").splitlines() == ["??5?????? c /etc/highlander.toml"]
