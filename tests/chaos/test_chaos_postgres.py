"""PostgreSQL restarts, crashes and hangs: never two, no update lost, gaps within their bounds."""

from __future__ import annotations

import pytest

from .conftest import LEASE, Plays, faults_of
from .faults import Fault
from .rounds import one

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("fault", faults_of("faults_postgres"), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    outcome = chaos(one(fault, LEASE, fault.name), fault.name)
    assert outcome.struck == 1
    assert not outcome.failed, f"{outcome}; see {outcome.kept}"
