"""Which deadlines a keeper still owes an answer to."""

from __future__ import annotations

from highlanderd.children.sent_deadlines import SentDeadlines

LEASE = 10.0


def test_an_answer_acknowledges_its_deadline_and_those_before_it() -> None:
    deadlines = SentDeadlines()
    for number in range(3):
        deadlines.send(50.0 + number, b"%d" % number, float(number))
    assert deadlines.acknowledge(51.0) == b"1"
    assert not deadlines.overdue(2.0 + 0.3 * LEASE, LEASE)
    assert deadlines.overdue(2.1 + 0.3 * LEASE, LEASE), "the last one is still owed"


def test_one_answer_acknowledges_a_deadline_that_was_sent_again_with_another_memo() -> None:
    deadlines = SentDeadlines()
    deadlines.send(50.0, b"to be stopped", 1.0)
    deadlines.send(50.0, b"to run again", 1.1)
    assert deadlines.acknowledge(50.0) == b"to run again"
    assert not deadlines.overdue(100.0, LEASE)


def test_a_deadline_that_was_never_sent_acknowledges_nothing() -> None:
    deadlines = SentDeadlines()
    deadlines.send(50.0, b"led", 1.0)
    assert deadlines.acknowledge(60.0) is None
    assert deadlines.overdue(100.0, LEASE)
