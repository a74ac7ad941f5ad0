"""Hooks in a program's life: the one before its start may veto, the others hold nothing up but for their time."""

from __future__ import annotations

import pytest

from highlanderd.core.effects import Kill, Release, RunHook, SetDeadline, Signal
from highlanderd.core.events import (
    Due,
    Event,
    Exited,
    FoundReady,
    HookFinished,
    HookStarted,
    ReleaseOrdered,
    SpawnFailed,
    Started,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.machine import deadline
from highlanderd.core.states import Backoff, Cause, Leading, Preparing, Running, Situation, Spawning, Stopping
from highlanderd.structs import replace
from highlanderd.worker import child_handover
from tests.support.core import LOST, POLICY, draining, go, leading, spawning

POLICY = replace(
    POLICY, hooks=frozenset({"before_start", "after_ready", "before_stop", "after_stop"}), hook_timeout=30.0
)
FAILED = HookFinished("before_start", "exited with status 3")


def preparing() -> Situation:
    return go(spawning(POLICY), (1.1, HookStarted()), policy=POLICY)[0]


def test_a_start_is_in_doubt_no_more_once_its_first_hook_runs() -> None:
    assert deadline(go(spawning(POLICY), (1.1, LOST), policy=POLICY)[0], POLICY) == 5.0
    situation = preparing()
    assert isinstance(situation.state, Leading)
    assert situation.state.child == Preparing()
    assert deadline(go(situation, (1.2, LOST), policy=POLICY)[0], POLICY) == 7.0, "and only the fence is due"


def test_the_program_follows_its_hook() -> None:
    done = (3.0, HookFinished("before_start", ""))
    situation, effects = go(preparing(), done, (3.1, Started(42, 3.1)), policy=POLICY)
    assert isinstance(situation.state, Leading)
    assert isinstance(situation.state.child, Running)
    assert effects == ()


def test_a_hook_that_is_told_of_late_changes_nothing_of_a_child_that_runs() -> None:
    situation = leading(POLICY)
    assert go(situation, (2.0, HookStarted()), policy=POLICY) == (situation, ())


def test_a_veto_ends_the_term_and_this_node_sits_out() -> None:
    situation, effects = go(preparing(), (2.0, FAILED), policy=POLICY)
    assert draining(situation).cause is Cause.HOOK_FAILED
    assert effects == (Kill(), SetDeadline(9.0))
    situation, [effect] = go(situation, (2.1, SpawnFailed("before_start: exited with status 3")), policy=POLICY)
    assert isinstance(effect, Release)
    assert effect.cause is Cause.HOOK_FAILED
    situation, _ = go(situation, (2.2, Unlocked()), policy=POLICY)
    assert isinstance(situation.state, Backoff)
    assert (situation.reason, situation.failures) == ("before_start: exited with status 3", 1)


@pytest.mark.parametrize("hook", ["after_ready", "before_stop", "after_stop"])
def test_no_other_hook_that_fails_ends_a_term(hook: str) -> None:
    situation = leading(POLICY)
    assert go(situation, (2.0, HookFinished(hook, "exited with status 3")), policy=POLICY) == (situation, ())


def test_the_hook_of_a_program_that_is_ready_runs_once() -> None:
    situation, effects = go(leading(POLICY), (2.0, FoundReady(2.0)), policy=POLICY)
    assert effects == (SetDeadline(9.0), RunHook())
    assert go(situation, (2.1, FoundReady(2.1)), policy=POLICY)[1] == ()


@pytest.mark.parametrize("order", [StopOrdered(), ReleaseOrdered(None, 30.0)])
def test_a_child_has_its_time_to_stop_after_the_hook_before_it(order: Event) -> None:
    situation, effects = go(leading(POLICY), (2.0, order), policy=POLICY)
    assert effects[0] == Signal()
    assert draining(situation).phase == Stopping(2.0 + 30.0 + 2.0)
    situation, _ = go(situation, (3.0, HookFinished("before_stop", "")), policy=POLICY)
    assert draining(situation).phase == Stopping(3.0 + 2.0)
    assert draining(go(situation, (4.0, HookFinished("after_stop", "")), policy=POLICY)[0]).phase == Stopping(5.0)


def test_a_hook_gives_a_child_that_has_ended_or_is_fenced_no_more_time() -> None:
    assert draining(go(leading(POLICY), (2.0, Exited(256, 2.0)), policy=POLICY)[0]).phase == Stopping(4.0)
    fenced, _ = go(leading(POLICY), (2.0, LOST), (7.0, Due()), policy=POLICY)
    assert draining(fenced).phase == Stopping(9.0)


def test_the_next_worker_knows_that_the_hook_runs_and_counts_no_time_against_the_start() -> None:
    memo = child_handover.ChildHandover().encode(preparing())
    assert isinstance(child_handover.decode(memo, None, None, 90.0, preparing=True)[0].child, Preparing)  # type: ignore[union-attr]
    assert isinstance(child_handover.decode(memo, None, None, 90.0)[0].child, Spawning)  # type: ignore[union-attr]
    assert isinstance(child_handover.decode(memo, 42, 1.0, 90.0, preparing=True)[0].child, Running)  # type: ignore[union-attr]
