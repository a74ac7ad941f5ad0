"""PostgreSQL fails over to a standby: never two, nothing lost that was promised to stay, gaps within their bounds."""

from __future__ import annotations

import pytest

from .conftest import Plays, borne, faults_of
from .faults import Fault

pytestmark = [pytest.mark.chaos, pytest.mark.long]


CHOSEN = [fault for fault in faults_of("faults_failover") if not (fault.losing and fault.spares)]
"""Each has a bed of its own, which takes a while: the mildest one is for ``make chaos``."""


@pytest.mark.parametrize("fault", CHOSEN, ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    borne(chaos, fault)
