"""Which scheduled time is run now, which are skipped and why; and that a schedule only delays a claim."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from highlanderd.core.effects import CloseTerms, Look, Spawn, TakeOver, WriteTimetable
from highlanderd.core.events import Attached, Granted, Looked, Settled, StartOrdered, StopOrdered
from highlanderd.core.machine import begin, deadline
from highlanderd.core.observation import Row
from highlanderd.core.planning import COUNTED, Later, Repeat, TimeFacts, plan, supersedes
from highlanderd.core.schedule import Change, Run, Skipped, Timetable
from highlanderd.core.states import Policy, Situation, Waiting, Want
from highlanderd.structs import replace
from tests.support.core import LENGTHS, go, observation, row, waiting
from tests.support.schedules import every

HOURLY = every(3600)
KEPT = Timetable("every 3600", taken_up=0.0, latest=36_000, epoch=5)
"""The time at 36,000 was run in epoch 5."""
OVER = row(released=True, reason="finished", ended_ago=7000.0)
POLICY = Policy(node="here", instance="ours", schedule=HOURLY, restart="never")


def planned(
    clock: float, kept: Timetable | None = KEPT, last: Row | None = OVER, **facts: Any
) -> Run | Repeat | Change | Later:
    repeats = facts.pop("repeats", False)
    since = facts.pop("since", 1.0)
    superseded = kept is not None and supersedes(kept, clock, since)
    return plan(replace(HOURLY, **facts), TimeFacts(kept, clock, since, last, superseded), repeats=repeats)


def test_the_first_look_makes_a_timetable_and_no_time_before_it_counts() -> None:
    assert planned(43_300.5, None) == Change(None, "every 3600", 43_300)
    assert planned(43_301.0, replace(KEPT, latest=43_300, epoch=None)) == Later(46_800, "next run at 46800")


def test_a_time_is_run_when_it_has_come_and_not_before() -> None:
    assert planned(39_599.9) == Later(39_600, "next run at 39600")
    assert planned(39_600.0) == Run(39_600, after=36_000)


def test_a_time_that_no_node_could_run_is_run_late_and_skipped_when_it_is_too_late() -> None:
    last = replace(OVER, ended_ago=4000.0)
    assert planned(39_600 + 300.0, last=last) == Run(39_600, after=36_000)
    missed = Skipped(39_600, 39_600, 1, "missed")
    assert planned(39_600 + 300.1, last=last) == Change(KEPT, "every 3600", 39_600, (missed,))


def test_of_many_that_were_missed_the_latest_is_run_and_the_others_are_one_line() -> None:
    clock = 36_000 + 10 * 3600.0
    last = replace(OVER, ended_ago=clock - 36_010)
    skipped = Skipped(39_600, 36_000 + 9 * 3600, 9, "missed")
    assert planned(clock, last=last) == Change(KEPT, "every 3600", 36_000 + 9 * 3600, (skipped,))
    after = replace(KEPT, latest=36_000 + 9 * 3600, epoch=None)
    assert planned(clock, after, last) == Run(36_000 + 10 * 3600, after=36_000 + 9 * 3600)


def test_years_of_missed_times_are_counted_up_to_a_bound_and_end_with_the_last() -> None:
    clock = 36_000 + 100_000 * 3600.0 + 1000
    last = replace(OVER, ended_ago=clock - 36_010)
    change = planned(clock, last=last)
    assert isinstance(change, Change)
    assert change.skipped == (Skipped(39_600, 36_000 + 100_000 * 3600, COUNTED, "missed"),)


def test_a_time_that_came_while_another_run_was_under_way_is_skipped() -> None:
    last = replace(OVER, ended_ago=100.0)
    overlap = Change(KEPT, "every 3600", 39_600, (Skipped(39_600, 39_600, 1, "overlap"),))
    assert planned(39_700.0, last=last) == overlap
    assert planned(39_650.0, last=last) == Run(39_600, after=36_000), "it came after that run's end"
    assert planned(39_700.0, last=replace(last, reason="lapsed")) == Run(39_600, after=36_000), "its leader was lost"


def test_times_while_it_was_stopped_everywhere_are_skipped_and_not_caught_up() -> None:
    kept, last = replace(KEPT, held=(39_000.0, 46_900.0)), replace(OVER, ended_ago=11_000.0)
    assert planned(47_000.0, kept, last) == Change(kept, "every 3600", 46_800, (Skipped(39_600, 46_800, 3, "stopped"),))


def test_times_beyond_those_that_are_counted_have_their_own_reason() -> None:
    hours = 3600 * COUNTED
    kept = replace(KEPT, held=(36_000.0, 36_000 + 2.5 * hours))
    change = planned(36_000 + 5.0 * hours + 1000, kept, replace(OVER, ended_ago=5.0 * hours + 1000))
    assert isinstance(change, Change)
    assert change.skipped == (
        Skipped(39_600, 36_000 + 5 * hours // 2, COUNTED, "stopped"),
        Skipped(36_000 + 5 * hours // 2 + 3600, 36_000 + 5 * hours, COUNTED, "missed"),
    )


def test_times_beyond_those_that_are_counted_stay_at_the_bound_where_a_reason_goes_on() -> None:
    hours = 3600 * COUNTED
    kept = replace(KEPT, held=(36_010.0 + 2 * hours, 36_020.0 + 2 * hours))  # a stop between two times
    change = planned(36_000 + 4.0 * hours + 1000, kept, replace(OVER, ended_ago=4.0 * hours + 990))
    assert isinstance(change, Change)
    assert change.skipped == (Skipped(39_600, 36_000 + 4 * hours, COUNTED, "missed"),)


def test_each_reason_has_a_line_of_its_own() -> None:
    kept, clock = replace(KEPT, held=(43_000.0, 47_000.0)), 54_500.0
    change = planned(clock, kept, replace(OVER, ended_ago=clock - 40_000))
    assert isinstance(change, Change)
    assert change.skipped == (
        Skipped(39_600, 39_600, 1, "overlap"),
        Skipped(43_200, 46_800, 2, "stopped"),
        Skipped(50_400, 54_000, 2, "missed"),
    )


@pytest.mark.parametrize(
    ("reason", "never", "on_failure"),
    [
        ("finished", False, False),
        ("stopped", False, False),
        ("exited", False, True),
        ("lapsed", False, True),
        ("drained", False, True),
        ("spawn-failed", False, True),
        ("restarted", True, True),
        ("released", True, True),
    ],
)
def test_which_run_is_repeated_until_the_next_time(reason: str, never: bool, on_failure: bool) -> None:
    last = replace(OVER, reason=reason)
    again, later = Run(36_000, after=36_000), Later(39_600, "next run at 39600")
    assert planned(39_000.0, last=last) == (again if never else later)
    assert planned(39_000.0, last=last, repeats=True) == (again if on_failure else later)
    of_no_time = planned(39_000.0, last=replace(last, epoch=6, ended_ago=10.0), repeats=True)
    assert of_no_time == (Repeat() if never else later), "only an order repeats what was begun for no time"
    assert planned(39_000.0, replace(KEPT, epoch=None), last, repeats=True) == later, "the next time has come since"
    assert planned(43_300.0, last=last, repeats=True) != again


@pytest.mark.parametrize(("epoch", "again"), [(5, Run(36_000, after=36_000)), (6, Repeat())])
def test_what_is_ordered_again_comes_before_the_times_that_it_overlaps(epoch: int, again: Run | Repeat) -> None:
    last = replace(OVER, reason="restarted", epoch=epoch, ended_ago=50.0)
    assert planned(39_700.0, last=last) == again, "39,600 came before the end of the run"
    former = replace(KEPT, words="every 7200", taken_up=20_000.0)
    assert planned(39_700.0, former, last, since=38_000.0) == again, "the run was begun under the former schedule"


@pytest.mark.parametrize("epoch", [5, 6])
def test_what_is_ordered_again_waits_for_no_run_of_long_ago(epoch: int) -> None:
    last = replace(OVER, reason="released", epoch=epoch, ended_ago=50.0)
    assert planned(39_620.0, last=last) == Run(39_600, after=36_000), "the next time has come since"
    stopped = replace(KEPT, held=(38_960.0, 38_980.0))
    assert planned(39_000.0, stopped, last) == Later(39_600, "next run at 39600"), "it was stopped everywhere since"
    skipped = replace(KEPT, latest=39_600, epoch=None)
    assert planned(39_640.0, skipped, last) == Later(43_200, "next run at 43200"), "a time was skipped since"


def test_a_schedule_that_was_changed_runs_no_old_time_and_an_older_one_stands_back() -> None:
    former = replace(KEPT, words="every 7200", taken_up=20_000.0)
    assert planned(40_000.0, former, since=38_000.0) == Change(former, "every 3600", 38_000)
    stands_back = planned(40_000.0, former, since=20_000.0)
    assert isinstance(stands_back, Later)
    assert stands_back.at == inf
    assert stands_back.why.startswith("another node has loaded another schedule since: every 7200; write the same")


def test_times_of_the_former_schedule_that_were_open_are_skipped_with_a_reason() -> None:
    """Of those that came before the change, and not of those after it: they are no times of the new schedule."""
    former = Timetable("every 600", taken_up=20_000.0, latest=36_000)
    last = replace(OVER, ended_ago=40_000.0 - 36_700)
    change = planned(40_000.0, former, last, since=39_100.0, catch_up=2000.0)
    skipped = (
        Skipped(36_600, 36_600, 1, "overlap"),
        Skipped(37_200, 37_800, 2, "missed"),
        Skipped(38_400, 39_000, 2, "changed"),
    )
    assert change == Change(former, "every 3600", 39_100, skipped)
    unknown = replace(former, words="a schedule of a later version")
    unread = (Skipped(36_000, 39_100, 0, "unreadable"),)
    assert planned(40_000.0, unknown, last, since=39_100.0) == Change(unknown, "every 3600", 39_100, unread)
    assert planned(40_000.0, replace(unknown, latest=39_100), last, since=39_100.0) == Change(
        replace(unknown, latest=39_100), "every 3600", 39_100
    ), "none can have been open"


def test_a_schedule_that_was_brought_by_a_clock_ahead_holds_up_no_changed_one() -> None:
    ahead = replace(KEPT, words="every 60", taken_up=90_000.0, latest=90_000)
    assert planned(40_000.0, ahead, since=39_000.0) == Change(ahead, "every 3600", 90_000)


@pytest.mark.parametrize("step", [100_000.0, -1000.0])
def test_a_clock_that_is_set_brings_no_schedule_back_that_was_superseded(step: float) -> None:
    policy = replace(POLICY, schedule=replace(HOURLY, since=-50.0))
    newer = replace(KEPT, words="every 7200", taken_up=39_000.0, latest=39_000)
    stands_back, effects = go(waiting(), looked(39_010.0, newer), policy=policy)
    assert (effects, at(stands_back).superseded) == ((), (-50.0, 39_000.0))
    situation, effects = go(stands_back, looked(39_020.0 + step, newer, at=10.0), policy=policy)
    assert (effects, situation.reason[:41]) == ((), "another node has loaded another schedule ")
    reloaded = replace(policy, schedule=replace(HOURLY, since=5.0))
    _, effects = go(stands_back, looked(39_020.0 + step, newer, at=10.0), policy=reloaded)
    assert isinstance(effects[0], WriteTimetable), "what is loaded after that counts"
    _, effects = go(stands_back, looked(39_020.0, replace(newer, words="every 3600"), at=10.0), policy=policy)
    assert effects == (), "it is its own again"


def test_a_clock_that_was_set_back_runs_nothing_twice_and_the_history_says_so_once() -> None:
    hint = (
        "; PostgreSQL's clock is behind 36000, the latest time in the ledger's table schedule: it was set back, or the "
        "table was edited; to run the times until then, set latest to now() there"
    )
    later = Later(39_600, f"next run at 39600{hint}")
    back = replace(KEPT, set_back=True)
    assert planned(30_000.0) == later
    assert planned(30_000.0, back) == Change(back, "every 3600", 36_000, (Skipped(32_400, 32_400, 1, "clock"),))
    assert planned(32_400.0, back) == later, "the latest time itself has its line"
    assert planned(35_999.9, replace(back, latest=36_010)) == Change(
        replace(back, latest=36_010), "every 3600", 36_010, (Skipped(36_000, 36_000, 1, "clock"),)
    )
    assert planned(36_000.0, replace(KEPT, latest=36_010)) == Later(39_600, "next run at 39600")


def test_a_run_that_failed_is_repeated_also_by_a_clock_that_was_set_back() -> None:
    assert planned(35_000.0, last=replace(OVER, reason="exited"), repeats=True) == Run(36_000, after=36_000)


# ---------------------------------------------------------------------------------------------------- in the machine


def looked(
    clock: float, kept: Timetable | None = KEPT, last: Row | None = OVER, at: float = 0.0
) -> tuple[float, Looked]:
    return at, Looked(replace(observation(last), clock=clock, timetable=kept), at, keeperless=True)


def at(situation: Situation) -> Waiting:
    assert isinstance(situation.state, Waiting)
    return situation.state


def test_a_claim_waits_for_the_time_and_looks_again_exactly_then() -> None:
    situation, effects = go(waiting(), looked(39_599.0), policy=POLICY)
    assert (effects, situation.reason, at(situation).next_run) == ((), "next run at 39600", 39_600)
    assert deadline(situation, POLICY) == 1.0
    situation, effects = go(waiting(), looked(39_600.0), policy=POLICY)
    assert isinstance(effects[0], TakeOver)
    assert effects[0].claim.run == Run(39_600, after=36_000)
    assert at(situation).next_run is None


def test_what_is_led_is_not_planned_and_what_lapsed_is_closed_first() -> None:
    led = row(renewal=2)
    situation, effects = go(waiting(), looked(39_600.0, last=led), policy=POLICY)
    assert (effects, situation.reason) == ((), "led by there")
    situation, effects = go(situation, looked(39_611.0, last=led, at=11.0), policy=POLICY)
    assert isinstance(effects[0], CloseTerms)
    situation, effects = go(situation, (11.1, Settled()), policy=POLICY)
    assert effects == (Look(),)


def test_a_timetable_is_written_before_anything_is_run() -> None:
    _, effects = go(waiting(), looked(39_600.0, kept=None), policy=POLICY)
    assert effects == (WriteTimetable(Change(None, "every 3600", 39_600)),)


def test_the_child_is_told_for_which_time_it_runs() -> None:
    situation, _ = go(waiting(), looked(39_600.0), policy=POLICY)
    _, effects = go(situation, (1.0, Granted(6, LENGTHS, 0.5, 39_600)), policy=POLICY)
    assert isinstance(effects[0], Spawn)
    assert effects[0].scheduled == 39_600


def test_start_runs_it_now_and_for_no_time_unless_it_was_stopped() -> None:
    situation, _ = go(waiting(), looked(39_000.0), (0.1, StartOrdered()), policy=POLICY)
    _, effects = go(situation, looked(39_000.2, at=0.2), policy=POLICY)
    assert isinstance(effects[0], TakeOver)
    assert effects[0].claim.run is None
    stopped, _ = go(waiting(), looked(39_000.0), (0.1, StopOrdered()), (0.2, StartOrdered()), policy=POLICY)
    situation, effects = go(stopped, looked(39_000.3, at=0.3), policy=POLICY)
    assert (effects, situation.reason) == ((), "next run at 39600")


def test_a_run_of_no_time_that_is_ordered_again_is_run_for_no_time() -> None:
    last = replace(OVER, reason="released", epoch=6, ended_ago=10.0)
    _, effects = go(waiting(), looked(39_000.0, last=last), policy=POLICY)
    assert isinstance(effects[0], TakeOver)
    assert effects[0].claim.run is None


def test_start_runs_what_has_never_run_and_a_time_that_is_due_is_that_run() -> None:
    never_run = go(begin(Want.RUN, 0.0), (0.0, Attached(1)), (0.0, StartOrdered()), policy=POLICY)[0]
    _, effects = go(never_run, looked(36_001.0, last=None), policy=POLICY)
    assert isinstance(effects[0], TakeOver)
    _, effects = go(never_run, looked(39_601.0, last=None), policy=POLICY)
    assert isinstance(effects[0], TakeOver)
    assert effects[0].claim.run == Run(39_600, after=36_000)


def test_a_ledger_that_keeps_no_schedules_begins_nothing() -> None:
    seen = Looked(observation(OVER), 0.0, keeperless=True)
    situation, effects = go(waiting(), (0.0, seen), policy=POLICY)
    assert (effects, situation.reason) == ((), "the ledger keeps no schedules yet; see highlanderctl ledger")
