"""Three booted Debians of two releases as one cluster, made from the .deb, and what befalls it.

Needs what test_booted_debian.py needs, and network namespaces. The children's own journal is the oracle; a failure
shows the journals of the units. A table of what was done, and what it has cost, comes last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from highlanderd import __version__
from highlanderd.embedded.account import Account
from highlanderd.embedded.installation import Installation
from tests.chaos.network import namespaces_lacking
from tests.packaging.booted.cluster import Cluster
from tests.packaging.booted.faults import FAULTS
from tests.packaging.booted.machine import machines_lacking
from tests.packaging.booted.rounds import Outcome, play, table
from tests.support.packages import made, root_beneath, tool

LEASE = 8.0
"""Seconds. Half of it is what a worker may take to be replaced, or a busy machine to reconnect, at no cost."""
RELEASES = {"n1": "bookworm", "n2": "trixie", "n3": "bookworm"}
"""Bridged by one cluster: Python 3.11 and 3.13, systemd 252 and 257."""


@pytest.fixture
def cluster(postgres_programs: Installation, postgres_account: Account, tmp_path: Path) -> Iterator[Cluster]:
    deb = made(f"highlander_{__version__}-*_amd64.deb")  # or skip, before anything is fetched
    for name in ("dpkg-deb", "systemd-nspawn"):
        tool(name)
    if why := machines_lacking(tmp_path) or namespaces_lacking():
        pytest.skip(why)
    lowers = {name: root_beneath(release) for name, release in RELEASES.items()}
    cluster = Cluster(postgres_programs, postgres_account, lowers, deb, LEASE)
    with closing(cluster):
        yield cluster


@pytest.mark.timeout(900)
def test_never_two_and_each_gap_within_its_bound(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: list[Outcome] = []
    for fault in FAULTS:
        if not any(outcome.spent for outcome in outcomes):
            outcomes.append(play(cluster, fault))
    with capsys.disabled():
        print("", *table(outcomes), sep="\n")
    failed = [what for outcome in outcomes for what in outcome.failed]
    assert not failed, "\n".join(failed)
