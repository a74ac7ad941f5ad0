"""Claims about renewals that are due together: each ends once, and what is not a success decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from highlanderd.core.events import Renewed
from highlanderd.core.key import AdvisoryLock
from highlanderd.core.lease import Lease, Lengths
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.lock_connection import Answered, LockConnection, ProgramLock
from highlanderd.postgres.renewal_batch import Renewable, RenewalBatch
from highlanderd.postgres.replies import Query, Reply, ServerMessage
from highlanderd.postgres.sql.dialect import VERSION

LEASE = Lease(2.0)
MESSAGE = ServerMessage("01000", "the wait was cancelled", "SyncRepWaitForLSN")


class Line:
    """A session that keeps what it was asked, and what became of its own renewal."""

    def __init__(self, lock_id: int, lease: Lease = LEASE) -> None:
        self.lock = ProgramLock(f"p{lock_id}", lock_id, AdvisoryLock(lock_id), -lock_id, "n1", "i1")
        self.connection = Connection(cast(Any, SimpleNamespace()), 100 + lock_id, 1, 0.0, lease)
        self.own: Connection | None = self.connection
        self.known = 1
        self.queries: list[Query] = []
        self.answer: Callable[[list[Reply]], None] = lambda _: None
        self.lose: Callable[[], None] = lambda: None
        self.ended: list[str] = []
        self.renewed: Renewed | None = None

    def knows(self, number: int) -> bool:
        return number == self.known

    def ask(self, answered: Answered, *queries: Query, unanswered: Callable[[], None]) -> None:
        self.queries += queries
        self.answer, self.lose = lambda replies: answered(replies, 5.0), unanswered

    def alone(self, _one: Renewable, due_since: float | None = None) -> None:
        self.ended.append("alone" if due_since is None else "alone after all")

    def prolonged(self, _one: Renewable, renewed: Renewed) -> None:
        self.ended.append("renewed")
        self.renewed = renewed


def join(batch: RenewalBatch, *lines: Line) -> None:
    for line in lines:
        batch.join(Renewable(line, cast(LockConnection, line), 3, line.connection, line.known))


def answer(lock_ids: Sequence[int], **changed: str) -> Reply:
    """Return what the server says once it has renewed these."""
    values = {"wanted": "2", "pace": "2", "version": str(VERSION), "compatible_from": "2", **changed}
    return Reply([(*values.values(), str(list(lock_ids)) if lock_ids else None)])


async def asked(*lines: Line) -> None:
    """Have them join, and wait until they were asked for."""
    join(RenewalBatch(), *lines)
    await asyncio.sleep(0)


def test_one_alone_asks_as_ever() -> None:
    async def scenario() -> None:
        one = Line(1)
        await asked(one)
        assert (one.ended, one.queries) == (["alone"], [])

    asyncio.run(scenario())


def test_what_was_renewed_is_told_and_counts_from_the_sending_and_the_rest_asks_itself() -> None:
    async def scenario() -> None:
        lines = [Line(1), Line(2), Line(3)]
        await asked(*lines)
        lines[0].answer([answer([1, 3])])
        assert [line.ended for line in lines] == [["renewed"], ["alone after all"], ["renewed"]]
        assert lines[2].renewed == Renewed(5.0, Lengths(LEASE, LEASE, LEASE))

    asyncio.run(scenario())


DOUBTS = {
    "an error": Reply(error=MESSAGE),
    "an error behind the rows": Reply(answer([1, 2]).rows, error=MESSAGE),
    "a warning about the commit": Reply(answer([1, 2]).rows, warnings=[MESSAGE]),
    "no row": Reply(),
    "nothing renewed": answer([]),
    "another lease wanted": answer([1, 2], wanted="3"),
    "another pace": answer([1, 2], wanted="3", pace="3"),
    "another schema": answer([1, 2], version="2"),
    "too new a ledger": answer([1, 2], compatible_from=str(VERSION + 1)),
    "nonsense for a lease": answer([1, 2], wanted="0"),
    "nonsense for a version": answer([1, 2], version="x"),
    "nonsense for the rows": Reply([(*answer([]).rows[0][:-1], "{")]),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_from_anything_but_success_each_session_asks_itself(doubt: str) -> None:
    async def scenario() -> None:
        lines = [Line(1), Line(2)]
        await asked(*lines)
        lines[0].answer([DOUBTS[doubt]])
        assert [line.ended for line in lines] == [["alone after all"], ["alone after all"]]

    asyncio.run(scenario())


def test_a_later_schema_is_worked_with_as_far_as_this_daemon_knows_it() -> None:
    async def scenario() -> None:
        lines = [Line(1), Line(2)]
        await asked(*lines)
        lines[0].answer([answer([1, 2], version=str(VERSION + 1))])
        assert [line.ended for line in lines] == [["renewed"], ["renewed"]]

    asyncio.run(scenario())


def test_without_an_answer_each_session_asks_itself_once_and_a_late_answer_says_nothing() -> None:
    async def scenario() -> None:
        lines = [Line(1), Line(2)]
        await asked(*lines)
        await asyncio.sleep(2 * LEASE.together_within)
        assert [line.ended for line in lines] == [["alone after all"], ["alone after all"]]
        lines[0].answer([answer([1, 2])])
        lines[0].lose()
        assert [line.ended for line in lines] == [["alone after all"], ["alone after all"]]

    asyncio.run(scenario())


def test_the_loss_of_the_session_that_asks_has_each_ask_itself() -> None:
    async def scenario() -> None:
        lines = [Line(1), Line(2)]
        await asked(*lines)
        lines[0].lose()
        await asyncio.sleep(2 * LEASE.together_within)
        assert [line.ended for line in lines] == [["alone after all"], ["alone after all"]]

    asyncio.run(scenario())


def test_sessions_that_are_lost_or_replaced_before_it_is_sent_are_not_asked_for() -> None:
    async def scenario() -> None:
        lost, replaced, one, other = Line(1), Line(2), Line(3), Line(4)
        join(RenewalBatch(), lost, replaced, one, other)
        lost.own, replaced.known = None, 2
        await asyncio.sleep(0)
        [(_, _, values)] = one.queries
        assert values[0] == [3, 4]
        assert lost.ended == replaced.ended == []

    asyncio.run(scenario())


def test_those_under_another_lease_have_a_statement_of_their_own() -> None:
    async def scenario() -> None:
        lines = [Line(1), Line(2, Lease(3.0)), Line(3), Line(4, Lease(3.0))]
        await asked(*lines)
        assert [[values[0] for _, _, values in line.queries] for line in lines] == [[[1, 3]], [[2, 4]], [], []]

    asyncio.run(scenario())


def test_both_questions_take_no_longer_than_one_that_was_asked_alone_and_a_locked_row_is_told_from_silence() -> None:
    own = LEASE.answer_within - LEASE.together_within
    assert LEASE.renew_every < own, "lock_timeout is a fifth of the lease"
