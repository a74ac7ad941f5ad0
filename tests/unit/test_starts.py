"""Few takeovers of a node are under way at a time: `highlanderd/worker/starts.py`."""

from __future__ import annotations

import asyncio
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from highlanderd.worker.starts import AT_ONCE, Starts

NAMES = [f"p{number}" for number in range(AT_ONCE + 3)]


class Asked:
    """Programs that ask, and which of them have begun, in this order."""

    def __init__(self) -> None:
        self.starts, self.begun = Starts(), list[str]()
        for name in NAMES:
            self.starts.ask(name, partial(self.begun.append, name))


async def turns() -> None:
    """Let the loop call what is due."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_as_many_as_may_begin_at_once_and_the_next_ones_in_their_order() -> None:
    async def live() -> None:
        asked = Asked()
        assert asked.begun == NAMES[:AT_ONCE]
        for number in range(3):
            asked.starts.over(NAMES[number])
            await turns()
            assert asked.begun == NAMES[: AT_ONCE + number + 1]

    asyncio.run(live())


def test_one_that_waits_and_is_withdrawn_never_begins_and_takes_nobodys_turn() -> None:
    async def live() -> None:
        asked = Asked()
        first, second, third = NAMES[AT_ONCE:]
        asked.starts.withdraw(second)
        asked.starts.over(second)
        asked.starts.withdraw(NAMES[0])
        asked.starts.over(NAMES[1])
        await turns()
        assert asked.begun == [*NAMES[:AT_ONCE], first, third]

    asyncio.run(live())


def test_the_end_of_what_has_not_begun_lets_nobody_begin_and_keeps_its_own_turn() -> None:
    async def live() -> None:
        asked = Asked()
        waits = NAMES[AT_ONCE]
        asked.starts.over(waits)  # as when its state changes while it waits
        await turns()
        assert asked.begun == NAMES[:AT_ONCE]
        asked.starts.over(NAMES[5])
        await turns()
        assert asked.begun == [*NAMES[:AT_ONCE], waits]

    asyncio.run(live())


@given(st.lists(st.tuples(st.sampled_from(["ask", "over", "withdraw"]), st.sampled_from(NAMES)), max_size=200))
def test_whatever_comes_never_too_many_are_under_way_and_nobody_waits_beside_a_free_place(
    moves: list[tuple[str, str]],
) -> None:
    async def live() -> None:
        starts, under_way, waiting = Starts(), set[str](), list[str]()

        def begin(name: str) -> None:
            waiting.remove(name)
            under_way.add(name)

        for move, name in moves:
            if move == "ask":
                if name not in under_way and name not in waiting:
                    waiting.append(name)
                    starts.ask(name, partial(begin, name))
            elif move == "over":
                under_way.discard(name)
                starts.over(name)
            else:
                under_way.discard(name)
                waiting[:] = [one for one in waiting if one != name]
                starts.withdraw(name)
            await turns()
            assert len(under_way) <= AT_ONCE
            assert not waiting or len(under_way) == AT_ONCE

    asyncio.run(live())
