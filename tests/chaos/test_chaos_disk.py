"""PostgreSQL has no room for its writes: never two, no update lost, and led again once there is room."""

from __future__ import annotations

import shutil

import pytest

from .conftest import Plays, borne, faults_of
from .faults import Fault
from .faults_disk import PRLIMIT

pytestmark = [pytest.mark.chaos, pytest.mark.long]


@pytest.mark.skipif(not shutil.which(PRLIMIT), reason="prlimit of util-linux is not there")
@pytest.mark.parametrize("fault", faults_of("faults_disk"), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    borne(chaos, fault)
