"""PostgreSQL fails over to a standby: never two, nothing lost that was promised to stay, gaps within their bounds."""

from __future__ import annotations

import pytest

from .conftest import LEASE, Plays, faults_of
from .faults import Fault
from .rounds import one

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("fault", faults_of("faults_failover"), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    outcome = chaos(one(fault, LEASE, fault.name), fault.name)
    assert outcome.struck == 1
    assert not outcome.failed, f"{outcome}; see {outcome.kept}"
