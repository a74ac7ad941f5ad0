"""What many programs ask for in one turn of the loop, to be asked in one statement."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

AT_ONCE: Final = 200
"""Programs in one statement: the answer to many more would hold up the loop."""


class TurnBatch(Generic[T]):
    """Collects until the loop's next turn, and then asks for all that have a key in common."""

    def __init__(self, key: Callable[[T], Hashable], ask: Callable[[Sequence[T]], None]) -> None:
        """``ask`` is called with ``AT_ONCE`` of them at most, and never with none."""
        self._key, self._ask = key, ask
        self._joined: list[T] = []

    def join(self, one: T) -> None:
        """Have it asked for together with the others."""
        if not self._joined:
            asyncio.get_running_loop().call_soon(self._ask_for_all)
        self._joined.append(one)

    def _ask_for_all(self) -> None:
        joined, self._joined = self._joined, []
        alike = defaultdict[Hashable, list[T]](list)
        for one in joined:
            alike[self._key(one)].append(one)
        for together in alike.values():
            for first in range(0, len(together), AT_ONCE):
                self._ask(together[first : first + AT_ONCE])
