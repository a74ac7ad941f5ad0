"""What a program's shell counts is what has happened, and nothing of an earlier term."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Literal

from highlanderd.core import machine
from highlanderd.core import words as w
from highlanderd.core.lease import Claim, Lease, Lengths, Meta, Row, Server, Settle, Sight
from highlanderd.linux import boottime
from highlanderd.program import Program


class Book:
    """Counts what it is told, by name; every record of a program's shell lands here."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def transition(self, program: str, old: str, new: str) -> None:
        self.counted[f"{program}: {old} to {new}"] += 1

    def exited(self, program: str, status: int) -> None:
        self.counted[f"{program}: exited {status}"] += 1

    def term_ended(self, program: str, cause: str) -> None:
        self.counted[f"{program}: {cause}"] += 1

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

    urgency = float("inf")
    believed: int | None = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def refuse(self, why: str) -> None: ...

    def look(self) -> None:
        self.asked.append("look")

    def write_settled(self, settle: Settle) -> None: ...

    def take_over(self, claim: Claim) -> None:
        self.asked.append(f"take over {claim.epoch}")

    def unsettle(self, server: Server) -> None:
        self.asked.append(f"unsettle {server.system}")

    def renew(self, epoch: int, lease: Lease) -> None:
        self.asked.append(f"renew {epoch} under {lease.length:g}")

    def release(self, epoch: int, cause: w.Cause, reservation: w.Reservation | None) -> None:
        self.asked.append(f"release {epoch}: {cause.value}, {reservation}")


class Quiet:
    """A child that obeys without a word."""

    pid: int | None = 42
    unprovable = False
    killed_at: float | None = None
    undying: tuple[int, ...] = ()

    def signal(self, signum: int, to: Literal["tree", "main"]) -> None: ...

    def kill(self) -> None: ...

    def entrust(self, deadline: float, memo: bytes) -> None: ...


def released(epoch: int) -> Sight:
    row = Row(1, "beat", epoch, 1, "b", "them", 1, 1, released=True, trusted_for=10)
    meta = Meta(Lease(10), (1, 1, ""), 0, wanted=Lease(10), ceiling=Lease(10))
    return Sight(Server(1, 1, "run", 100), meta, row)


def a_lead(epoch: int) -> tuple[w.Event, ...]:
    now = boottime()
    return (
        w.Looked(released(epoch - 1), now, keeperless=True),
        w.Granted(epoch, Lengths.alike(10), now),
        w.Started(42, now),
    )


def renewed() -> w.Renewed:
    return w.Renewed(boottime(), Lengths.alike(10))


def told(policy: w.Policy, *events: w.Event) -> tuple[Book, Line]:
    """Live through events that the outside world tells, one by one."""
    book, line = Book(), Line()

    async def live() -> None:
        begun = machine.begin(w.Want.RUN, boottime())
        program = Program("beat", begun, policy, spawn=lambda *_: Quiet(), recorder=book, on_change=lambda: None)
        for event in (*events, w.EndOrdered(w.Cause.SHUTDOWN), w.Emptied(), w.Unlocked()):
            program.tell(event)
        async with asyncio.timeout(60):
            await program.run(line)

    asyncio.run(live())
    return book, line


def test_a_term_that_was_lost_with_its_session_is_not_reattached_by_the_next_one() -> None:
    stops = w.Policy("a", "us", on_connection_loss="stop")
    lost = (w.Detached("the server went away"), w.Emptied(), w.Attached(2), w.Unlocked())
    book, line = told(stops, w.Attached(1), *a_lead(2), *lost, *a_lead(3), renewed())
    assert [ask for ask in line.asked if "take" in ask] == ["take over 2", "take over 3"]
    assert book.counted["beat: disconnected"] == 1
    assert book.counted["reattached"] == 0


def test_a_lock_that_was_taken_back_counts_once() -> None:
    holds = w.Policy("a", "us")
    back = (
        w.Detached("the server went away"),
        w.Attached(2),
        renewed(),
        renewed(),
    )
    book, line = told(holds, w.Attached(1), *a_lead(2), *back)
    assert [ask for ask in line.asked if "take" in ask] == ["take over 2"]
    assert book.counted["reattached"] == 1
