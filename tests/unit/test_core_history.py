"""Claims about what many terms say together."""

from __future__ import annotations

import pytest

from highlanderd.core.terms import Former, GapReport, PastTerm, ProgramHistory, by_program
from highlanderd.structs import replace


def term(program: str, epoch: int, gap: float | None, cause: str | None = "released", lasted: float = 60.0) -> PastTerm:
    """Return a term of node ``b`` after one of node ``a`` that was released; without a gap it is the first one."""
    former = None if gap is None else Former(epoch - 1, "a", cause)
    return PastTerm(
        program, epoch, "b", "2026-01-02T03:04:05Z", "2026-01-02T03:05:05Z", lasted, "released", former, gap
    )


def test_gaps_count_for_the_cause_of_the_term_before_them() -> None:
    terms = [
        term("beat", 1, None),
        term("beat", 2, 0.25),
        term("beat", 3, 12.5, "lapsed"),
        term("beat", 4, 0.5),
        term("relay", 9, None, lasted=1.5),
    ]
    assert by_program(terms) == (
        ProgramHistory("beat", 4, 240.0, (GapReport("lapsed", 1, 12.5), GapReport("released", 2, 0.5))),
        ProgramHistory("relay", 1, 1.5, ()),
    )


def test_gaps_of_which_nothing_tells_how_long_they_were_are_counted_apart() -> None:
    terms = [term("beat", 2, 0.0, "lapsed"), term("beat", 3, 12.5, "lapsed"), term("beat", 4, 0.0, "lapsed")]
    assert by_program(terms)[0].gaps == (GapReport("lapsed", 3, 12.5, unknown=2),)


def test_nothing_overlaps_where_nothing_was_led_before_or_it_had_ended() -> None:
    assert not term("beat", 1, None).overlaps
    assert not term("beat", 2, 0.0).overlaps


def test_a_term_that_began_before_the_former_one_ended_overlaps_and_is_no_gap() -> None:
    early = term("beat", 2, -0.001)
    assert early.overlaps
    assert by_program([early])[0].gaps == ()


def test_a_term_overlaps_a_former_one_that_never_ended() -> None:
    never = PastTerm("beat", 2, "b", "2026-01-02T03:04:05Z", None, 1.0, None, Former(1, "a", None), None)
    assert never.overlaps


@pytest.mark.parametrize(
    ("late", "former", "unled"),
    [
        (0.02, "2026-01-01T03:04:05Z", 0.02),
        (7200.0, "2026-01-02T01:04:05Z", 3600.0),
        (-60.0, "2026-01-02T01:04:05Z", 0.0),
        (None, "2026-01-01T03:04:05Z", None),
        (None, None, 3600.0),
    ],
    ids=["on time", "repeated", "clock set back", "begun by hand", "no schedule"],
)
def test_a_gap_is_judged_from_when_a_run_was_due(late: float | None, former: str | None, unled: float | None) -> None:
    due = "2026-01-02T03:04:05Z"
    run = term("nightly", 2, 3600.0, "finished")
    run = replace(run, former=Former(1, "a", "finished", former), late=late, scheduled=None if late is None else due)
    assert run.unled == unled
    [found] = by_program([run])
    assert found.gaps == (() if unled is None else (GapReport("finished", 1, unled),))
    assert found.scheduled == (late is not None)


def test_epochs_that_stand_in_no_line_are_counted_back_to_the_last_promotion() -> None:
    assert [term("beat", epoch, gap).unwritten for epoch, gap in ((7, None), (7, 0.5))] == [0, 0]
    gone = replace(term("beat", 7, 0.5), former=Former(4, "a", "lapsed"))
    assert gone.unwritten == 2
    assert replace(term("beat", 7, None), unpruned=True).unwritten == 6
    promoted = replace(gone, epoch=3 << 32 | 1)
    assert [promoted.unwritten, replace(promoted, epoch=3 << 32 | 2).unwritten] == [0, 1]
