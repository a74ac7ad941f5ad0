"""The lengths of leases change while programs run: no child notices."""

from __future__ import annotations

import pytest

from .conftest import Plays, borne, faults_of
from .faults import Fault

pytestmark = [pytest.mark.chaos, pytest.mark.long]


@pytest.mark.parametrize("fault", [one for one in faults_of("faults_lengths") if one.spares], ids=lambda one: one.name)
def test_no_child_is_replaced(chaos: Plays, fault: Fault) -> None:
    assert borne(chaos, fault).restarts == 0
