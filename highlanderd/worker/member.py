"""One program of this node with what belongs to it: the shell of its machine, its session, and who starts its child."""

from __future__ import annotations

import asyncio

from msgspec import Struct, field

from highlanderd.children.prober import Prober
from highlanderd.children.spawn import Spawner
from highlanderd.core.events import EndOrdered
from highlanderd.core.states import Want
from highlanderd.postgres.session import Session
from highlanderd.worker.program import Program


class Member(Struct):
    """One program that lives here, and what belongs to it."""

    program: Program
    session: Session
    spawner: Spawner
    prober: Prober
    lock_id: int
    leaves: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has been ordered to end."""
    recalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it need not sit out any longer: it is to leave, or an operator has started it."""
    task: asyncio.Task[None] | None = None
    set_aside: bool = False
    """Whether it does not contend here at all, whatever an operator wants."""
    wish: Want | None = None
    """What an operator has ordered last, which the program may still have to hear; None for nothing."""
    _end: EndOrdered | None = None
    """The latest order to end: a program that was to come back with other keys may be removed meanwhile."""

    def note_end(self, order: EndOrdered) -> bool:
        """Note that the program is to leave; return whether it has to be told, as it has once for each cause."""
        if self._end is not None and order.cause is self._end.cause:
            return False
        self._end = order
        self.leaves.set()
        self.recalled.set()
        return True
