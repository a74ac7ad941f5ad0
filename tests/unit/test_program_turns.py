"""What the turns of a program tell its session and its prober, and until when it sleeps."""

from __future__ import annotations

import asyncio
from math import inf

from highlanderd.core import machine
from highlanderd.core.effects import Release
from highlanderd.core.events import Attached, Detached, Emptied, EndOrdered, Event, Exited, StopOrdered, Unlocked
from highlanderd.core.states import Cause, Policy, Running, Want
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.worker.moments import Moments, WokenAt
from highlanderd.worker.program import Program
from tests.unit.test_program_records import Book, Incurious, Line, Quiets, a_lead, renewed


class Staked(Line):
    """A session that remembers which stakes it was told of."""

    def __init__(self) -> None:
        super().__init__()
        self.stakes: list[float] = []

    def note_stake(self, lease_end: float) -> None:
        self.stakes.append(lease_end)


class Follower(Incurious):
    """A prober that remembers what it was to follow last."""

    child: object = None
    running: object = None

    def follow(self, child: object, running: object, post: object) -> None:  # noqa: ARG002
        self.child, self.running = child, running


class Leaver(Line):
    """A session that remembers what was recorded when it was asked to release a term."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.recorded: set[str] = set()
        self._book = book

    def release(self, ending: Release) -> None:
        super().release(ending)
        self.recorded = {*self._book.counted}


class Awaited(Moments):
    """Moments that come when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.all = list[tuple[float, WokenAt]]()

    def call_at(self, moment: float, woken: WokenAt) -> None:
        self.all.append((moment, woken))


def begun(prober: Follower | None = None, book: Book | None = None, moments: Moments | None = None) -> Program:
    return Program(
        "beat",
        machine.begin(Want.RUN, boottime()),
        Policy("a", "us"),
        spawn=Quiets(),
        prober=prober or Follower(),
        recorder=book or Book(),
        on_change=lambda: None,
        moments=moments,
    )


def live(program: Program, *events: Event, session: Line | None = None) -> None:
    """Let it take its turns for these events."""

    async def turns() -> None:
        for event in events:
            program.post(event)
        task = asyncio.create_task(program.run(session or Line()))
        while program._inbox:  # noqa: ASYNC110 - what is waited for is that the program has had its turns
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(turns())


def test_a_session_knows_when_the_lease_that_hangs_on_it_ends() -> None:
    session, program = Staked(), begun()
    live(program, Attached(1), *a_lead(2), session=session)
    assert program.term is not None
    assert session.stakes[-1] == program.term.kill_at
    live(program, renewed(), session=session)
    assert session.stakes[-1] == program.term.kill_at
    live(program, EndOrdered(Cause.SHUTDOWN), Emptied(), Unlocked(), session=session)
    assert session.stakes[-1] == inf


def test_a_new_policy_counts_for_the_moment_at_which_time_changes_something() -> None:
    program = begun()
    live(program, Attached(1), *a_lead(2), Detached("lost"))
    former = program._deadline()
    program.follow(replace(program.policy, stop_timeout=0.5))
    assert program._deadline() == machine.deadline(program.situation, program.policy) != former


def test_a_prober_follows_the_child_from_its_start_until_it_is_to_end() -> None:
    prober = Follower()
    program = begun(prober)
    live(program, Attached(1), *a_lead(2))
    assert prober.child is program.child is not None
    assert isinstance(prober.running, Running)
    live(program, StopOrdered())
    assert prober.running is None


def test_a_release_waits_for_no_record_of_the_end_before_it() -> None:
    book = Book()
    session, program = Leaver(book), begun(book=book)
    live(program, Attached(1), *a_lead(2), session=session)
    ends = {"beat: leading to draining", "beat: exited 9"}
    live(program, Exited(9, boottime()), Emptied(), session=session)
    assert "release 2: exited, None" in session.asked
    assert ends.isdisjoint(session.recorded)
    assert ends <= book.counted.keys()


def test_a_program_that_is_given_up_takes_no_turn_more_and_what_it_has_done_is_recorded() -> None:
    async def given_up(program: Program, line: Line) -> None:
        for event in (Attached(1), *a_lead(2), StopOrdered(), Emptied()):
            program.post(event)
        task = asyncio.create_task(program.run(line))
        while len(program._inbox) > 1:  # noqa: ASYNC110 - what is waited for is that all but one had their turns
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    book, line = Book(), Line()
    asyncio.run(given_up(begun(book=book), line))
    assert not [ask for ask in line.asked if "release" in ask]
    assert book.counted["beat: leading to draining"] == 1


def test_a_moment_that_comes_before_its_time_is_awaited_again() -> None:
    async def woken_early(program: Program, awaited: Awaited) -> None:
        for event in (Attached(1), *a_lead(2)):
            program.post(event)
        task = asyncio.create_task(program.run(Line()))
        while program._inbox:  # noqa: ASYNC110 - what is waited for is that the program has had its turns
            await asyncio.sleep(0)
        before = [*awaited.all]
        moment, woken = before[-1]
        woken(moment)
        assert awaited.all == [*before, before[-1]]
        task.cancel()

    awaited = Awaited()
    asyncio.run(woken_early(begun(moments=awaited), awaited))
