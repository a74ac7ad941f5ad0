"""Those who ask take turns. The clock is the test's: a slow machine grants nobody a turn more."""

from __future__ import annotations

import asyncio

from highlanderd.listeners.pace import AT_ONCE, PER_SECOND, Pace
from tests.support.driven_loop import DrivenLoop


def test_who_asks_a_hundred_times_waits_for_his_own_turns() -> None:
    async def main() -> None:
        pace, served = Pace(), list[str]()

        async def ask(who: str) -> None:
            await pace.turn(who)
            served.append(who)

        await asyncio.gather(*(ask(who) for who in ("hog",) * 200 + ("ann",) * 5 + ("bob",) * 5))
        first = served.index("ann")
        assert first <= AT_ONCE + 2
        assert sorted(served[first : first + 15]) == ["ann"] * 5 + ["bob"] * 5 + ["hog"] * 5

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())


def test_no_more_are_answered_than_a_listener_may() -> None:
    async def main() -> None:
        pace, began = Pace(), asyncio.get_running_loop().time()
        await asyncio.gather(*(pace.turn("hog") for _ in range(int(AT_ONCE + PER_SECOND))))
        assert 0.99 < asyncio.get_running_loop().time() - began < 1.01

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())


def test_a_request_that_is_given_up_takes_no_turn() -> None:
    async def main() -> None:
        pace = Pace()
        asked = [asyncio.ensure_future(pace.turn("ann")) for _ in range(200)]
        await asyncio.sleep(0)
        for one in asked[100:]:
            one.cancel()
        await pace.turn("ann")
        assert [one.done() for one in asked] == [True] * 200

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())
