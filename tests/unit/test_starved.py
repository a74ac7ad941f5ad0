"""Claims about programs that the kernel killed for want of memory, and about those that run without a limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from highlanderd.children.child import Child
from highlanderd.children.guardian_link import GuardianLink
from highlanderd.children.messages import KeeperReport
from highlanderd.children.missing_limits import reason
from highlanderd.children.spawn import Origin, Spawner
from highlanderd.config import ProgramConfig
from highlanderd.core.events import Event, Exited, Started
from highlanderd.core.states import Cause, Policy
from highlanderd.guardian import cgroup
from highlanderd.output.writer import Writer
from highlanderd.run.outcome import of_term
from highlanderd.worker import missing_limits
from highlanderd.worker.interfaces import ProgramChild
from highlanderd.worker.member import Member
from highlanderd.worker.meter import Meter
from tests.support.core import draining, go, leading

KILLED = Exited(9, 3.0, starved="at its memory_max")
BEAT = ProgramConfig(name="beat", command=("true",), limits={"memory_max": 64 << 20})
INSTANCE = "6f3f1b0e-5d4c-4c1b-8f1a-2f6f3b0c9d11"
REPORT = KeeperReport(
    pid=7, started=1.0, failed=None, status=9, exited_at=2.0, killed=None, empty=True, deadline=9.0, memo=b""
)


@dataclass
class Reported:
    """A child as its keeper reports it."""

    report: KeeperReport = REPORT
    missing_limits: str | None = ""
    number: int = 4
    kept: bool = False
    post: Callable[[Event], None] = print

    def listen(self, post: Callable[[Event], None], _pipes_came: Callable[[], None]) -> None:
        self.post = post

    def pipes(self) -> dict[str, int]:
        return {}

    def log_report(self) -> None: ...


def told(child: Reported, *events: Event, config: ProgramConfig = BEAT) -> list[Event]:
    """Return the events of a child as its program hears them."""

    async def scenario() -> list[Event]:
        nothing = lambda *_: None  # noqa: E731
        guardian = cast("GuardianLink", SimpleNamespace(order_log=nothing))
        origin = Origin(
            *(guardian, Writer(2), "a", "highlander", Path("/nowhere"), {}, nothing, nothing, nothing),
            starved=lambda _: "at its memory_max",
        )
        spawner, heard = Spawner(origin, config), list[Event]()
        spawner.adopt(cast("Child", child), heard.append)
        for event in events:
            child.post(event)
        return heard

    return asyncio.run(scenario())


def test_a_term_that_ends_for_want_of_memory_says_so_and_counts_as_a_failure() -> None:
    situation, _ = go(leading(), (3.0, KILLED))
    assert draining(situation).cause is Cause.OUT_OF_MEMORY
    assert situation.reason == "killed by SIGKILL: out of memory, at its memory_max"
    assert situation.failures == 1
    assert of_term(draining(situation), situation.reason, 126).code == 137


def test_a_program_that_is_not_started_again_has_finished_all_the_same() -> None:
    situation, _ = go(leading(), (3.0, KILLED), policy=Policy("a", "us", restart="never"))
    assert draining(situation).cause is Cause.FINISHED
    assert situation.reason == "killed by SIGKILL: out of memory, at its memory_max"


def test_only_a_kill_of_the_kernels_own_is_asked_about() -> None:
    assert told(Reported(), Exited(9, 3.0)) == [KILLED]
    assert told(Reported(), Exited(256, 3.0)) == [Exited(256, 3.0)]
    by_us = KeeperReport(**{name: getattr(REPORT, name) for name in REPORT.__struct_fields__} | {"killed": "order"})
    assert told(Reported(by_us), Exited(9, 3.0)) == [Exited(9, 3.0)]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ("oom 1\noom_kill 2\n", "at its memory_max"),
        ("oom 0\noom_kill 2\n", "which this host, or a cgroup above its own, had no more of"),
        ("oom 3\noom_kill 0\n", ""),
        (None, ""),
    ],
)
def test_what_the_kernel_counts_says_whose_limit_it_was(tmp_path: Path, events: str | None, why: str) -> None:
    directory = tmp_path / cgroup.name(INSTANCE, 4)
    directory.mkdir()
    if events is not None:
        (directory / "memory.events").write_text(events)
    child = cast("ProgramChild", Reported())
    assert Meter(INSTANCE, str(tmp_path), lambda *_: None).starved(child) == why
    assert Meter(INSTANCE, None, lambda *_: None).starved(child) == ""


def test_a_kill_that_was_counted_before_has_not_ended_the_child(tmp_path: Path) -> None:
    directory = tmp_path / cgroup.name(INSTANCE, 4)
    directory.mkdir()
    (directory / "memory.events").write_text("oom 1\noom_kill 1\n")
    child, meter = cast("ProgramChild", Reported()), Meter(INSTANCE, str(tmp_path), lambda *_: None)
    meter.exited("beat", child)
    assert meter.starved(child) == ""


def test_a_child_without_its_limits_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        told(Reported(missing_limits="memory_max cannot hold: no"), Started(7, 1.0), Started(8, 2.0))
        told(Reported(), Started(7, 1.0))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["beat runs without a limit: memory_max cannot hold: no"]


def test_a_keeper_of_an_earlier_version_sets_no_limits() -> None:
    child = Reported(missing_limits=None)
    assert reason(BEAT, child).startswith("its keeper is of an earlier version")
    assert reason(ProgramConfig(name="beat", command=("true",)), child) == ""
    assert reason(BEAT.model_copy(update={"limits": {"memory_max": -1, "nofile": 9}}), child) == ""


def test_status_names_a_program_for_as_long_as_it_runs_without_its_limit() -> None:
    def member(child: Reported | None, running: object) -> Member:
        program = SimpleNamespace(name="beat", child=child, running=running)
        return cast("Member", SimpleNamespace(program=program, spawner=SimpleNamespace(config=BEAT)))

    bare = Reported(missing_limits="memory_max cannot hold: no")
    members = [member(bare, object()), member(bare, None), member(None, None), member(Reported(), object())]
    assert list(missing_limits.sentences(members)) == ["beat runs without a limit: memory_max cannot hold: no"]
