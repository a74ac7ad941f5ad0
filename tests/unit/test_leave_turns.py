"""Few programs leave at a time, each once, and none waits for ever: `highlanderd/worker/leave_turns.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from highlanderd.core.events import EndOrdered, ReleaseOrdered
from highlanderd.core.states import Cause
from highlanderd.worker.leave_turns import (
    AT_ONCE,
    LATE_AT_MOST,
    LED_WITHIN,
    STOPS_WITHIN,
    WHOLE,
    LeaveOrder,
    LeaveTurns,
)
from tests.support.driven_loop import DrivenLoop

NAMES = [f"p{number}" for number in range(3 * AT_ONCE)]
END = EndOrdered(Cause.SHUTDOWN)
RELEASE = ReleaseOrdered(None, 30.0)


class Programs:
    """Programs that are to leave: what each was told, and which of them have a child or are led elsewhere."""

    def __init__(self) -> None:
        self.turns = LeaveTurns(self._give, self._follow, lambda program: program in self.stopping)
        self.told, self.stopping = list[tuple[str, LeaveOrder]](), set[str]()
        self._followed: dict[str, Callable[[], None]] = {}

    def _give(self, program: str, order: LeaveOrder) -> None:
        self.told.append((program, order))

    def _follow(self, program: str, led: Callable[[], None]) -> Callable[[], None]:
        assert program not in self._followed
        self._followed[program] = led
        return partial(self._followed.__delitem__, program)

    @property
    def left(self) -> list[str]:
        """Those that were told to end, in this order."""
        return [program for program, _ in self.told]

    @property
    def under_way(self) -> list[str]:
        """Those whose turn it is."""
        return list(self._followed)

    def end(self, names: list[str] = NAMES) -> None:
        """Order all of these to end."""
        for name in names:
            self.turns.ask(name, END)

    def lead(self, program: str) -> None:
        """Have another node lead it."""
        if program in self._followed:
            self._followed[program]()


def driven(story: Callable[[Programs], Awaitable[None]]) -> None:
    """Run a story on a clock of its own."""

    async def main() -> None:
        await story(Programs())

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())


def test_few_leave_at_once_and_the_next_one_when_another_node_leads_the_first() -> None:
    async def story(programs: Programs) -> None:
        programs.end()
        assert programs.left == NAMES[:AT_ONCE]
        programs.lead(NAMES[1])
        programs.lead(NAMES[1])
        programs.lead(NAMES[-1])
        assert programs.left == NAMES[: AT_ONCE + 1]

    driven(story)


def test_a_child_that_stops_slowly_holds_up_no_other_program() -> None:
    async def story(programs: Programs) -> None:
        programs.stopping = {NAMES[0]}
        programs.end()
        await asyncio.sleep(STOPS_WITHIN * 1.5)
        assert programs.left == NAMES[: AT_ONCE + 1]
        assert NAMES[0] not in programs.under_way

    driven(story)


def test_a_node_that_takes_over_slowly_holds_them_up_for_a_moment_and_one_that_never_does_not_for_long() -> None:
    async def story(programs: Programs) -> None:
        names = [f"p{number}" for number in range(10 * AT_ONCE)]
        programs.end(names)
        await asyncio.sleep(LED_WITHIN * 0.9)
        assert programs.left == names[:AT_ONCE]
        await asyncio.sleep(LED_WITHIN * 0.2)
        assert programs.left == names[: 2 * AT_ONCE]
        await asyncio.sleep(LED_WITHIN * (LATE_AT_MOST / AT_ONCE - 1))
        assert programs.left == names

    driven(story)


def test_only_those_that_are_late_in_a_row_end_the_turns() -> None:
    async def story(programs: Programs) -> None:
        programs.end([f"p{number}" for number in range(10 * LATE_AT_MOST)])
        for _ in range(LATE_AT_MOST):
            await asyncio.sleep(LED_WITHIN * 1.1)
            programs.lead(programs.under_way[0])
        assert len(programs.left) <= AT_ONCE * (LATE_AT_MOST + 1) + LATE_AT_MOST

    driven(story)


def test_however_many_they_are_the_last_one_ends_in_bounded_time() -> None:
    async def story(programs: Programs) -> None:
        names = [f"p{number}" for number in range(1000)]
        programs.stopping = {*names}
        programs.end(names)
        await asyncio.sleep(WHOLE * 0.9)
        assert len(programs.left) < len(names)
        await asyncio.sleep(WHOLE * 0.2)
        assert programs.left == names
        programs.end(names[:1])
        programs.end(["another"])
        await asyncio.sleep(WHOLE * 2)
        assert programs.left == [*names, names[0], "another"]

    driven(story)


def test_what_was_ordered_before_is_told_before_and_once_and_what_is_lifted_is_not_told() -> None:
    async def story(programs: Programs) -> None:
        first, *_, waits, other = NAMES
        programs.end(NAMES[:AT_ONCE])
        for order in (RELEASE, END, RELEASE, END):
            programs.turns.ask(waits, order)
        programs.turns.ask(other, RELEASE)
        programs.turns.withdraw(RELEASE)
        programs.turns.ask(waits, RELEASE)
        assert waits not in programs.left
        programs.turns.hasten(waits)
        programs.turns.hasten(waits)
        assert programs.told[AT_ONCE:] == [(waits, END), (waits, RELEASE)]
        programs.turns.ask(first, RELEASE)
        assert programs.told[-1] == (first, RELEASE), "its turn has come already"
        await asyncio.sleep(2 * WHOLE)
        assert other not in programs.left

    driven(story)


MOVES = st.sampled_from(["ask", "led", "hasten", "stops", "empty", "pass"])


@given(st.lists(st.tuples(MOVES, st.sampled_from(NAMES)), max_size=100))
def test_whatever_happens_each_ends_once_and_few_are_under_way(moves: list[tuple[str, str]]) -> None:
    async def story(programs: Programs) -> None:
        asked = set[str]()
        for move, name in moves:
            match move:
                case "ask" if name not in asked:
                    asked.add(name)
                    programs.turns.ask(name, END)
                case "led":
                    programs.lead(name)
                case "hasten":
                    programs.turns.hasten(name)
                case "stops":
                    programs.stopping.add(name)
                case "empty":
                    programs.stopping.discard(name)
                case "pass":
                    await asyncio.sleep(STOPS_WITHIN * 0.7)
            assert len(programs.under_way) <= AT_ONCE
            assert asked == {*programs.left} or len(programs.under_way) == AT_ONCE, "one waits beside a free place"
        await asyncio.sleep(2 * WHOLE)
        assert sorted(programs.left) == sorted(asked)
        assert programs.under_way == []

    driven(story)
