"""Settings of the role or the server that hurt: the daemons' sessions bring their own, and no child notices."""

from __future__ import annotations

import pytest

from .conftest import LEASE, Plays, faults_of
from .faults import Fault
from .rounds import one

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("fault", faults_of("faults_settings"), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    outcome = chaos(one(fault, LEASE, fault.name), fault.name)
    assert outcome.struck == 1
    assert outcome.restarts == 0
    assert not outcome.failed, f"{outcome}; see {outcome.kept}"
