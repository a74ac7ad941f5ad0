"""Which orders wait for a turn, and which are passed on at once: `highlanderd/worker/leave_orders.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import cast

import pytest

from highlanderd.core.events import (
    EndOrdered,
    Event,
    ReleaseOrdered,
    RestartOrdered,
    Resumed,
    StartOrdered,
    StopOrdered,
    Suspended,
)
from highlanderd.core.lease import Lengths
from highlanderd.core.observation import Suspension
from highlanderd.core.states import Cause, Draining, Killing, Releasing, Situation, Stopping, Term, Waiting, Want
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.standing import Standing
from highlanderd.worker.leave_orders import LeaveOrders
from highlanderd.worker.leave_turns import AT_ONCE, LATE_AT_MOST, LED_WITHIN, STOPS_WITHIN
from highlanderd.worker.member import Member
from highlanderd.worker.placement import Placement
from tests.support.driven_loop import DrivenLoop

NAMES = [f"p{number}" for number in range(AT_ONCE + 3)]
LAST = NAMES[-1]
DRAIN = Suspension(True, "uid 0 on node a", "new disk")
STOP = Suspension(False, "uid 0 on node a", "")
END = EndOrdered(Cause.SHUTDOWN)


class Fake:
    """A program as far as orders know it."""

    def __init__(self, name: str, programs: Programs) -> None:
        self.name, self.post, self._states = name, programs.told[name].append, programs.states
        self.situation = SimpleNamespace(state=Waiting(0.0))

    @property
    def state(self) -> str:
        return self._states[self.name]


class Programs:
    """Programs that this node leads and another one waits for, and what each was told."""

    def __init__(self, waited_for: list[str] | None = NAMES) -> None:
        self.told: dict[str, list[Event]] = {name: [] for name in NAMES}
        self.states = dict.fromkeys(NAMES, "leading")
        self.connected, self._hints = True, list[Callable[[], None]]()
        self.members = {name: self._member(name) for name in NAMES}
        placement = Placement(dict)
        if waited_for is not None:
            placement.read(Standing({"b": dict.fromkeys(waited_for, "1")}))
        self.orders = LeaveOrders(self.members, placement, cast("Listener", self))

    def _member(self, name: str) -> Member:
        return cast("Member", SimpleNamespace(program=Fake(name, self), lock_id=NAMES.index(name)))

    def hint(self, _about: str, callback: Callable[[], None]) -> Callable[[], None]:
        self._hints.append(callback)
        return lambda: self._hints.remove(callback)

    def lose_listener(self) -> None:
        """Lose the session that notifies, which wakes all."""
        self.connected = False
        self.lead()

    def lead(self) -> None:
        """Have another node lead those whose turn it is."""
        for callback in tuple(self._hints):
            callback()

    def give(self, order: Event) -> None:
        """Order all of them."""
        for member in self.members.values():
            self.orders.give(member, order)

    @property
    def ordered(self) -> int:
        """How many were told anything."""
        return sum(map(bool, self.told.values()))


def driven(story: Callable[[], None]) -> None:
    """Run a story within a loop whose clock stands still."""

    async def main() -> None:
        story()

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize("order", [END, Suspended(DRAIN), ReleaseOrdered(None, 30.0)])
def test_what_another_node_is_to_lead_leaves_in_turn(order: Event) -> None:
    def story() -> None:
        programs = Programs()
        programs.give(order)
        assert programs.ordered == AT_ONCE

    driven(story)


@pytest.mark.parametrize(
    "order", [EndOrdered(Cause.CHANGED), EndOrdered(Cause.REMOVED), Suspended(STOP), RestartOrdered(), StopOrdered()]
)
def test_what_must_not_be_forgotten_or_is_to_be_led_nowhere_else_is_told_at_once(order: Event) -> None:
    def story() -> None:
        programs = Programs()
        programs.give(order)
        assert programs.ordered == len(NAMES)

    driven(story)


def test_nothing_waits_for_a_turn_without_a_peer_that_waits_or_without_postgresql_or_when_it_is_not_led_here() -> None:
    def story() -> None:
        alone, cut_off, idle = Programs([]), Programs(), Programs()
        cut_off.connected = False
        idle.states.update(dict.fromkeys(NAMES, "waiting"))
        for programs in (alone, cut_off, idle):
            programs.give(END)
            assert programs.ordered == len(NAMES)

    driven(story)


def test_a_worker_that_goes_on_with_a_drain_has_programs_leave_in_turn_and_for_a_moment_only() -> None:
    async def story() -> None:
        programs = Programs(None)
        programs.connected = False
        programs.give(END)
        assert programs.ordered == AT_ONCE
        await asyncio.sleep(LATE_AT_MOST * LED_WITHIN)
        assert programs.ordered == len(NAMES)

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(story())


def test_nothing_waits_once_haste_was_ordered_or_the_listener_is_lost() -> None:
    def story() -> None:
        hastened, cut_off = Programs(), Programs()
        hastened.give(END)
        hastened.orders.hasten()
        assert hastened.ordered == len(NAMES)
        hastened.give(ReleaseOrdered(None, 30.0))
        assert all(len(told) == 2 for told in hastened.told.values())
        cut_off.give(END)
        cut_off.lose_listener()
        assert cut_off.ordered == len(NAMES)

    driven(story)


def test_a_program_whose_term_ends_while_it_waits_is_told_what_was_ordered() -> None:
    def story() -> None:
        programs = Programs()
        programs.give(END)
        programs.orders.follow(LAST)
        assert programs.told[LAST] == []
        programs.states[LAST] = "draining"
        programs.orders.follow(LAST)
        assert programs.told[LAST] == [END]

    driven(story)


@pytest.mark.parametrize(("phase", "others"), [(Stopping(inf), 1), (Killing(), 1), (Releasing(), 0)])
def test_the_next_one_waits_for_a_node_that_takes_over_and_not_for_a_child_that_stops(
    phase: Stopping | Killing | Releasing, others: int
) -> None:
    async def story() -> None:
        programs = Programs()
        programs.give(END)
        draining = Draining(Term(1, Lengths.alike(10), 0.0, 0.0), phase, Cause.SHUTDOWN, inf)
        programs.members[NAMES[0]].program.situation = Situation(Want.STOP, draining)
        await asyncio.sleep(1.5 * STOPS_WITHIN)
        assert programs.ordered == AT_ONCE + others

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(story())


def test_a_program_that_is_gone_while_it_waits_holds_up_no_other() -> None:
    def story() -> None:
        programs = Programs()
        programs.give(END)
        gone, *left = NAMES[AT_ONCE:]
        del programs.members[gone]
        programs.orders.follow(gone)
        programs.lead()
        assert programs.told[gone] == []
        assert all(programs.told[name] for name in left[:AT_ONCE])

    driven(story)


def test_a_later_order_comes_later_and_a_drain_that_is_lifted_concerns_nobody_who_waits() -> None:
    def story() -> None:
        programs = Programs()
        programs.give(ReleaseOrdered(None, 30.0))
        programs.give(Suspended(DRAIN))
        programs.orders.resume(DRAIN)
        programs.orders.give(programs.members[LAST], StartOrdered())
        assert programs.told[LAST] == [ReleaseOrdered(None, 30.0), StartOrdered()]
        assert programs.told[NAMES[0]] == [ReleaseOrdered(None, 30.0), Suspended(DRAIN)]
        programs.orders.give(programs.members[NAMES[0]], Resumed())
        assert programs.told[NAMES[0]][-1] == Resumed()

    driven(story)
