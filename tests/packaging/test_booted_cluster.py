"""Three booted Debians of two releases as one cluster, made from the .deb, and what befalls it.

Needs what test_booted_debian.py needs, and network namespaces. The children's own journal is the oracle; a failure
shows the journals of the units. A table of what was done, and what it has cost, comes last.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted.cluster import Cluster
from booted.faults import FAULTS, play, table
from booted.machine import machines_lacking
from chaos.network import namespaces_lacking
from fix_packages import made, root_beneath, tool

from highlanderd import __version__
from highlanderd.embedded.account import Account
from highlanderd.embedded.installation import Installation

LEASE = 6.0
RELEASES = {"n1": "bookworm", "n2": "trixie", "n3": "bookworm"}
NEXT = f"{__version__}.post1"


@pytest.fixture
def cluster(postgres_programs: Installation, postgres_account: Account, tmp_path: Path) -> Iterator[Cluster]:
    deb = made(f"highlander_{__version__}-*_amd64.deb")  # or skip, before anything is fetched
    for name in ("dpkg-deb", "systemd-nspawn"):
        tool(name)
    if why := machines_lacking(tmp_path) or namespaces_lacking():
        pytest.skip(why)
    lowers = {name: root_beneath(release) for name, release in RELEASES.items()}
    cluster = Cluster(postgres_programs, postgres_account, lowers, deb, LEASE)
    try:
        following(deb, tmp_path / "tree", cluster.shared / "next.deb")
        yield cluster
    finally:
        for machine in cluster.machines:
            print(f"---- {machine.name}\n{machine.journal()}")
        cluster.close()


def following(deb: Path, tree: Path, to: Path) -> None:
    """Make the next version of a package: the same programs under another number."""
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    for path in (tree / "DEBIAN/control", tree / "usr/lib/highlander/highlanderd/__init__.py"):
        text = path.read_text()
        assert __version__ in text
        path.write_text(text.replace(__version__, NEXT))
    subprocess.run(["dpkg-deb", "-Znone", "--build", tree, to], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.timeout(900)
def test_never_two_and_each_gap_within_its_bound(cluster: Cluster) -> None:
    outcomes = []
    for fault in FAULTS:
        outcomes.append(play(cluster, fault))
        print("\n".join(table(outcomes)))
    assert [failed for outcome in outcomes for failed in outcome.failed] == []
