"""The wall clock of a node is stepped: no child notices."""

from __future__ import annotations

import pytest

from .conftest import Plays, borne, cases, faults_of
from .faults import Fault

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("fault", cases(faults_of("faults_clock")), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    borne(chaos, fault)
