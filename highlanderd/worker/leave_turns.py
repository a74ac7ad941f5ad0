"""How many programs of this node end their terms at a time, when other nodes wait to lead them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from highlanderd.core.events import EndOrdered, ReleaseOrdered, Suspended

AT_ONCE: Final = 2
"""Programs. More of them end no sooner, because each keeps most of two processors busy while it moves."""
STOPS_WITHIN: Final = 0.1
"""Seconds after which the turn is another program's though its child still stops: that takes no processor."""
LED_WITHIN: Final = 1.0
"""Seconds after which it is another one's in any case: many times what a handover takes on a busy machine."""
LATE_AT_MOST: Final = 2 * AT_ONCE
"""Programs in a row that nobody leads within that time. Then nothing is gained by turns."""
WHOLE: Final = 10.0
"""Seconds after which no program waits for its turn any more, however many there are."""

LeaveOrder = ReleaseOrdered | Suspended | EndOrdered
"""An order that ends a term."""


class LeaveTurns:
    """Passes the orders of few programs on, and has the others lead on until it is their turn.

    All that end in one instant would wait for the same processors, and be led by nobody meanwhile. A program's turn is
    over when another node leads it; or sooner, so that neither a child that stops slowly nor a node that takes over
    slowly holds up the others for long.
    """

    def __init__(
        self,
        give: Callable[[str, LeaveOrder], None],
        follow: Callable[[str, Callable[[], None]], Callable[[], None]],
        stops: Callable[[str], bool],
    ) -> None:
        """``give`` passes an order on to a program; ``stops`` returns whether there is still a child of it.

        ``follow`` has its second argument called once another node leads the program, and returns what ends that.
        """
        self._give, self._follow, self._stops = give, follow, stops
        self._waiting: dict[str, list[LeaveOrder]] = {}
        self._leaving: dict[str, Callable[[], None]] = {}
        """By program whose turn it is: what ends its being followed."""
        self._late = 0
        """Programs in a row that nobody has led in time."""
        self._end: asyncio.TimerHandle | None = None

    def ask(self, program: str, order: LeaveOrder) -> None:
        """Pass an order on when it is this program's turn: at once, while few others leave."""
        if program in self._leaving:
            self._give(program, order)
            return
        orders = self._waiting.setdefault(program, [])
        if order not in orders:
            orders.append(order)
        self._let_next()
        if self._waiting and self._end is None:
            self._end = asyncio.get_running_loop().call_later(WHOLE, self.hasten_all)

    def hasten(self, program: str) -> None:
        """Pass on what waits for a program: it ends anyway, or another order is to follow."""
        for order in self._waiting.pop(program, ()):
            self._give(program, order)

    def hasten_all(self) -> None:
        """Pass on all that waits."""
        for program in tuple(self._waiting):
            self.hasten(program)
        self._rest()

    def withdraw(self, order: LeaveOrder) -> None:
        """Forget an order, of all programs that wait."""
        left = {program: [one for one in orders if one != order] for program, orders in self._waiting.items()}
        self._waiting = {program: orders for program, orders in left.items() if orders}

    def _let_next(self) -> None:
        while self._waiting and len(self._leaving) < AT_ONCE:
            program = next(iter(self._waiting))
            self._begin(program)
            self.hasten(program)
        if not self._waiting:
            self._rest()

    def _rest(self) -> None:
        """Forget how the turns went: nobody waits for one."""
        self._late = 0
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _begin(self, program: str) -> None:
        loop = asyncio.get_running_loop()
        unfollow = self._follow(program, partial(self._led, program))
        look = loop.call_later(STOPS_WITHIN, self._look, program)
        late = loop.call_later(LED_WITHIN, self._miss, program)

        def forget() -> None:
            unfollow()
            look.cancel()
            late.cancel()

        self._leaving[program] = forget

    def _led(self, program: str) -> None:
        self._late = 0
        self._over(program)

    def _look(self, program: str) -> None:
        if self._stops(program):
            self._over(program)

    def _miss(self, program: str) -> None:
        self._late += 1
        self._over(program)
        if self._late >= LATE_AT_MOST:
            self.hasten_all()

    def _over(self, program: str) -> None:
        self._leaving.pop(program)()
        self._let_next()
