"""What a keeper is told for hooks: why a term ends, and whether one comes before the signal, or after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from highlanderd.core import machine
from highlanderd.core.effects import Occasion, Spawn
from highlanderd.core.events import (
    Attached,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    FoundReady,
    HookFinished,
    HookStarted,
    Looked,
    Overruled,
    ReleaseOrdered,
    SpawnFailed,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.observation import Row
from highlanderd.core.states import Cause, Policy, Want
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.worker.program import Program
from tests.support.core import observation, row
from tests.unit.test_program_records import Book, Incurious, Line, Quiet, a_lead

POLICY = Policy(
    "a", "us", stop_timeout=0.0, hooks=frozenset({"before_start", "after_ready", "before_stop", "after_stop"})
)


class Told(Quiet):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __call__(self, effect: Spawn, memo: bytes, post: Callable[[Event], None], cause: str = "") -> Told:  # noqa: ARG002
        self.heard.append(f"started after {cause}")
        return self

    def prepare(self, asked: Spawn, occasion: Occasion) -> None: ...

    def discard(self) -> None: ...

    def signal(self, signum: int, to: str) -> None:
        self.heard.append(f"signal {signum} to the {to}")

    def kill(self, *, after: bool = False) -> None:
        self.heard.append(f"kill{', and run after_stop' if after else ''}")

    def run_hook(self, name: str) -> None:
        self.heard.append(f"run {name}")

    def end(self, cause: str, *, announced: bool) -> None:
        self.heard.append(f"ends: {cause}{', run before_stop' if announced else ''}")


def heard(*events: Event, policy: Policy = POLICY, over: Event = Emptied()) -> list[str]:  # noqa: B008 - frozen
    """Return what the child of a term was told that these events have befallen."""
    child = Told()

    async def live() -> None:
        begun = machine.begin(Want.RUN, boottime())
        program = Program(
            "beat", begun, policy, spawn=child, prober=Incurious(), recorder=Book(), on_change=lambda: None
        )
        for event in (Attached(1), *events, EndOrdered(Cause.SHUTDOWN), over, Unlocked()):
            program.post(event)
        async with asyncio.timeout(60):
            await program.run(Line())

    asyncio.run(live())
    return child.heard


def led(former: Row | None = row(released=True, reason="released")) -> tuple[Event, ...]:  # noqa: B008 - frozen
    """Return the events that begin a term now: a grant of a while ago would come too late for a child."""
    return Looked(observation(former), boottime(), keeperless=True), *a_lead(7)[1:]


STOPPED = "signal 15 to the tree"


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (StopOrdered(), ["ends: stopped, run before_stop", STOPPED]),
        (ReleaseOrdered(None, 1.0), ["ends: released, run before_stop", STOPPED]),
        (Exited(0, 0.0), ["ends: exited", STOPPED]),
        (Overruled(), ["kill"]),
        (FoundReady(0.0), ["run after_ready", "ends: shutdown, run before_stop", STOPPED]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_the_keeper_is_told_why_a_term_ends_before_the_signal(event: Event, told: list[str]) -> None:
    assert heard(*led(), event)[: 1 + len(told)] == ["started after released", *told]


def test_a_child_that_does_not_stop_in_time_is_killed_and_its_last_hook_runs() -> None:
    assert heard(*led(), StopOrdered(), HookFinished("before_stop", ""))[-1] == "kill, and run after_stop"


def test_a_veto_is_followed_by_a_kill_of_what_is_left_and_by_no_hook() -> None:
    vetoed = (HookStarted(), HookFinished("before_start", "exited with status 1"))
    assert heard(*led()[:2], *vetoed, over=SpawnFailed("no"))[1:] == ["kill"]


def test_a_program_without_hooks_has_its_keeper_told_nothing_new() -> None:
    policy = replace(POLICY, hooks=frozenset())
    assert heard(*led(), StopOrdered(), policy=policy) == ["started after released", STOPPED, "kill"]


def test_a_start_knows_how_the_last_term_ended() -> None:
    for former, cause in ((None, "first"), (row(), "lapsed"), (row(released=True, reason="exited"), "exited")):
        assert heard(*led(former))[0] == f"started after {cause}"
