"""One program's trouble ends at that program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.spawn import Origin
from highlanderd.config import ProgramConfig
from highlanderd.config.needs import Limits, descriptors, processes
from highlanderd.core.events import Exited, StartOrdered, StopOrdered, Unlocked
from highlanderd.core.lease import Lengths
from highlanderd.core.observation import Suspension
from highlanderd.core.states import Leading, Running, Situation, Term, Want
from highlanderd.output.writer import Writer
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.server import Server
from highlanderd.postgres.standing import Standing
from highlanderd.system.host_limits import HostLimit
from highlanderd.system.linux import boottime
from highlanderd.worker.aside import NEVER, SetAside
from highlanderd.worker.beginnings import Beginnings
from highlanderd.worker.fleet import Fleet
from highlanderd.worker.foresight import Foresight
from highlanderd.worker.interfaces import Recorder
from highlanderd.worker.leave_turns import LED_WITHIN
from highlanderd.worker.making import MemberMaker
from tests.support.driven_loop import DrivenLoop
from tests.support.session import pool_of
from tests.support.wait import until

UNLIMITED = Limits()
NOTHING = Beginnings()


class _Nothing:
    """Counts nothing, and holds nothing."""

    attention = nullcontext

    def __getattr__(self, name: str) -> Any:
        return lambda *_: False


class _Broken:
    """Raises whatever it is asked to count."""

    def __getattr__(self, name: str) -> Any:
        def count(*_: object) -> None:
            raise LookupError(name)

        return count


class _Guardian(_Nothing):
    """Notes which quarantines are lifted."""

    def __init__(self) -> None:
        self.lifted: list[str] = []

    def lift(self, program: str) -> None:
        self.lifted.append(program)


def _fleet(
    alarms: list[str],
    recorder: object = None,
    quarantined: Mapping[str, str] | None = None,
    guardian: object = None,
    limits: Limits = UNLIMITED,
    beginnings: Beginnings = NOTHING,
    on_change: Callable[[], None] = lambda: None,
) -> Fleet:
    ledger = Ledger("highlander", "highlander", 10.0)
    nothing = _Nothing()
    origin = Origin(
        guardian=cast("GuardianLink", guardian or nothing),
        writer=cast("Writer", nothing),
        node="a",
        namespace="highlander",
        socket=Path("/nowhere"),
        environ={},
        count=lambda *_: None,
        killed=lambda *_: None,
        exited=lambda *_: None,
    )
    pool = pool_of(Server("host=/nowhere", ledger, node="a", fresh=None), ledger)
    make = MemberMaker(
        pool,
        origin,
        instance="6f3f1b0e-5d4c-4c1b-8f1a-2f6f3b0c9d11",
        on_connection_loss="hold",
        recorder=cast("Recorder", recorder or nothing),
        on_alarm=alarms.append,
    )
    return Fleet(
        pool,
        origin,
        make,
        wishes={},
        beginnings=beginnings,
        aside=SetAside("a", quarantined or {}, on_alarm=alarms.append, on_change=lambda: None, limits=lambda: limits),
        on_change=on_change,
        on_alarm=alarms.append,
    )


def test_other_programs_are_a_change_though_none_of_them_has_changed_its_state() -> None:
    noted: list[str] = []
    fleet = _fleet([], on_change=lambda: noted.append("changed"))
    fleet.want({"beat": ProgramConfig(name="beat", command=("true",))})
    assert noted == ["changed"]


def test_a_program_whose_task_fails_sits_out_with_its_reason_and_its_neighbours_go_on() -> None:
    alarms: list[str] = []

    async def scenario() -> None:
        fleet = _fleet(alarms)
        fleet.want({name: ProgramConfig(name=name, command=("true",)) for name in ("beat", "bot")})
        running = asyncio.create_task(fleet.run())
        await until(lambda: len(fleet.members) == 2)
        neighbour = fleet.members["bot"]
        fleet.members["beat"].program.post(Unlocked())  # which no program that waits can hear of
        await until(lambda: alarms)
        assert fleet.members["beat"].program.state == "stopped"
        assert "its task has failed (ImpossibleEvent" in fleet.members["beat"].program.situation.reason
        assert fleet.members["bot"] is neighbour
        assert neighbour.program.state == "waiting"
        assert neighbour.task is not None
        assert not neighbour.task.done()
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())
    assert len(alarms) == 1


def test_a_program_that_sits_out_comes_back_when_an_operator_starts_it() -> None:
    alarms: list[str] = []

    async def scenario() -> None:
        fleet = _fleet(alarms)
        fleet.want({"beat": ProgramConfig(name="beat", command=("true",))})
        running = asyncio.create_task(fleet.run())
        await until(lambda: fleet.members)
        failed = fleet.members["beat"]
        failed.program.post(Unlocked())
        await until(lambda: alarms)
        fleet.order("beat", StartOrdered())
        await until(lambda: fleet.members.get("beat") not in (None, failed))
        assert fleet.members["beat"].program.state == "waiting"
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def test_a_recorder_that_raises_holds_up_no_program() -> None:
    alarms: list[str] = []

    async def scenario() -> None:
        fleet = _fleet(alarms, recorder=_Broken())
        fleet.want({"beat": ProgramConfig(name="beat", command=("true",))})
        running = asyncio.create_task(fleet.run())
        await until(lambda: fleet.members)
        fleet.order("beat", StopOrdered())
        await until(lambda: fleet.members["beat"].program.state == "stopped")
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())
    assert alarms == []


def test_a_program_that_cannot_even_be_made_leaves_its_neighbours_alone() -> None:
    alarms: list[str] = []

    async def scenario() -> None:
        fleet = _fleet(alarms)
        broken = cast(
            "ProgramConfig",
            SimpleNamespace(
                after=(), times=None, stdout="null", stderr="null", ready=None, alive=None, log_overflow="wait"
            ),
        )
        fleet.want({"broken": broken, "beat": ProgramConfig(name="beat", command=("true",))})
        running = asyncio.create_task(fleet.run())
        await until(lambda: "beat" in fleet.members)
        assert "broken" not in fleet.members
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())
    assert "broken: cannot be handled (AttributeError" in alarms[0]


def test_a_quarantined_program_is_shown_with_its_reason_until_an_operator_starts_it() -> None:
    alarms: list[str] = []

    async def scenario() -> None:
        guardian = _Guardian()
        fleet = _fleet(alarms, quarantined={"beat": "signal 11"}, guardian=guardian)
        fleet.want({name: ProgramConfig(name=name, command=("true",)) for name in ("beat", "bot")})
        running = asyncio.create_task(fleet.run())
        await until(lambda: alarms)
        quarantined = fleet.members["beat"].program
        assert quarantined.state == "stopped"
        assert "two workers have died while they handled it, the last one by signal 11" in quarantined.situation.reason
        assert fleet.members["bot"].program.state == "waiting"
        fleet.order("beat", StartOrdered())
        await until(lambda: fleet.members.get("beat") and fleet.members["beat"].program.state == "waiting")
        assert guardian.lifted == ["beat"]
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def test_the_rest_of_a_pause_goes_on_with_the_next_worker_and_start_ends_it() -> None:
    programs = {name: ProgramConfig(name=name, command=("false",)) for name in ("beat", "bot")}
    now = boottime()

    async def scenario() -> None:
        pauses = {"beat": (now + 50, "exited with code 1"), "bot": (now - 1, "it was long ago"), "gone": (now + 9, "")}
        fleet = _fleet([], beginnings=Beginnings(pauses=pauses))
        fleet.want(programs)
        running = asyncio.create_task(fleet.run())
        await until(lambda: len(fleet.members) == 2)
        beat, bot = fleet.members["beat"].program, fleet.members["bot"].program
        assert (beat.state, beat.situation.reason) == ("backoff", "exited with code 1")
        assert fleet.beginnings.pauses == {"beat": pauses["beat"]}
        assert (bot.state, bot.situation.reason) == ("waiting", "")
        fleet.order("beat", StartOrdered())
        await until(lambda: not fleet.beginnings.pauses)
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def test_a_pause_is_no_longer_than_the_longest_that_the_file_allows_now() -> None:
    async def scenario() -> None:
        now = boottime()
        fleet = _fleet([], beginnings=Beginnings(pauses={"beat": (now + 1e9, "exited with code 1")}))
        fleet.want({"beat": ProgramConfig(name="beat", command=("false",), backoff_max=90.0)})
        running = asyncio.create_task(fleet.run())
        await until(lambda: fleet.beginnings.pauses)
        await until(lambda: fleet.members)
        assert fleet.beginnings.pauses["beat"][0] <= boottime() + 90
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def test_what_programs_would_begin_with_is_worked_out_once_for_each_change() -> None:
    async def scenario() -> None:
        fleet = _fleet([])
        fleet.want({"beat": ProgramConfig(name="beat", command=("false",))})
        running = asyncio.create_task(fleet.run())
        await until(lambda: fleet.members)
        before = fleet.beginnings
        assert fleet.beginnings is before
        fleet.order("beat", StopOrdered())
        assert fleet.beginnings is not before
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def test_failures_in_a_row_go_on_with_the_next_worker_and_a_changed_program_begins_anew() -> None:
    beat = ProgramConfig(name="beat", command=("false",))

    async def scenario() -> None:
        fleet = _fleet([], beginnings=Beginnings(failures={"beat": 3, "gone": 2}))
        fleet.want({"beat": beat})
        assert fleet.beginnings.failures == {"beat": 3}
        running = asyncio.create_task(fleet.run())
        await until(lambda: fleet.members)
        assert fleet.members["beat"].program.situation.failures == 3
        assert fleet.beginnings.failures == {"beat": 3}
        fleet.want({"beat": beat.model_copy(update={"command": ("true",)})})
        await until(lambda: not fleet.beginnings.failures)
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def test_a_schedule_that_an_earlier_worker_had_is_as_old_as_it_was_and_a_changed_one_is_new() -> None:
    nightly, hourly = (
        ProgramConfig.model_validate({"name": name, "command": ("true",), "schedule": "30 2 * * *"})
        for name in ("nightly", "hourly")
    )
    changed = hourly.model_copy(update={"schedule": "0 * * * *"})

    async def scenario() -> None:
        before = boottime()
        left = {"nightly": ("30 2 * * * UTC", 7.5), "hourly": ("30 2 * * * UTC", 8.5), "gone": ("0 0 * * * UTC", 9.5)}
        fleet = _fleet([], beginnings=Beginnings(schedules=left))
        fleet.want({"nightly": nightly, "hourly": hourly})
        running = asyncio.create_task(fleet.run())
        await until(lambda: len(fleet.members) == 2)
        assert [_since(fleet, name) for name in ("nightly", "hourly")] == [7.5, 8.5]
        fleet.want({"nightly": nightly.model_copy(update={"command": ("false",)}), "hourly": changed})
        await until(
            lambda: "nightly" in fleet.members and fleet.members["nightly"].spawner.config.command == ("false",)
        )
        await until(lambda: _since(fleet, "hourly") >= before)
        assert _since(fleet, "nightly") == 7.5, "another command is no other schedule"
        found = fleet.beginnings.schedules
        assert found == {"nightly": left["nightly"], "hourly": ("0 * * * * UTC", _since(fleet, "hourly"))}
        fleet.want({"hourly": changed})
        fleet.want({"nightly": nightly, "hourly": changed})
        assert fleet.beginnings.schedules["nightly"][1] >= before, "one that came back was taken up anew"
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def _since(fleet: Fleet, name: str) -> float:
    schedule = fleet.members[name].program.policy.schedule
    assert schedule is not None
    return schedule.since


_TWO = {name: ProgramConfig(name=name, command=("true",)) for name in ("beat", "bot")}


@pytest.mark.parametrize(
    "limits",
    [
        Limits(files=HostLimit(descriptors([_TWO["beat"]]), "LimitNOFILE")),
        Limits(processes=HostLimit(processes([_TWO["beat"]]), "pids.max")),
    ],
)
def test_a_program_beyond_a_limit_does_not_contend_until_there_is_room(limits: Limits) -> None:
    alarms: list[str] = []
    programs = _TWO

    async def scenario() -> None:
        fleet = _fleet(alarms, limits=limits)
        fleet.want(programs)
        running = asyncio.create_task(fleet.run())
        await until(lambda: alarms)
        assert fleet.members["beat"].program.state == "waiting"
        assert fleet.members["bot"].program.state == "stopped"
        assert "only the first 1 of 2 contend on this node" in fleet.members["bot"].program.situation.reason
        fleet.want({"bot": programs["bot"]})
        await until(lambda: set(fleet.members) == {"bot"} and fleet.members["bot"].program.state == "waiting")
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def test_a_program_that_this_node_never_runs_is_stopped_without_an_alarm_until_the_file_says_otherwise() -> None:
    alarms: list[str] = []
    never = ProgramConfig(name="beat", command=("true",), never=("a",))

    async def scenario() -> None:
        fleet = _fleet(alarms)
        fleet.want({"beat": never})
        running = asyncio.create_task(fleet.run())
        await until(lambda: "beat" in fleet.members and fleet.members["beat"].set_aside)
        assert (fleet.members["beat"].program.state, fleet.members["beat"].program.situation.reason) == (
            "stopped",
            NEVER,
        )
        fleet.want({"beat": never.model_copy(update={"never": ("b",)})})
        await until(lambda: fleet.members["beat"].program.state == "waiting")
        fleet.want({"beat": never})
        await until(lambda: "beat" in fleet.members and fleet.members["beat"].set_aside)
        assert fleet.aside.barred("beat")
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())
    assert alarms == []


def test_another_lock_is_named_before_it_is_applied_unless_the_program_is_stopped() -> None:
    beat, bot = (ProgramConfig(name=name, command=("true",)) for name in ("beat", "bot"))
    relocked = {one.name: one.model_copy(update={"lock_key": f"new {one.name}"}) for one in (beat, bot)}

    async def scenario() -> None:
        fleet = _fleet([])
        foresight = Foresight(fleet, "a", "highlander")
        fleet.want({"beat": beat, "bot": bot})
        running = asyncio.create_task(fleet.run())
        await until(lambda: len(fleet.members) == 2)
        fleet.order("bot", StopOrdered())
        await until(lambda: fleet.members["bot"].program.state == "stopped")
        assert foresight.relocked_by({"beat": beat, "bot": bot}) == ()
        assert foresight.relocked_by(relocked) == ("beat",)
        assert foresight.restarted_by(relocked) == (), "nothing is led here"
        fleet.suspend({}, Suspension(True, "uid 0 on node a", "new disk"))
        await until(lambda: fleet.members["beat"].program.state == "stopped")
        assert foresight.relocked_by(relocked) == ("beat",), "what the ledger stops, it stops under the former lock"
        fleet.end()
        await asyncio.wait_for(running, 60)

    asyncio.run(scenario())


def _lead(fleet: Fleet) -> None:
    """Have all programs lead, and another node wait for them."""
    fleet._pool.listener._connection = cast("Connection", object())
    fleet._placement.read(Standing({"b": dict.fromkeys(fleet.members, "1")}))
    term = Term(1, Lengths.alike(600), boottime(), boottime())
    for member in fleet.members.values():
        member.program.situation = Situation(Want.RUN, Leading(term, Running(42, boottime(), inf), inf))


def _led(fleet: Fleet) -> set[str]:
    return {name for name, member in fleet.members.items() if member.program.state == "leading"}


def test_a_drain_is_known_to_who_waits_for_a_turn_once_its_term_ends_and_to_no_other_once_it_is_lifted() -> None:
    drain, leaving, waiting = Suspension(True, "uid 0 on node a", "new disk"), {"p0", "p1"}, {"p2", "p3", "p4"}

    async def scenario() -> None:
        fleet = _fleet([])
        fleet.want({name: ProgramConfig(name=name, command=("true",)) for name in sorted(leaving | waiting)})
        running = asyncio.create_task(fleet.run())
        await until(lambda: len(fleet.members) == 5)
        _lead(fleet)
        fleet.suspend({}, drain)
        crashed = fleet.members["p2"].program
        crashed.post(Exited(9, boottime()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert _led(fleet) == waiting - {"p2"}
        assert crashed.situation.suspension == drain
        fleet.suspend({}, None)
        await asyncio.sleep(2 * LED_WITHIN)
        assert _led(fleet) == waiting - {"p2"}
        running.cancel()

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(scenario())
