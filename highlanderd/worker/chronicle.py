"""What has happened on this node lately, for people who look: the newest thousand occurrences, in memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from highlanderd.core.occurrences import Occurrence
from highlanderd.durations import rfc_3339

KEPT: Final = 1000
"""Occurrences: some minutes of a fleet that flaps, and days of one that does not."""


class Chronicle:
    """The latest occurrences of one node, numbered as they came."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._numbers = count(1)
        self._kept: deque[tuple[int, Occurrence]] = deque(maxlen=KEPT)

    def tell(self, event: str, program: str | None, **facts: Any) -> None:
        """Take note of what has happened now."""
        occurrence = Occurrence(rfc_3339(time.time()), event, self._node, program, **facts)
        self._kept.append((next(self._numbers), occurrence))

    def since(self, number: int) -> Sequence[tuple[int, Occurrence]]:
        """Return what came after the one with this number, with numbers, as far as it is kept."""
        return [one for one in self._kept if one[0] > number]
