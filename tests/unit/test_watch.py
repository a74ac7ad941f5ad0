"""Programs that are watched together: which surveys have them look, and since when a version was seen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from highlanderd.core.observation import Glimpse, LedElsewhere, Observation
from highlanderd.postgres.ledger import LedgerFacts
from highlanderd.postgres.memory import NodeMemory
from highlanderd.postgres.survey import Survey
from highlanderd.postgres.watch import Watch
from highlanderd.structs import replace
from tests.support.core import LOCK_ID, SERVER, L, observation, row

SEEN = observation(row())
FACTS = LedgerFacts(
    version=4,
    compatible_from=2,
    namespace="highlander",
    ledger="the ledger",
    lease=L.length,
    ceiling=L.length,
    wanted=L.length,
    where=(SERVER.system, SERVER.timeline, SERVER.place),
    settled=True,
    offsets="{}",
    maintenance=None,
)


class Watcher:
    """Counts how often it was advised to look."""

    watched_id = LOCK_ID

    def __init__(self) -> None:
        self.advised = 0

    def advise(self) -> None:
        self.advised += 1


class Bed:
    """A survey, its watch, and one watcher that is admitted at 0."""

    def __init__(self) -> None:
        self.survey, self.watcher = Survey(NodeMemory()), Watcher()
        self.watch = Watch(self.survey)
        self.show(0.0)
        assert self.watch.admit(self.watcher, SEEN, 0.0)

    def show(self, at: float, facts: LedgerFacts = FACTS, position: int = 100, **changed: Any) -> int:
        """Survey, and return how often the watcher was advised so far."""
        shown = row(**changed)
        server = SERVER.system, SERVER.timeline, changed.get("started", "a"), position, SERVER.place
        term = shown.node, shown.instance, shown.epoch, shown.renewal, not shown.released, shown.program
        said = [[shown.lock_id, [*term, shown.trusted_for, shown.system, shown.timeline]]]
        self.survey.read((*map(str, server), json.dumps(said)), facts, at)
        self.watch.compare(at)
        return self.watcher.advised


def test_renewals_advise_nobody() -> None:
    bed = Bed()
    assert [bed.show(2.0 * n, renewal=9 + n, position=100 + n) for n in range(20)] == [0] * 20


@pytest.mark.parametrize(
    "change", [{"released": True}, {"epoch": 6}, {"trusted_for": 60.0}, {"system": 2}, {"lock_id": 8}], ids=str
)
def test_anything_but_a_renewal_has_the_program_look_once(change: dict[str, Any]) -> None:
    bed = Bed()
    assert [bed.show(2.0, renewal=10), bed.show(4.0, renewal=11, **change), bed.show(6.0, renewal=12)] == [0, 1, 1]


def test_silence_of_half_a_lease_has_it_look() -> None:
    bed = Bed()
    assert [bed.show(2.0, renewal=10), bed.show(4.0, renewal=10), bed.show(6.9, renewal=10)] == [0, 0, 0]
    assert bed.show(7.0, renewal=10) == 1


def test_what_changes_about_the_ledger_has_all_look() -> None:
    for facts in (replace(FACTS, settled=False), replace(FACTS, ceiling=60.0), replace(FACTS, where=(1, 4, "p"))):
        assert Bed().show(2.0, facts, renewal=10) == 1


def test_surveys_that_do_not_come_have_all_look() -> None:
    async def scenario() -> None:
        bed = Bed()
        bed.watch.expect(replace(L, length=0.05))
        while not bed.watcher.advised:  # noqa: ASYNC110 - it does no more than count
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(scenario(), 60))


ELSEWHERE = LedElsewhere("relay", "far", (9, 5, 1), L)


@pytest.mark.parametrize(
    ("seen", "now"),
    [
        (observation(None), 0.0),
        (observation(row(), settled=False), 0.0),
        (observation(row(), row(lock_id=8)), 0.0),
        (observation(row(), server=replace(SERVER, started="b")), 0.0),
        (observation(row(system=2)), 0.0),
        (replace(SEEN, elsewhere=(ELSEWHERE,)), 0.0),
        (SEEN, 2.6),
    ],
    ids=["no row", "unsettled", "two keys", "another run", "another server's row", "led elsewhere", "late survey"],
)
def test_a_program_is_not_watched_where_surveys_do_not_show_all_that_its_look_has(
    seen: Observation, now: float
) -> None:
    bed = Bed()
    assert not bed.watch.admit(Watcher(), seen, now)


def test_a_version_is_glimpsed_since_the_survey_that_showed_it_first() -> None:
    bed = Bed()
    bed.show(2.0, renewal=10, position=110)
    bed.show(4.0, renewal=10, position=120)
    assert bed.survey.glimpse(LOCK_ID) == Glimpse(replace(SERVER, position=120), (5, 10), 2.0)
    bed.show(6.0, renewal=10, position=119)  # another run
    assert bed.survey.glimpse(LOCK_ID) == Glimpse(replace(SERVER, position=119), (5, 10), 6.0)


def test_a_row_that_was_written_through_another_server_is_not_glimpsed() -> None:
    bed = Bed()
    bed.show(2.0, system=2)
    assert bed.survey.glimpse(LOCK_ID) is None
    assert bed.survey.glimpse(8) is None
