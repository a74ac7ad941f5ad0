"""The network between a node and PostgreSQL breaks: never two, no update lost, gaps within their bounds."""

from __future__ import annotations

import pytest

from .conftest import Plays, borne, faults_of
from .faults import Fault

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("fault", faults_of("faults_network"), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    borne(chaos, fault)


@pytest.mark.parametrize(
    "fault", [one for one in faults_of("faults_network") if not one.needs][:3], ids=lambda fault: fault.name
)
def test_the_same_behind_tcp_doors(chaos_behind_doors: Plays, fault: Fault) -> None:
    borne(chaos_behind_doors, fault)
