"""Orders of operators, and many faults at once that overlap: never two, no update lost."""

from __future__ import annotations

import pytest

from tests.support.long import first_of

from .conftest import LEASE, Plays, borne, cases, faults_of
from .faults import Fault, registry
from .rounds import many

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("fault", cases(faults_of("faults_orders")), ids=lambda fault: fault.name)
def test_never_two_and_nothing_lost(chaos: Plays, fault: Fault) -> None:
    borne(chaos, fault)


@pytest.mark.parametrize("seed", first_of(["many/1", "many/2"]))
def test_many_at_once(chaos: Plays, seed: str) -> None:
    crowd = [fault for fault in registry().values() if fault.crowded]
    outcome = chaos(many(crowd, 5, LEASE, seed), seed)
    assert outcome.struck
    assert not outcome.failed, f"{outcome}; see {outcome.kept}"
