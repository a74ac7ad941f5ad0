"""What was promised on one ledger is waited for on any other, and by the next daemon of the node."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from highlanderd.core.knowledge import Knowledge, observe
from highlanderd.core.lease import Lease
from highlanderd.core.observation import LedElsewhere
from highlanderd.core.promise import Promise, Promises
from highlanderd.core.verdict import Claim, NotYet, Settle, judge
from highlanderd.postgres.memory import NodeMemory
from highlanderd.structs import replace
from tests.support.core import HERE, L, observation, row

LONG = Promise(system=1, timeline=3, place="the ledger", ceiling=90.0, lease=10.0)
SHORT = replace(LONG, ceiling=10.0)
OTHER = replace(SHORT, place="another ledger")
FREE = row(released=True)


def led_elsewhere(renewal: int) -> LedElsewhere:
    return LedElsewhere("relay", "there", (8, 5, renewal), L)


def after(*answers: tuple[float, Promise, bool]) -> Promise | None:
    """Return the promise to wait for after answers: moment, what was said, and whether the ledger was settled."""
    promises = Promises()
    for at, found, settled in answers:
        promises = promises.after(found, at, settled=settled)
    return promises.kept


# -------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("settled", [True, False])
def test_a_longer_promise_counts_at_once(settled: bool) -> None:
    assert after((0.0, SHORT, True), (1.0, LONG, settled)) == LONG


def test_a_settled_ledger_lowers_its_own_promise() -> None:
    assert after((0.0, LONG, True), (1.0, SHORT, True)) == SHORT


def test_a_ledger_that_has_not_settled_lowers_nothing() -> None:
    assert after((0.0, LONG, True), (1.0, SHORT, False), (200.0, SHORT, False)) == LONG


def test_another_ledger_lowers_a_promise_only_once_it_was_waited_out() -> None:
    met = ((0.0, LONG, True), (1.0, OTHER, True))
    assert after(*met, (95.4, OTHER, True)) == LONG
    assert after(*met, (95.6, OTHER, True)) == OTHER


def test_a_third_ledger_begins_the_wait_anew() -> None:
    third = replace(OTHER, place="a third")
    assert after((0.0, LONG, True), (1.0, OTHER, True), (90.0, third, True), (100.0, third, True)) == LONG


def test_what_another_ledger_promises_beyond_the_kept_one_is_kept_with_it() -> None:
    longer = replace(OTHER, ceiling=120.0)
    assert after((0.0, LONG, True), (1.0, longer, True)) == replace(LONG, ceiling=120.0)


def test_a_promise_binds_everybody_until_another_ledger_has_settled_and_then_this_node_alone() -> None:
    memory = NodeMemory()
    memory.learn_promise(LONG, 0.0, settled=True)
    memory.learn_promise(OTHER, 1.0, settled=False)
    assert memory.binding == 90.0
    memory.learn_promise(OTHER, 2.0, settled=True)
    memory.learn_promise(replace(OTHER, timeline=4), 3.0, settled=False)
    assert (memory.binding, memory.promise) == (0.0, LONG)


@pytest.mark.parametrize(
    ("lease", "ceiling"), [(10.0, 9.0), (0.0, 9.0), (10.0, 1e6), (10.0, float("inf")), (float("nan"), 9.0)]
)
def test_lengths_that_make_no_sense_are_no_promise(lease: float, ceiling: float) -> None:
    with pytest.raises(ValueError, match="cannot go with"):
        replace(LONG, lease=lease, ceiling=ceiling)


# ------------------------------------------------------------------------------------- what the next daemon waits for


@pytest.mark.parametrize("settled", [True, False])
def test_a_node_that_knew_a_longer_lease_waits_for_it_on_another_ledger(settled: bool) -> None:
    seen = observation(FREE, settled=settled)
    elsewhere = replace(seen, server=replace(seen.server, place="another ledger"))
    if settled:
        elsewhere = replace(elsewhere, meta=replace(elsewhere.meta, settled=(1, 3, "another ledger")))
    knowledge = observe(LONG.knowledge(), elsewhere, 100.0)
    assert isinstance(judge(elsewhere, knowledge, 194.4, HERE), NotYet)
    assert isinstance(judge(elsewhere, knowledge, 194.6, HERE), Claim if settled else Settle)


def test_a_restarted_daemon_claims_at_once_on_the_ledger_that_it_knew() -> None:
    knowledge = observe(LONG.knowledge(), observation(FREE), 100.0)
    assert isinstance(judge(observation(FREE), knowledge, 100.0, HERE), Claim)


def test_a_program_that_did_not_look_waits_for_what_its_node_has_seen_promised() -> None:
    knowledge = observe(SHORT.knowledge(), observation(FREE), 0.0)
    elsewhere = replace(observation(FREE), server=replace(observation(FREE).server, place="another ledger"))
    elsewhere = replace(elsewhere, meta=replace(elsewhere.meta, settled=(1, 3, "another ledger")), promised=Lease(90.0))
    knowledge = observe(knowledge, elsewhere, 100.0)
    assert isinstance(judge(elsewhere, knowledge, 194.4, HERE), NotYet)
    assert isinstance(judge(elsewhere, knowledge, 194.6, HERE), Claim)


def test_a_ledger_that_goes_back_in_two_steps_has_promised_what_its_rows_carried() -> None:
    led = row(trusted_for=90.0, renewal=9)
    knowledge = observe(Knowledge(), observation(led, ceiling=90.0), 0.0)
    knowledge = observe(knowledge, observation(led), 100.0)  # meta is from an older dump already
    back = observation(row(released=True, renewal=3))
    knowledge = observe(knowledge, back, 104.0)
    assert isinstance(judge(back, knowledge, 198.4, HERE), NotYet)
    assert isinstance(judge(back, knowledge, 198.6, HERE), Claim)


def test_rows_that_are_led_through_another_server_bar_all_others_until_they_stand_still() -> None:
    first = replace(observation(FREE, ceiling=90.0), elsewhere=(led_elsewhere(1),))
    second = replace(first, elsewhere=(led_elsewhere(2),))
    knowledge = observe(observe(LONG.knowledge(), first, 100.0), second, 104.0)
    assert judge(second, knowledge, 110.5, HERE) == NotYet(
        104.0 + L.wait, "relay is led by there through another server"
    )
    assert isinstance(judge(second, knowledge, 114.6, HERE), Claim)
    over = observe(knowledge, observation(FREE, ceiling=90.0), 106.0)
    assert isinstance(judge(observation(FREE), over, 106.0, HERE), Claim)


# ---------------------------------------------------------------------------------------------------- where it is kept


def test_a_promise_outlives_the_daemon(tmp_path: Path) -> None:
    memory = NodeMemory(tmp_path / "timelines")
    memory.learn_promise(LONG, 0.0, settled=True)
    memory.keep()
    assert NodeMemory(tmp_path / "timelines").promise == LONG


def test_a_promise_outlives_the_worker_on_a_disk_that_takes_nothing() -> None:
    memory, successor = NodeMemory(), NodeMemory()
    memory.learn_promise(LONG, 0.0, settled=True)
    memory.learn_epoch(5 << 32)
    successor.inherit(memory.facts())
    assert (successor.promise, successor.generation) == (LONG, 5)


FACTS = {"system": 1, "timeline": 3, "place": "", "ceiling": 90.0, "lease": 10.0}
WRONG = (
    {"ceiling": float("inf")},
    {"ceiling": 1e6},
    {"lease": 1e-9},
    {"lease": 61.0},
    {"timeline": -1},
    {"system": None},
)


@pytest.mark.parametrize("text", ["[]", "7", '{"system": 1}', "nonsense", *(json.dumps(FACTS | one) for one in WRONG)])
def test_a_promise_that_cannot_be_read_is_no_error(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "promise").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert NodeMemory(tmp_path / "timelines").promise is None
    assert str(tmp_path / "promise") in caplog.text


@pytest.mark.parametrize("facts", [{}, {"timelines": 7}, {"timelines": {"7": 3}, "promise": {"place": "x"}}])
def test_what_another_versions_worker_has_left_is_no_error(facts: dict[str, object]) -> None:
    memory = NodeMemory()
    memory.inherit(facts)
    assert memory.promise is None
