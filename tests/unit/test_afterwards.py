"""What is put off waits for the last handover, but not for ever. The clock is the test's."""

from __future__ import annotations

import asyncio

from highlanderd.postgres.afterwards import APART, Afterwards
from tests.support.driven_loop import DrivenLoop


def put_off(number: int, *, every: float, within: float) -> list[int]:
    """Put so many off, one after the other; return when each was called, in milliseconds from the first one."""

    async def main() -> list[float]:
        loop, afterwards, called = asyncio.get_running_loop(), Afterwards(), list[float]()
        began = loop.time()
        for _ in range(number):
            afterwards.call(lambda: called.append(loop.time() - began), within)
            await asyncio.sleep(every)
        await asyncio.sleep(within + APART)
        return called

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        return [round(1000 * moment) for moment in runner.run(main())]


def test_all_are_called_once_nothing_more_is_put_off() -> None:
    assert put_off(10, every=APART / 2, within=10.0) == [275] * 10


def test_what_follows_at_a_distance_is_not_waited_for() -> None:
    assert put_off(2, every=2 * APART, within=10.0) == [50, 150]


def test_none_waits_longer_than_it_may() -> None:
    assert put_off(6, every=APART / 2, within=APART) == [50, 50, 100, 100, 150, 150]
