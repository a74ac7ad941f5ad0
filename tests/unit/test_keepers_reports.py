"""How long a new worker waits for the keepers that it finds: as long as they report one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from highlanderd.children.guardian_link import STATE_ROUNDS, STATE_WITHIN, all_done
from tests.support.driven_loop import DrivenLoop


def _reported(moments: Iterable[float | None]) -> tuple[list[bool], float]:
    """Wait for keepers that report at these moments, None for never; return which were heard, and when it ended."""

    async def wait() -> tuple[list[bool], float]:
        loop = asyncio.get_running_loop()
        began, reports = loop.time(), [loop.create_future() for _ in moments]
        for moment, report in zip(moments, reports, strict=True):
            if moment is not None:
                loop.call_later(moment, report.set_result, None)
        await all_done(set(reports), STATE_WITHIN, STATE_ROUNDS)
        return [report.done() for report in reports], loop.time() - began

    loop = DrivenLoop()
    try:
        return loop.run_until_complete(wait())
    finally:
        loop.close()


def test_keepers_that_report_one_after_the_other_are_all_waited_for() -> None:
    heard, _ = _reported([0.4, 0.8, 1.2, 1.6, 2.4])
    assert heard == [True] * 5


def test_a_keeper_that_never_reports_is_given_up_once_none_has_for_a_second() -> None:
    heard, ended = _reported([0.1, None])
    assert heard == [True, False]
    assert ended == 2 * STATE_WITHIN


def test_keepers_that_take_for_ever_are_not_waited_for() -> None:
    heard, ended = _reported([0.9 * number for number in range(1, 9)])
    assert not all(heard)
    assert ended == STATE_ROUNDS * STATE_WITHIN


def test_no_keeper_is_waited_for_where_there_is_none() -> None:
    assert _reported([]) == ([], 0.0)
