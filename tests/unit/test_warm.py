"""Claims about warm connections, without a server: who shares them, who takes one, and how many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest

from highlanderd.core.lease import Lease
from highlanderd.postgres.connection import Client, Connection
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import Reply
from highlanderd.postgres.server import Server
from highlanderd.postgres.warm import AHEAD, WARM, WarmConnection, WarmConnections
from highlanderd.postgres.wire import Wire
from tests.support.driven_loop import DrivenLoop


class QuietWire:
    """Answers all that is asked, at once."""

    def __init__(self) -> None:
        self.owner: Any = None
        self.asked: list[str] = []
        self.dropped = False

    def assign(self, owner: object) -> None:
        self.owner = owner

    def ask(self, asks: list[Any], _within: float) -> asyncio.Future[list[Reply]]:
        self.asked += [statement.name for statement, _ in asks]
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        future.set_result([Reply() for _ in asks])
        return future

    def drop(self, why: str) -> None:
        self.dropped = True
        self.owner.lost(why)


class Here:
    """A server of which only the name is asked."""

    node = "n1"


class OpenPool:
    """Keeps who waits for a connection until the test opens one."""

    def __init__(self) -> None:
        self.server, self.ledger = cast("Server", Here()), Ledger("highlander", "highlander", 10.0)
        self.waiting: list[WarmConnection] = []
        self.losses: list[str] = []

    def request(self, client: WarmConnection) -> None:
        self.waiting.append(client)

    def forget(self, client: WarmConnection) -> None:
        self.waiting = [one for one in self.waiting if one is not client]

    def pass_on(self, former: Client, client: Client) -> None:
        pass

    def lost(self, _connection: Connection, why: str) -> None:
        self.losses.append(why)

    async def open(self, count: int = 1) -> None:
        """Open connections for those who have waited longest, once it is asked for that many."""
        for _ in range(count):
            await rest()
            self.waiting.pop(0).deliver(connection())
        await rest()


async def rest() -> None:
    """Wait until what was taken is asked for anew."""
    await asyncio.sleep(0.01)


def connection() -> Connection:
    return Connection(cast("Wire", QuietWire()), 1, 1, 0.0, Lease(10.0))


class Program:
    """Keeps what it is given."""

    urgency = float("inf")

    def __init__(self) -> None:
        self.shared: Connection | None = None
        self.own: Connection | None = None

    def share(self, connection: Connection) -> None:
        self.shared = connection

    def part(self, _why: str) -> None:
        self.shared = None

    def deliver(self, connection: Connection) -> None:
        self.own = connection

    def keep_alive(self) -> None:
        pass


def owners(programs: Sequence[Program]) -> list[Program]:
    """Return those that have a connection of their own."""
    return [program for program in programs if program.own is not None]


Scenario = Callable[[OpenPool, WarmConnections], Coroutine[Any, Any, None]]


def play(scenario: Scenario) -> None:
    async def playing() -> None:
        pool = OpenPool()
        await scenario(pool, WarmConnections(pool, pause=0.0))

    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        runner.run(playing())


def test_nobody_who_shares_means_no_connections() -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        assert not pool.waiting
        program = Program()
        warm.join(program)
        await pool.open(WARM)
        assert warm.count == WARM
        warm.leave(program)
        warm.trim()
        assert warm.count == 0

    play(scenario)


@pytest.mark.parametrize("programs", [1, 1000])
def test_as_few_connections_serve_many_programs_as_one(programs: int) -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        sharers = [Program() for _ in range(programs)]
        for sharer in sharers:
            warm.join(sharer)
        await rest()
        assert len(pool.waiting) == WARM
        await pool.open(WARM)
        assert not pool.waiting
        assert {sharer.shared for sharer in sharers} == {warm.shared}

    play(scenario)


def test_what_carries_the_looks_is_taken_by_nobody() -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        programs = [Program() for _ in range(WARM)]
        warm.join(programs[0])
        await pool.open(WARM)
        shared = warm.shared
        taken = [warm.take(program) for program in programs]
        assert taken.count(None) == 1
        assert shared not in taken
        await rest()
        assert len(pool.waiting) == WARM - 1  # as many as were taken

    play(scenario)


def test_who_wants_one_has_the_next_that_comes_in_the_order_of_asking() -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        first, second = Program(), Program()
        warm.join(first)
        warm.join(second)
        await pool.open(1)
        warm.want(first)
        warm.want(second)
        await pool.open(1)
        assert owners((first, second)) == [first]
        await pool.open(1)
        assert len(owners((first, second))) == 2
        assert warm.shared not in (first.own, second.own)

    play(scenario)


def test_who_leaves_is_given_nothing() -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        gone, stays = Program(), Program()
        warm.join(gone)
        warm.join(stays)
        await pool.open(1)
        warm.want(gone)
        warm.leave(gone)
        await pool.open(WARM - 1)
        assert gone.own is None

    play(scenario)


def test_the_next_one_carries_the_looks_when_the_first_is_lost() -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        program = Program()
        warm.join(program)
        await pool.open(2)
        lost = warm.shared
        assert lost is not None
        lost.wire.drop("cut")
        assert program.shared is warm.shared is not lost
        assert pool.losses == ["cut"]
        await rest()
        assert len(pool.waiting) == WARM - 1

    play(scenario)


def test_who_shares_hears_when_nothing_is_left_and_when_there_is_something_again() -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        program = Program()
        warm.join(program)
        await pool.open(1)
        assert warm.shared is not None
        warm.shared.wire.drop("cut")
        assert program.shared is None
        await pool.open(1)
        assert program.shared is warm.shared is not None

    play(scenario)


def test_what_comes_back_is_free_and_what_is_too_many_is_closed() -> None:
    async def scenario(pool: OpenPool, warm: WarmConnections) -> None:
        program = Program()
        warm.join(program)
        await pool.open(WARM)
        own = warm.take(program)
        assert own is not None
        await pool.open(1)
        warm.take_back(program, own)
        assert len(pool.waiting) == 0
        assert warm.count == WARM + 1
        warm.trim()
        assert warm.count == WARM
        assert cast("QuietWire", own.wire).dropped

    play(scenario)


def test_only_a_few_take_one_before_they_may_take_over() -> None:
    async def scenario(_pool: OpenPool, warm: WarmConnections) -> None:
        programs = [Program() for _ in range(AHEAD + 1)]
        assert [warm.expect(program) for program in programs].count(True) == AHEAD
        warm.forgo(programs[0])
        assert warm.expect(programs[-1])

    play(scenario)
