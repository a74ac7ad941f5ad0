"""Schedules for tests, without a library: a time every so many seconds of the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from highlanderd.core.schedule import Schedule
from highlanderd.structs import replace


@dataclass(frozen=True, slots=True)
class Every:
    """A time at each multiple of ``seconds``."""

    seconds: int

    def following(self, moment: float) -> float:
        return (moment // self.seconds + 1) * self.seconds

    def of(self, words: str) -> Every | None:
        return Every(int(words.removeprefix("every "))) if words.startswith("every ") else None

    def shown(self, moment: float) -> str:
        return f"{moment:g}"


def every(seconds: int, **facts: Any) -> Schedule:
    """Return a schedule; ``facts`` say what is different from a usual one."""
    return replace(Schedule(Every(seconds), f"every {seconds}", catch_up=300.0), **facts)
