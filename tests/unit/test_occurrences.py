"""Claims about events for people: one of each, in order, from the ledger and from a node."""

from __future__ import annotations

from msgspec.structs import asdict

from highlanderd.core.occurrences import Occurrence, latest
from highlanderd.ctl.events import detail, line
from highlanderd.structs import replace
from highlanderd.worker.chronicle import KEPT, Chronicle


def at(second: int, event: str, **facts: object) -> Occurrence:
    return replace(Occurrence(f"2026-01-02T03:04:{second:02d}.000Z", event, "a", "beat", 7), **facts)  # type: ignore[arg-type]


def test_a_term_that_node_and_ledger_tell_of_is_shown_once_as_the_ledger_has_it() -> None:
    seen = [at(2, "leading"), at(3, "started"), at(9, "ended", cause="exited")]
    remembered = [at(1, "leading"), at(8, "ended", cause="exited", exit_status=1)]
    assert latest(remembered, seen, 10) == [remembered[0], seen[1], remembered[1]]


def test_the_same_state_entered_twice_is_two_events() -> None:
    seen = [at(1, "backoff"), at(2, "backoff")]
    assert latest((), seen, 10) == seen


def test_the_newest_are_kept() -> None:
    seen = [at(second, "backoff") for second in range(5)]
    assert latest((), seen, 2) == seen[-2:]


def test_a_chronicle_keeps_the_newest_and_numbers_all() -> None:
    chronicle = Chronicle("a")
    for number in range(KEPT + 5):
        chronicle.tell("backoff", "beat", epoch=number)
    numbers = [number for number, _ in chronicle.since(0)]
    assert (numbers[0], numbers[-1], len(numbers)) == (6, KEPT + 5, KEPT)
    [(_, last)] = chronicle.since(KEPT + 4)
    assert (last.node, last.program, last.epoch) == ("a", "beat", KEPT + 4)
    assert chronicle.since(KEPT + 5) == []


def test_a_line_tells_who_what_and_why_and_cannot_steer_the_terminal() -> None:
    ended = asdict(at(5, "ended", cause="stopped", exit_signal="SIGTERM", author="ann", reason="\x1b[2J"))
    assert detail(ended) == "stopped (SIGTERM) by ann: \x1b[2J"
    assert line(ended, 1767312000.0) == "03:04:05 UTC  a  beat  ended, epoch 7: stopped (SIGTERM) by ann: \ufffd[2J"
    drained = asdict(Occurrence("2026-01-02T03:04:05Z", "drained", "a", author="ann"))
    assert line(drained, 1767312000.0) == "03:04:05 UTC  a  -  drained: by ann"
