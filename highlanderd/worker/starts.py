"""How many programs of this node begin terms at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

AT_ONCE: Final = 16
"""Programs. They keep the server and the guardian busy, and the first of them wait for no more than these."""

CROWD: Final = 4
"""Programs. Beyond them the processors are busy anyway, and to prepare one child more makes all others wait."""


class Starts:
    """Lets the takeovers of few programs begin, and the others wait for their turn, first come, first served.

    A term must have its child soon after it was granted, or it ends at once. On a busy machine the takeovers of
    hundreds of programs would all be granted, and none of the children be started in time.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Callable[[], None]] = {}
        self._begun: set[str] = set()

    def ask(self, program: str, begin: Callable[[], None]) -> None:
        """Call ``begin`` when it is this program's turn: at once, while few others begin."""
        if len(self._begun) < AT_ONCE:
            self._begun.add(program)
            begin()
        else:
            self._waiting[program] = begin

    @property
    def crowded(self) -> bool:
        """Whether so many begin that a child which is prepared ahead takes the processors from the others."""
        return len(self._begun) > CROWD

    def withdraw(self, program: str) -> None:
        """Forget a program that begins no term after all."""
        self._waiting.pop(program, None)
        self.over(program)

    def over(self, program: str) -> None:
        """Note that what has begun for a program is over: it is another one's turn."""
        if program in self._begun:
            self._begun.discard(program)
            self._let_next()

    def _let_next(self) -> None:
        """Let the next one begin, in a turn of the loop that is not another program's."""
        if self._waiting:
            program = next(iter(self._waiting))
            begin = self._waiting.pop(program)
            self._begun.add(program)
            asyncio.get_running_loop().call_soon(begin)
