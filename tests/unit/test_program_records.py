"""What a program's shell counts is what has happened, and nothing of an earlier term."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Literal

import pytest

from highlanderd.children.messages import KeeperReport
from highlanderd.core import machine
from highlanderd.core.effects import Occasion, Release, Spawn
from highlanderd.core.events import (
    Attached,
    Detached,
    Emptied,
    EndOrdered,
    Event,
    Exited,
    FoundReady,
    FoundUnhealthy,
    Granted,
    Looked,
    Renewed,
    RestartOrdered,
    Settled,
    Started,
    StopOrdered,
    Unlocked,
)
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.observation import Glimpse, Meta, Observation, Row, ServerIdentity
from highlanderd.core.schedule import Change, Skipped, Timetable
from highlanderd.core.states import Cause, Policy, Want
from highlanderd.core.verdict import Claim, Settle
from highlanderd.structs import replace
from highlanderd.system.linux import boottime
from highlanderd.worker.program import Program
from highlanderd.worker.records import Records
from tests.support.schedules import every


class Book:
    """Counts what it is told, by name; every record of a program's shell lands here."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def transition(self, program: str, old: str, new: str) -> None:
        self.counted[f"{program}: {old} to {new}"] += 1

    def exited(self, program: str, status: int) -> None:
        self.counted[f"{program}: exited {status}"] += 1

    def exit_failed(self, program: str, status: int) -> None:
        self.counted[f"{program}: failed with {status}"] += 1

    def term_ended(self, program: str, cause: str) -> None:
        self.counted[f"{program}: {cause}"] += 1

    def skipped(self, program: str, reason: str, times: int) -> None:
        self.counted[f"{program}: skipped, {reason}"] += times

    def took_over(self, seconds: float) -> None:
        self.counted["took over"] += seconds >= 0

    def leaderless(self, seconds: float) -> None:
        self.counted["leaderless"] += seconds >= 0

    def stopped(self, seconds: float) -> None:
        self.counted["stopped"] += seconds >= 0

    def renewed(self, seconds: float) -> None:
        self.counted["renewed"] += seconds >= 0

    def renew_failed(self) -> None:
        self.counted["renew failed"] += 1

    def reattached(self) -> None:
        self.counted["reattached"] += 1


class Line:
    """A session that is always there and remembers what it was asked; the test answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def note_known(self, number: int | None) -> None: ...

    def note_stake(self, lease_end: float) -> None: ...

    def refuse(self, why: str) -> None: ...

    def look(self) -> None:
        self.asked.append("look")

    def write_settled(self, settle: Settle) -> None: ...

    def write_timetable(self, change: Change) -> None:
        self.asked.append(f"write {change.latest}")

    def close_terms(self, claim: Claim) -> None:
        self.asked.append(f"close {len(claim.closing)}")

    @property
    def glimpse(self) -> Glimpse | None:
        return None

    @property
    def undivided(self) -> bool:
        return True

    def take_over(self, claim: Claim) -> bool:
        self.asked.append(f"take over {claim.epoch}")
        return True

    def unsettle(self, server: ServerIdentity) -> None:
        self.asked.append(f"unsettle {server.system}")

    def renew(self, epoch: int, lease: Lease) -> None:
        self.asked.append(f"renew {epoch} under {lease.length:g}")

    def release(self, ending: Release) -> None:
        self.asked.append(f"release {ending.epoch}: {ending.cause.value}, {ending.reservation}")


class Quiet:
    """A child that obeys without a word."""

    pid: int | None = 42
    keeper_pid: int | None = 41
    number = 1
    unprovable = ""
    killed_at: float | None = None
    unkillable: tuple[int, ...] = ()
    missing_limits: str | None = None
    report: KeeperReport | None = None

    def signal(self, signum: int, to: Literal["tree", "main"]) -> None: ...

    def kill(self, *, after: bool = False) -> None: ...

    def run_hook(self, name: str) -> None: ...

    def end(self, cause: str, *, announced: bool) -> None: ...

    def set_deadline(self, deadline: float, memo: bytes) -> None: ...

    async def news(self) -> None: ...

    def probe(self, argv: tuple[str, ...], timeout: float) -> int:
        return len(argv) + int(timeout)

    def watch(self, within: float) -> None: ...


class Incurious:
    """Asks no child anything."""

    def follow(self, child: object, running: object, post: object) -> None: ...

    def stop(self) -> None: ...


def released(epoch: int) -> Observation:
    row = Row(1, "beat", epoch, 1, "b", "them", 1, 1, released=True, trusted_for=10)
    meta = Meta(Lease(10), (1, 1, ""), 0, wanted=Lease(10), ceiling=Lease(10))
    return Observation(ServerIdentity(1, 1, "run", 100), meta, row)


def a_lead(epoch: int) -> tuple[Event, ...]:
    now = boottime()
    return (
        Looked(released(epoch - 1), now, keeperless=True),
        Granted(epoch, Lengths.alike(10), now),
        Started(42, now),
    )


class Quiets:
    """Starts children of which nothing is heard."""

    def prepare(self, asked: Spawn, occasion: Occasion) -> None: ...

    def discard(self) -> None: ...

    def __call__(self, effect: Spawn, memo: bytes, post: Callable[[Event], None], cause: str = "") -> Quiet:  # noqa: ARG002
        return Quiet()


def renewed() -> Renewed:
    return Renewed(boottime(), Lengths.alike(10))


def told(
    policy: Policy, *events: Event, spawn: Quiets | None = None, on_change: Callable[[], None] = lambda: None
) -> tuple[Book, Line]:
    """Live through events that the outside world tells, one by one."""
    ledger, line = Book(), Line()

    async def live() -> None:
        begun = machine.begin(Want.RUN, boottime())
        program = Program(
            "beat", begun, policy, spawn=spawn or Quiets(), prober=Incurious(), recorder=ledger, on_change=on_change
        )
        for event in (*events, EndOrdered(Cause.SHUTDOWN), Emptied(), Unlocked()):
            program.post(event)
        async with asyncio.timeout(60):
            await program.run(line)

    asyncio.run(live())
    return ledger, line


def test_a_term_that_was_lost_with_its_session_is_not_reattached_by_the_next_one() -> None:
    stops = Policy("a", "us", on_connection_loss="stop")
    lost = (Detached("the server went away"), Emptied(), Attached(2), Unlocked())
    ledger, line = told(stops, Attached(1), *a_lead(2), *lost, *a_lead(3), renewed())
    assert [ask for ask in line.asked if "take" in ask] == ["take over 2", "take over 3"]
    assert ledger.counted["beat: disconnected"] == 1
    assert ledger.counted["reattached"] == 0


def test_scheduled_times_that_this_node_has_skipped_are_counted_by_their_reason() -> None:
    skipped = Settled((Skipped(60, 180, 3, "missed"), Skipped(240, 240, 1, "overlap"))), Settled()
    ledger, _ = told(Policy("a", "us"), Attached(1), *skipped, *a_lead(2))
    assert ledger.counted["beat: skipped, missed"] == 3
    assert ledger.counted["beat: skipped, overlap"] == 1


@pytest.mark.parametrize(
    ("events", "failed"),
    [
        ((Exited(1 << 8, 0.0),), {"beat: failed with 256"}),
        ((Exited(9, 0.0),), {"beat: failed with 9"}),
        ((Exited(3 << 8, 0.0),), set[str]()),
        ((StopOrdered(), Exited(15, 0.0)), set[str]()),
        ((RestartOrdered(), Exited(1 << 8, 0.0)), set[str]()),
        ((FoundUnhealthy("it hangs", 2.0), Exited(15, 0.0)), {"beat: failed with 15"}),
    ],
)
def test_an_end_is_a_failure_unless_its_status_is_a_success_or_an_order_has_brought_it_about(
    events: tuple[Event, ...], failed: set[str]
) -> None:
    policy = Policy("a", "us", restart="never", success_exit_codes=frozenset({0, 3}))
    ledger, _ = told(policy, Attached(1), *a_lead(2), FoundReady(boottime()), *events)
    assert {what for what in ledger.counted if "failed with" in what} == failed


def test_what_is_prepared_for_a_takeover_is_prepared_for_its_time() -> None:
    prepared: list[Spawn] = []

    class Preparing(Quiets):
        def prepare(self, asked: Spawn, occasion: Occasion) -> None:  # noqa: ARG002
            prepared.append(asked)

    hourly = Policy("a", "us", schedule=every(3600), restart="never")
    free = released(1)
    assert free.row is not None
    free = replace(free, row=replace(free.row, ended_ago=600.0))
    seen = replace(free, clock=7200.0, timetable=Timetable("every 3600", 0.0, 3600))
    _, granted, started = a_lead(2)
    told(hourly, Attached(1), Looked(seen, boottime(), keeperless=True), granted, started, spawn=Preparing())
    assert [one.scheduled for one in prepared] == [7200]


def test_a_lock_that_was_taken_back_counts_once() -> None:
    holds = Policy("a", "us")
    back = (
        Detached("the server went away"),
        Attached(2),
        renewed(),
        renewed(),
    )
    ledger, line = told(holds, Attached(1), *a_lead(2), *back)
    assert [ask for ask in line.asked if "take" in ask] == ["take over 2"]
    assert ledger.counted["reattached"] == 1


def changes(*events: Event) -> int:
    """Return how often a program says that it has changed which leads, and then lives through events."""
    noted: list[None] = []
    told(Policy("a", "us"), Attached(1), *events, on_change=lambda: noted.append(None))
    return len(noted)


def test_a_renewal_or_a_look_that_shows_nothing_new_is_no_change_to_tell_of() -> None:
    ready = (*a_lead(2), FoundReady(boottime()))
    assert changes(*ready, renewed(), renewed()) == changes(*ready)
    assert changes(*ready, renewed(), Detached("the server went away"), Attached(2)) == changes(*ready) + 2
    longer = Renewed(boottime(), Lengths.alike(20))
    assert changes(*ready, longer, longer) == changes(*ready) + 1
    led = replace(released(1), row=Row(1, "beat", 1, 1, "b", "them", 1, 1, released=False, trusted_for=10))
    looked = Looked(led, boottime(), keeperless=True)
    assert changes(looked, looked, looked) == changes(looked)


@pytest.mark.parametrize(
    ("events", "level", "event"),
    [
        ((Exited(256, 0.0),), "WARNING", "exited"),
        ((Exited(0, 0.0),), "INFO", "exited"),
        ((Detached("the server went away"),), "ERROR", "disconnected"),
        ((StopOrdered(),), "INFO", "stopped"),
    ],
)
def test_a_lost_term_is_an_error_a_failure_a_warning_and_an_order_neither(
    events: tuple[Event, ...], level: str, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    told(Policy("a", "us", on_connection_loss="stop"), Attached(1), *a_lead(2), *events)
    record = next(record for record in caplog.records if "leading -> draining" in record.getMessage())
    assert (record.levelname, vars(record)["event"]) == (level, event)


def test_each_step_of_a_term_is_told_with_its_epoch_and_its_end_with_cause_and_status() -> None:
    told_of: list[tuple[str, dict[str, object]]] = []

    def tell(event: str, program: str, **facts: object) -> None:
        assert program == "beat"
        told_of.append((event, {key: value for key, value in facts.items() if value is not None}))

    policy, situation, now = Policy("a", "us", restart="on-failure"), machine.begin(Want.RUN, boottime()), boottime()
    records = Records("beat", Book(), succeeds=policy.succeeds, tell=tell)
    steps = (Attached(1), *a_lead(7), Exited(256, now), Emptied(), Unlocked())
    for event in steps:
        before, situation = situation, machine.step(situation, event, now, policy)[0]
        records.step(before, event, situation, now)
    assert told_of == [
        ("leading", {"epoch": 7}),
        ("started", {"epoch": 7}),
        ("exited", {"epoch": 7, "exit_status": 1}),
        ("draining", {"epoch": 7, "cause": "exited", "reason": "exited with status 1"}),
        ("ended", {"epoch": 7, "cause": "exited", "exit_status": 1}),
        ("backoff", {"reason": "exited with status 1"}),
    ]
