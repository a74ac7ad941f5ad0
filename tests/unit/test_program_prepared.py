"""When a program's shell prepares a child, and when it ends what was prepared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from highlanderd.core import machine
from highlanderd.core.effects import Occasion, Spawn
from highlanderd.core.events import Attached, Detached, Event, Granted, Looked, Notified, Refused, SpawnFailed, Started
from highlanderd.core.lease import Lengths
from highlanderd.core.states import Policy, Want
from highlanderd.core.verdict import Claim
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.worker.program import Program
from highlanderd.worker.starts import AT_ONCE, CROWD, Starts
from tests.unit.test_program_records import Book, Incurious, Line, Quiet, released


class Prepares:
    """Notes for what a child was prepared, started, and what was ended."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def prepare(self, asked: Spawn, occasion: Occasion) -> None:
        self.done.append(f"prepared for {asked.epoch}{' at a hint' if occasion == 'hint' else ''}")

    def discard(self) -> None:
        self.done.append("discarded")

    def __call__(self, effect: Spawn, memo: bytes, post: Callable[[Event], None], cause: str = "") -> Quiet:  # noqa: ARG002
        self.done.append(f"started {effect.epoch}")
        return Quiet()


def free(epoch: int) -> Looked:
    return Looked(released(epoch), boottime(), keeperless=True)


def led(epoch: int, instance: str = "them") -> Looked:
    observation = released(epoch)
    assert observation.row is not None
    row = replace(observation.row, released=False, instance=instance)
    return Looked(replace(observation, row=row), boottime(), keeperless=True)


class Waiter(Line):
    """A session to which something else comes first."""

    @property
    def undivided(self) -> bool:
        return False

    def take_over(self, claim: Claim) -> bool:
        super().take_over(claim)
        return False


def done(*events: Event, session: type[Line] = Line, starts: Starts | None = None) -> list[str]:
    """Return what a waiting program has done about its child once these events have come, and before its end."""
    spawner = Prepares()

    async def live() -> list[str]:
        program = Program(
            "beat",
            machine.begin(Want.RUN, boottime()),
            Policy("a", "us"),
            spawn=spawner,
            prober=Incurious(),
            recorder=Book(),
            on_change=lambda: None,
            starts=starts,
        )
        for event in (Attached(1), *events):
            program.post(event)
        task = asyncio.create_task(program.run(session()))
        while program._inbox:  # noqa: ASYNC110 - what is waited for is that the program has had its turns
            await asyncio.sleep(0)
        found = [*spawner.done]  # whatever ends the program ends what was prepared, too
        task.cancel()
        return found

    return asyncio.run(live())


def test_the_hint_of_a_release_prepares_the_child_that_the_takeover_is_asked_for() -> None:
    granted = Granted(3, Lengths.alike(10), boottime())
    found = done(led(2), Notified(), free(2), granted)
    assert found == ["discarded", "prepared for 3 at a hint", "prepared for 3", "started 3", "discarded"]


@pytest.mark.parametrize("over", [Refused(1.0, "another session was faster"), Detached("lost")])
def test_what_was_prepared_ends_with_a_takeover_that_begins_no_term(over: Event) -> None:
    assert done(free(2), over)[-2:] == ["prepared for 3", "discarded"]


def test_nothing_is_prepared_while_the_session_has_something_else_to_do_before_the_takeover() -> None:
    assert not [one for one in done(led(2), Notified(), free(2), session=Waiter) if "prepared" in one]


@pytest.mark.parametrize("events", [(led(2), Notified()), (free(2),)])
def test_nothing_is_prepared_while_many_programs_begin(events: tuple[Event, ...]) -> None:
    starts = Starts()
    for number in range(CROWD):
        assert [one for one in done(*events, starts=starts) if "prepared" in one]
        starts.ask(f"p{number}", lambda: None)
    starts.ask("one more", lambda: None)
    assert not [one for one in done(*events, starts=starts) if "prepared" in one]


def test_what_was_prepared_at_a_hint_ends_when_another_node_still_leads() -> None:
    assert done(led(2), Notified(), led(2)) == ["discarded", "prepared for 3 at a hint", "discarded"]


def test_a_hint_prepares_nothing_for_a_program_whose_row_was_free_or_ones_own() -> None:
    assert not [one for one in done(led(2, "us"), Notified()) if "hint" in one]
    assert not [one for one in done(free(2), Refused(1.0, "busy"), Notified()) if "hint" in one]


def begun(*events: Event) -> list[str]:
    """Return which of as many programs as may begin at once, and one more, have asked for a takeover.

    All have seen a free row; then the events befall the first one.
    """
    starts, asked = Starts(), list[str]()

    class Named(Line):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        def take_over(self, claim: Claim) -> bool:
            asked.append(self._name)
            return super().take_over(claim)

    def program(name: str) -> Program:
        return Program(
            name,
            machine.begin(Want.RUN, boottime()),
            Policy("a", "us"),
            spawn=Prepares(),
            prober=Incurious(),
            recorder=Book(),
            on_change=lambda: None,
            starts=starts,
        )

    async def live() -> list[str]:
        programs = [program(f"p{number}") for number in range(AT_ONCE + 1)]
        tasks = [asyncio.create_task(one.run(Named(one.name))) for one in programs]
        for one in programs:
            one.post(Attached(1))
            one.post(free(2))
        for event in events:
            programs[0].post(event)
        while any(one._inbox for one in programs):  # noqa: ASYNC110 - what is waited for is that all had their turns
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # the next one begins in a turn of its own
        found = [*asked]
        for task in tasks:
            task.cancel()
        return found

    return asyncio.run(live())


def granted() -> Granted:
    return Granted(3, Lengths.alike(10), boottime())


def test_a_takeover_waits_while_as_many_programs_as_may_begin_have_no_child() -> None:
    assert begun() == [f"p{number}" for number in range(AT_ONCE)]
    assert begun(granted()) == [f"p{number}" for number in range(AT_ONCE)]


@pytest.mark.parametrize("end", [Refused(1.0, "another session was faster"), Detached("lost")])
def test_it_begins_once_one_of_them_begins_no_term(end: Event) -> None:
    assert begun(end) == [f"p{number}" for number in range(AT_ONCE + 1)]


@pytest.mark.parametrize("end", [Started(42, 0.0), SpawnFailed("no such user")])
def test_it_begins_once_one_of_them_has_its_child_or_gets_none(end: Event) -> None:
    assert begun(granted(), end) == [f"p{number}" for number in range(AT_ONCE + 1)]
