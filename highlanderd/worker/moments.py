"""Moments at which programs are to be woken: many have the same one, because renewals lie on a grid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from highlanderd.system.linux import boottime

WokenAt = Callable[[float], None]
"""Called with the moment that has come."""


class Moments:
    """One timer for each moment, however many wait for it. Nothing ends the waiting."""

    def __init__(self) -> None:
        self._waiting: dict[float, dict[WokenAt, None]] = {}
        """By moment, who waits for it: once, although a program that was busy meanwhile awaits the moment again."""

    def call_at(self, moment: float, woken: WokenAt) -> None:
        """Have ``woken`` called at a moment, in CLOCK_BOOTTIME seconds; soon, if that has passed."""
        waiting = self._waiting.get(moment)
        if waiting is None:
            waiting = self._waiting[moment] = {}
            asyncio.get_running_loop().call_later(max(0.0, moment - boottime()), self._come, moment)
        waiting[woken] = None

    def _come(self, moment: float) -> None:
        for woken in self._waiting.pop(moment):
            woken(moment)
