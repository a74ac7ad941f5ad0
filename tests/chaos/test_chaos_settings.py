"""Settings of the role or the server that hurt: the daemons' sessions bring their own, and no child notices."""

from __future__ import annotations

import pytest

from .conftest import Plays, borne, faults_of
from .faults import Fault
from .faults_settings import TOGETHER

pytestmark = [pytest.mark.chaos, pytest.mark.long]


CHOSEN = [fault for fault in faults_of("faults_settings") if fault.name in (TOGETHER, "server set read-only")]
"""One round for all settings of a role: ``make chaos`` plays each of them."""


@pytest.mark.parametrize("fault", CHOSEN, ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    assert borne(chaos, fault).restarts == 0
