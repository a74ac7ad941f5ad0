"""Programs that are to be woken at the same moment share one timer."""

from __future__ import annotations

import asyncio

import pytest

from highlanderd.system.linux import boottime
from highlanderd.worker.moments import Moments


def test_all_who_wait_for_a_moment_are_woken_by_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def woken() -> tuple[list[str], int]:
        loop, timers, order = asyncio.get_running_loop(), list[float](), list[str]()
        last, set_timer = loop.create_future(), loop.call_later

        def call_later(delay: float, *words: object) -> asyncio.TimerHandle:
            timers.append(delay)
            return set_timer(delay, *words)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "call_later", call_later)
        moments, now = Moments(), boottime()
        moments.call_at(now + 0.02, lambda _: order.append("first"))
        moments.call_at(now + 0.04, last.set_result)
        moments.call_at(now + 0.02, lambda _: order.append("second"))
        assert await last == now + 0.04
        return order, len(timers)

    assert asyncio.run(woken()) == (["first", "second"], 2)


def test_who_awaits_a_moment_twice_is_woken_once() -> None:
    async def woken() -> list[float]:
        moments, now, came = Moments(), boottime(), list[float]()
        last, wake = asyncio.get_running_loop().create_future(), came.append
        for _ in range(2):
            moments.call_at(now + 0.02, wake)
        moments.call_at(now + 0.04, last.set_result)
        await last
        return came

    assert len(asyncio.run(woken())) == 1
