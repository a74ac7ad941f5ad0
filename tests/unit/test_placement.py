"""Placement: for how long a node leaves a program to others, that it only delays, and when a leader gives it back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from highlanderd.config import ProgramConfig
from highlanderd.core.effects import Look, TakeOver
from highlanderd.core.events import Due, Looked, Refused, Resumed, Suspended
from highlanderd.core.machine import deadline, turns_at
from highlanderd.core.observation import Row, Suspension
from highlanderd.core.placement import DOUBLINGS, FOR_PREFERRED, FOR_SPREAD, Failback, Peers, failback, hold_back
from highlanderd.core.states import Policy, Situation
from highlanderd.postgres.standing import Standing, StandingReader
from highlanderd.postgres.survey import Leader
from highlanderd.structs import replace
from highlanderd.worker.placement import Placement
from tests.support.core import POLICY, L, go, observation, row, waiting

FREE = row(released=True)
SECOND = Policy(node="here", instance="ours", prefer=("first", "here"))
EVEN = Policy(node="here", instance="ours", spread=True)


def looked(seen: Row, at: float, *present: str) -> tuple[float, Looked]:
    return at, Looked(observation(seen), at, keeperless=True, peers=Peers(dict.fromkeys(present, 0)))


# ---------------------------------------------------------------------------------------------------- how long, and why


@pytest.mark.parametrize(
    ("peers", "former", "why"),
    [
        (Peers({"first": 0}), FREE, "prefers first, which is present"),
        (Peers(None), FREE, "prefers first, and does not know yet whether it is present"),
        (Peers({"other": 0}), FREE, ""),
        (Peers({}), None, ""),
        (Peers({"first": 0}), row(released=True, node="first"), ""),
        (Peers({"first": 0}), row(node="first"), ""),
        (Peers({"first": 0}), row(released=True, reserved_for="here"), ""),
    ],
    ids=["present", "not known", "absent", "alone", "had its turn", "fell silent", "reserved for this node"],
)
def test_a_node_leaves_a_program_to_one_that_is_preferred_while_that_is_there(
    peers: Peers, former: Row | None, why: str
) -> None:
    held = hold_back(SECOND, peers, former)
    assert (held.seconds, held.why) == ((FOR_PREFERRED, why) if why else (0.0, ""))


def test_the_first_node_waits_for_nobody_and_one_that_is_not_named_for_all_that_are() -> None:
    both = Peers({"first": 0, "here": 0})
    assert hold_back(replace(SECOND, node="first"), both, FREE).seconds == 0
    assert hold_back(replace(SECOND, node="third"), both, FREE).why == "prefers first, which is present"
    assert hold_back(replace(SECOND, node="third"), Peers({"here": 0}), FREE).why == "prefers here, which is present"


@pytest.mark.parametrize(
    ("able", "led", "seconds"),
    [
        ({"other": 1}, 4, 0.15),
        ({"other": 4}, 4, 0.0),
        ({"other": 9, "idle": 0}, 2, 0.1),
        ({"other": 0}, 90, FOR_SPREAD),
    ],
)
def test_a_node_that_leads_more_waits_a_little_for_each_program_that_it_leads_more(
    able: Mapping[str, int], led: int, seconds: float
) -> None:
    assert hold_back(EVEN, Peers(able, led), FREE).seconds == pytest.approx(seconds)
    assert hold_back(replace(EVEN, spread=False), Peers(able, led), FREE).seconds == 0


def test_programs_are_spread_only_over_nodes_that_are_preferred_alike() -> None:
    assert hold_back(replace(EVEN, prefer=("here",)), Peers({"other": 0}, 9), FREE).seconds == 0


@pytest.mark.parametrize(
    ("peers", "seconds"),
    [
        (Peers({}, others={"first": 0}), FOR_PREFERRED),
        (Peers({"first": 0}), FOR_PREFERRED),
        (Peers({}, others={"other": 0}), 0.0),
    ],
    ids=["present", "back already", "absent"],
)
def test_a_preferred_node_that_led_last_is_waited_for_after_a_stop_everywhere(peers: Peers, seconds: float) -> None:
    stopped = row(released=True, node="first")
    assert hold_back(SECOND, peers, stopped, since_recalled=0.1).seconds == seconds
    assert hold_back(SECOND, peers, stopped, since_recalled=FOR_PREFERRED).seconds == 0
    assert hold_back(SECOND, peers, stopped).seconds == 0


def test_programs_are_spread_over_all_nodes_that_are_present_after_a_stop_everywhere() -> None:
    assert hold_back(EVEN, Peers({}, 4, {"other": 1}), FREE, since_recalled=0.1).seconds == pytest.approx(0.15)


# ------------------------------------------------------------------------------------------------------------ it delays


def held() -> Situation:
    """A program that became free at 1, while a preferred node is present."""
    return go(waiting(), looked(FREE, 1.0, "first"), policy=SECOND)[0]


def test_what_is_left_to_another_node_is_not_claimed_and_says_why() -> None:
    situation, effects = go(waiting(), looked(FREE, 1.0, "first"), policy=SECOND)
    assert effects == ()
    assert situation.reason == "prefers first, which is present"
    assert turns_at(situation, looked(FREE, 1.0, "first")[1], 1.5, SECOND) == 3.0


def test_it_is_claimed_after_a_look_when_the_time_is_over_though_the_other_node_is_still_there() -> None:
    situation = held()
    assert deadline(situation, SECOND) == pytest.approx(3.0)
    situation, effects = go(situation, (3.0, Due()), policy=SECOND)
    assert effects == (Look(),)
    _, [effect] = go(situation, looked(FREE, 3.0, "first"), policy=SECOND)
    assert isinstance(effect, TakeOver)


@pytest.mark.parametrize("drained", [False, True])
def test_what_was_stopped_everywhere_is_left_to_the_preferred_node_and_what_was_drained_here_is_not(
    drained: bool,
) -> None:
    back = Looked(observation(FREE), 1.0, keeperless=True, peers=Peers({}, others={"first": 0}))
    order = Suspended(Suspension(drained, "ann", "new disk"))
    situation, effects = go(waiting(), (0.5, order), (0.9, Resumed()), (1.0, back), policy=SECOND)
    assert any(isinstance(effect, TakeOver) for effect in effects) is drained
    assert (turns_at(situation, back, 1.5, SECOND) == 3.0) is not drained
    if not drained:
        _, [effect] = go(situation, (3.0, replace(back, at=3.0)), policy=SECOND)
        assert isinstance(effect, TakeOver), "it has not come back"


def test_it_is_claimed_at_once_when_the_other_node_is_gone() -> None:
    _, [effect] = go(held(), looked(FREE, 1.5), policy=SECOND)
    assert isinstance(effect, TakeOver)


def test_a_refusal_does_not_begin_the_time_anew_and_another_term_does() -> None:
    situation, _ = go(held(), looked(FREE, 3.0, "first"), (3.1, Refused(0.2, "")), policy=SECOND)
    assert isinstance(go(situation, looked(FREE, 3.3, "first"), policy=SECOND)[1][0], TakeOver)
    later = row(released=True, epoch=6)
    assert go(held(), looked(later, 3.0, "first"), policy=SECOND)[1] == ()


def test_a_lease_is_waited_for_whoever_is_preferred() -> None:
    first = replace(SECOND, node="first")
    situation, effects = go(waiting(), looked(row(), 0.0), looked(row(), L.wait - 0.1), policy=first)
    assert effects == ()
    assert isinstance(go(situation, looked(row(), L.wait), policy=first)[1][0], TakeOver)


# ---------------------------------------------------------------------------------------------------------- given back


def back(before: Failback | None, now: float, epoch: int = 7, former: Row | None = FREE, **able: str) -> Failback:
    return failback(before, epoch, former, SECOND, able, now)


def test_the_time_counts_while_a_preferred_node_could_lead_without_a_break() -> None:
    found = back(back(None, 1.0, first="x"), 5.0, first="x")
    assert (found.node, found.since) == ("first", 1.0)
    assert back(found, 6.0, first="y").since == 6.0
    assert back(found, 6.0).node == ""
    assert back(back(found, 6.0), 7.0, first="x").since == 7.0


def test_nothing_is_given_back_to_a_node_that_is_not_preferred_to_this_one() -> None:
    assert back(None, 1.0, other="x").node == ""


@pytest.mark.parametrize(
    ("former", "failures"),
    [
        (row(released=True, node="first", reason="exited"), 2),
        (row(released=True, node="first", reason="not_ready"), 2),
        (row(released=True, node="here", reserved_for="first"), 2),
        (row(released=True, node="first", reserved_for="here"), 2),
        (row(released=True, node="first", reason="stopped"), 0),
        (row(released=True, node="other", reason="exited"), 0),
    ],
    ids=["failed there", "never ready there", "not taken over", "sent back", "stopped there", "failed elsewhere"],
)
def test_the_time_doubles_with_each_failure_there_in_a_row(former: Row, failures: int) -> None:
    given = Failback(7, "first", "x", 10.0, failures=1)
    found = back(given, 20.0, epoch=9, former=former, first="x")
    assert found.failures == failures
    assert found.due(60.0) == 20.0 + 60.0 * 2**failures


def test_the_time_doubles_no_further_however_often_it_fails_there() -> None:
    assert Failback(7, "first", "x", failures=2000).due(1.0) == 2.0**DOUBLINGS


# ----------------------------------------------------------------------------------------------------------- the worker


def leader(node: str, *, leads: bool = True) -> Leader:
    return Leader(node, node, 1, 1, leads)


def test_what_other_nodes_lead_is_counted_and_who_does_not_wait_for_the_program_is_left_out() -> None:
    placement = Placement(lambda: {1: leader("a"), 2: leader("a"), 3: leader("b", leads=False), 4: leader("c")})
    assert placement.peers("beat", 5) == Peers(None, 5)
    waits = {"a": {"beat": "1"}, "b": {"beat": "1"}, "c": {"bot": "1"}}
    placement.read(Standing(waits, others={"c": frozenset({"beat"}), "a": frozenset({"bot"})}))
    assert placement.peers("beat", 5) == Peers({"a": 2, "b": 0}, 5, {"c": 1})


def test_a_program_is_released_to_the_preferred_node_once_that_has_been_able_for_its_time() -> None:
    placement = Placement(dict)
    program: Any = SimpleNamespace(
        name="beat", term=SimpleNamespace(epoch=7), state="leading", policy=SECOND, former=FREE
    )
    config = ProgramConfig(name="beat", command=("true",), failback=600.0)
    placement.read(Standing({"first": {"beat": "1"}}))
    assert not list(placement.given_back([(program, config)], 100.0))
    assert placement.returns(program, config) == ("first", 700.0)
    assert not list(placement.given_back([(program, config)], 699.0))
    [(name, order)] = placement.given_back([(program, config)], 700.0)
    assert (name, order.to) == ("beat", "first")
    assert order.by.remark == "first is preferred, and has been able to lead it for 10m"
    assert not list(placement.given_back([(program, ProgramConfig(name="beat", command=("true",)))], 9e9))


READ = {
    "peers": [("a", '{"beat": "1.5", "bot": 7}', '{"db": "2"}'), ("b", "[1]", "7"), ("c", None, None)],
    "up": [
        ("db", "t", None, None),
        ("migrate", "f", "0", None),
        ("import", "f", None, "SIGKILL"),
        ("odd", "f", "x", None),
    ],
}


@pytest.mark.parametrize("wanted", [True, False])
def test_what_others_have_written_into_the_ledger_is_read_as_text_or_not_at_all(wanted: bool) -> None:
    read: list[Standing] = []

    async def inquire(name: str, *_: object) -> object:
        return SimpleNamespace(error=None, rows=READ[name])

    async def once(_about: str, look: Any) -> None:
        await look()

    listener: Any = SimpleNamespace(shares=True, facts=object(), inquire=inquire, follow=once)
    asyncio.run(StandingReader(listener, "here", read.append, lambda: wanted).run())
    [found] = read
    assert found.waiting == {"a": {"beat": "1.5", "bot": "7"}, "b": {}, "c": {}}
    assert found.others == {"a": {"db"}, "b": set(), "c": set()}
    assert found.ready == ({"db"} if wanted else set())
    ended = {"migrate": (0, None), "import": (None, "SIGKILL"), "odd": (None, None)}
    assert found.finished == (ended if wanted else {})


# -------------------------------------------------------------------------------------------------- starts after others


def test_a_program_waits_for_what_it_starts_after_however_long_that_takes() -> None:
    lacking = Looked(observation(FREE), 1.0, keeperless=True, peers=Peers({}, missing="db"))
    situation, effects = go(waiting(), (1.0, lacking))
    assert effects == ()
    assert situation.reason == "starts after db, which is neither ready anywhere nor finished with success"
    assert turns_at(situation, lacking, 1.5, POLICY) is None
    assert deadline(situation, POLICY) == pytest.approx(3.0), "and looks again as ever"
    _, [effect] = go(situation, looked(FREE, 1000.0))
    assert isinstance(effect, TakeOver)


@pytest.mark.parametrize(
    ("restart", "ended", "up"),
    [
        ("never", (0, None), True),
        ("never", (3, None), True),
        ("never", (1, None), False),
        ("never", (None, "SIGTERM"), False),
        ("never", (None, None), False),
        ("on-failure", (None, None), True),
    ],
)
def test_a_program_that_has_finished_is_up_if_it_ended_as_it_should(
    restart: Any, ended: tuple[int | None, str | None], up: bool
) -> None:
    codes = frozenset({0, 3})
    config = ProgramConfig(name="migrate", command=("true",), restart=restart, success_exit_codes=codes)
    placement = Placement(dict)
    assert not placement.is_up(config), "while nothing is known"
    placement.read(Standing(finished={"migrate": ended}))
    assert placement.is_up(config) is up
    placement.read(Standing(ready=frozenset({"migrate"})))
    assert placement.is_up(config)
    placement.read(Standing())
    assert not placement.is_up(config)
