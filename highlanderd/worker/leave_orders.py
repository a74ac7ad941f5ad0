"""Passes orders on to the programs of this node: at once, or in turn with others where another node is to lead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeGuard

from highlanderd.core.events import EndOrdered, Event, ReleaseOrdered, Suspended
from highlanderd.core.observation import Suspension
from highlanderd.core.states import Cause, Draining, Leading, Releasing
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.sql.sharing import LED
from highlanderd.worker.leave_turns import LeaveOrder, LeaveTurns
from highlanderd.worker.member import Member
from highlanderd.worker.placement import Placement


def hands_over(order: Event) -> TypeGuard[LeaveOrder]:
    """Return whether another node is to lead after an order."""
    match order:
        case ReleaseOrdered():
            return True
        case Suspended(suspension):
            return suspension.drained
        case EndOrdered(cause):
            return cause is Cause.SHUTDOWN
        case _:
            return False


class LeaveOrders:
    """Knows which programs wait for their turn to leave. What is ordered of one later comes later."""

    def __init__(self, members: Mapping[str, Member], placement: Placement, listener: Listener) -> None:
        self._members, self._placement, self._listener = members, placement, listener
        self._turns = LeaveTurns(self._post, self._follow_leader, self._has_child)
        self._hastens = False

    def give(self, member: Member, order: Event) -> None:
        """Pass an order on: in turn, where another node waits to lead the program that this one leads."""
        name = member.program.name
        if hands_over(order) and self._pays(member):
            self._turns.ask(name, order)
        else:
            self._turns.hasten(name)
            member.program.post(order)

    def _pays(self, member: Member) -> bool:
        """Return whether a turn is worth waiting for; so it may be as long as who waits for a program is not known."""
        if self._hastens or member.program.state != "leading":
            return False
        return not self._placement.known or (self._listener.connected and self._placement.awaited(member.program.name))

    def hasten(self) -> None:
        """Have no program wait for its turn from now on."""
        self._hastens = True
        self._turns.hasten_all()

    def resume(self, drained: Suspension) -> None:
        """Have those lead on that wait for their turn because of an order which is lifted."""
        self._turns.withdraw(Suspended(drained))

    def follow(self, name: str) -> None:
        """Have a program know what was ordered of it, if its term ends anyway, or it is gone."""
        member = self._members.get(name)
        if member is None or member.program.state != "leading":
            self._turns.hasten(name)

    def _post(self, name: str, order: LeaveOrder) -> None:
        if (member := self._members.get(name)) is not None:
            member.program.post(order)

    def _has_child(self, name: str) -> bool:
        member = self._members.get(name)
        state = None if member is None else member.program.situation.state
        return isinstance(state, Leading) or (isinstance(state, Draining) and not isinstance(state.phase, Releasing))

    def _follow_leader(self, name: str, led: Callable[[], None]) -> Callable[[], None]:
        """Have ``led`` called once another node leads a program. Without PostgreSQL nobody leads anything."""

        def hinted() -> None:
            if self._listener.connected:
                led()
            else:
                self._turns.hasten_all()

        return self._listener.hint(f"{LED}{self._members[name].lock_id}", hinted)
