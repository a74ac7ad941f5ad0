"""A page is rendered for all who wait, and takes a tenth of the loop at most. The clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import cast

from highlanderd.listeners.shared_page import AT_ONCE, SHARE, SharedPage
from tests.support.driven_loop import DrivenLoop

COST = AT_ONCE / 10


def renderer() -> tuple[SharedPage[None, float], list[float]]:
    """Return a page that takes ``COST`` seconds, and when it was rendered."""
    loop, begun = cast(DrivenLoop, asyncio.get_running_loop()), list[float]()

    def render(_: None) -> float:
        begun.append(loop.time())
        loop.work(COST)
        return begun[-1]

    return SharedPage(partial(asyncio.sleep, 0), render, processor=loop.time), begun


def driven(main: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(main())


def test_a_few_commands_one_after_the_other_never_wait_for_a_rest() -> None:
    async def main() -> None:
        page, begun = renderer()
        for _ in range(10):
            await page.get()
        assert begun[-1] - begun[0] < 9.5 * COST

    driven(main)


def test_who_asks_without_end_gets_a_tenth_of_the_loop() -> None:
    async def main() -> None:
        page, begun = renderer()
        for _ in range(100):
            await page.get()
        taken = asyncio.get_running_loop().time() - begun[0]
        assert SHARE * taken + AT_ONCE + COST >= 100 * COST
        assert SHARE * taken <= 100 * COST

    driven(main)


def test_a_page_that_has_rested_long_enough_owes_nothing() -> None:
    async def main() -> None:
        page, begun = renderer()
        for _ in range(200):
            await page.get()
            await asyncio.sleep(COST / SHARE)
        for _ in range(9):
            await page.get()
        assert begun[-1] - begun[-9] < 8.5 * COST

    driven(main)


def test_all_who_wait_share_one_rendering_that_began_after_they_had_asked() -> None:
    async def main() -> None:
        page, begun = renderer()
        first = asyncio.ensure_future(page.get())
        await asyncio.sleep(0)
        answers = await asyncio.gather(first, *(page.get() for _ in range(50)))
        assert len(begun) <= 2
        assert set(answers[1:]) == {begun[-1]}

    driven(main)


def test_a_page_that_cannot_be_made_is_refused_to_all_who_wait_for_it() -> None:
    async def main() -> None:
        answers = iter([1, None, None])

        def render(_: None) -> int:
            found = next(answers)
            if found is None:
                raise LookupError
            return found

        page = SharedPage(partial(asyncio.sleep, 0), render, processor=asyncio.get_running_loop().time)
        assert await page.get() == 1
        await asyncio.sleep(1.0)
        found = await asyncio.gather(page.get(), page.get(), return_exceptions=True)
        assert [type(one) for one in found] == [LookupError, LookupError]

    driven(main)
