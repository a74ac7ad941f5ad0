"""The network between a node and PostgreSQL breaks: never two, no update lost, gaps within their bounds."""

from __future__ import annotations

import pytest

from tests.support.long import first_of

from .conftest import Plays, borne, cases, faults_of
from .faults import Fault

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("fault", cases(faults_of("faults_network")), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    borne(chaos, fault)


@pytest.mark.parametrize(
    "fault", first_of([one for one in faults_of("faults_network") if not one.needs][:3]), ids=lambda fault: fault.name
)
def test_the_same_behind_tcp_doors(chaos_behind_doors: Plays, fault: Fault) -> None:
    borne(chaos_behind_doors, fault)
