"""Claims about how terms look on a terminal, and how the questions about them are asked."""

from __future__ import annotations

from typing import Any

import pytest

from highlanderd.ctl import history, tables
from highlanderd.ctl.arguments import parser

NOON = 1767355200.0
"""2 January 2026, 12:00 UTC, in seconds of the epoch."""


def term(**facts: Any) -> dict[str, Any]:
    quiet: dict[str, Any] = {
        "program": "beat",
        "node": "web-1",
        "from": "2026-01-02T03:04:05.678Z",
        "to": "2026-01-02T05:05:05.678Z",
        "gap": 0.0123,
        "cause": "released",
    }
    return {**quiet, **facts}


def test_a_term_is_a_row_of_who_when_how_long_and_why() -> None:
    assert history.cells(term(), NOON) == ("beat", "web-1", "2026-01-02 03:04:05", "2h 1m", "12ms", "released")


def test_a_term_without_an_end_is_under_way_and_lasts_until_now() -> None:
    assert history.cells(term(to=None, cause=None, gap=None), NOON)[3:] == ("8h 55m", "-", "under way")


def test_the_table_fits_eighty_columns_and_cuts_nothing_but_names() -> None:
    longest = term(program="p" * 60, node="n" * 40, to="2026-09-02T02:05:05Z", gap=86399.0, cause="spawn-failed")
    rows = [history.TERMS, history.cells(longest, NOON), history.cells(term(), NOON)]
    lines = tables.folded(rows, 80, history.NAME_COLUMNS)
    assert max(map(len, lines)) <= 80
    assert "…" in lines[1]
    assert lines[1].endswith("2026-01-02 03:04:05  242d 23h  23h 59m  spawn-failed")
    assert lines[2].split() == ["beat", "web-1", "2026-01-02", "03:04:05", "2h", "1m", "12ms", "released"]


def test_who_ordered_it_and_why_is_told_in_eighty_columns() -> None:
    author, why = "uid 0 (root) on node b, role highlander", "a kernel update, which has waited for three weeks"
    ordered = term(cause="released", exit_status=0, author=author, reason=why)
    lines = tables.folded([history.TERMS, history.cells(ordered, NOON), history.cells(term(), NOON)], 80, (0, 1))
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("CAUSE")
    assert f"released (0) by {author}: {why}" in " ".join(" ".join(lines[1:-1]).split())
    short = history.cells(term(cause="restarted", author="ann", reason="it leaks"), NOON)
    beside = tables.folded([history.TERMS, short], 80, (0, 1))
    assert [line[beside[0].index("CAUSE") :] for line in beside] == ["CAUSE", "restarted by ann: it leaks"]


def test_a_row_tells_how_the_child_ended_and_who_ordered_it() -> None:
    assert history.cells(term(cause="exited", exit_status=1), NOON)[-1] == "exited (1)"
    assert history.cells(term(cause="fenced", exit_signal="SIGKILL"), NOON)[-1] == "fenced (SIGKILL)"
    ordered = term(cause="stopped", exit_signal="SIGTERM", author="uid 0 on node b", reason="disk\nfull")
    assert history.cells(ordered, NOON)[-1] == "stopped (SIGTERM) by uid 0 on node b: disk\ufffdfull"


def test_without_a_terminal_nothing_is_cut() -> None:
    lines = tables.folded([history.TERMS, history.cells(term(program="p" * 60), NOON)], None, history.NAME_COLUMNS)
    assert "p" * 60 in lines[1]


def test_what_the_ledger_holds_cannot_steer_the_terminal() -> None:
    hostile = history.cells(term(program="\x1b[2J", node="\x07", cause="\r\n"), NOON)
    assert all(cell.isprintable() for cell in hostile)


def test_an_overlap_is_told_with_both_terms() -> None:
    found = {
        "program": "beat",
        "epoch": 8,
        "node": "b",
        "from": "2026-01-02T03:04:05.678Z",
        "former_epoch": 7,
        "former_node": "a",
        "overlap": 2.25,
    }
    assert history.overlap(found) == (
        "terms of beat overlap by the ledger's own times: epoch 8 on b began at 2026-01-02 03:04:05 UTC, 2.2s before "
        "epoch 7 on a ended. Either two nodes led at once, or the server's clock was set back"
    )
    assert "while epoch 7 on a had not ended" in history.overlap({**found, "overlap": None})


def test_epochs_without_a_line_are_told_with_the_term_after_them() -> None:
    found = {"program": "beat", "epoch": 8, "node": "b", "epochs": 1}
    assert history.unwritten(found) == (
        "beat: the history lacks 1 term just before epoch 8 on b, so it cannot show that nothing overlapped there: a "
        "node was lost right after its takeover, a failover of PostgreSQL lost the lines, or somebody has removed them"
    )
    assert "lacks 3 terms just before" in history.unwritten({**found, "epochs": 3})


def test_a_gap_of_unknown_length_may_have_been_too_long() -> None:
    gaps = [
        {"cause": "lapsed", "count": 3, "longest": 2.0, "unknown": 1},
        {"cause": "released", "count": 2, "longest": 0.1, "unknown": 0},
        {"cause": "fenced", "count": 2, "longest": 40.0},
    ]
    assert list(history.too_long([{"program": "beat", "gaps": gaps}], 30.0)) == [
        "beat: how long 1 gap was after a term that ended as lapsed is not known: no line tells its end",
        "beat: no node led it for 40.0s after a term that ended as fenced: more than 30 s",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("history", {"command": "history", "names": [], "number": None, "summary": False, "output": "table"}),
        ("history beat web-* -n 7 --summary --json", {"names": ["beat", "web-*"], "number": 7, "summary": True}),
        ("is-leading beat", {"command": "is-leading", "name": "beat", "quiet": False}),
        ("is-leading -q beat", {"name": "beat", "quiet": True}),
        ("wait beat --for leading", {"command": "wait", "names": ["beat"], "state": "leading", "timeout": 60.0}),
        ("wait beat --for ready", {"state": "ready"}),
        ("wait beat --for finished --timeout 5m", {"state": "finished", "timeout": 300.0}),
    ],
)
def test_the_command_line_is_read(line: str, expected: dict[str, object]) -> None:
    read = vars(parser().parse_args(line.split()))
    assert {name: read[name] for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    [
        "history -n many",
        "history --since yesterday",
        "is-leading",
        "is-leading a b",
        "wait beat",
        "wait --for leading",
        "wait beat --for soon",
        "wait beat --for leading --timeout soon",
    ],
)
def test_usage_errors_exit_with_two(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(line.split())
    assert left.value.code == 2
    assert "usage: highlanderctl" in capsys.readouterr().err


def test_a_scheduled_run_and_times_that_were_skipped_stand_in_one_table() -> None:
    run = term(cause="finished", exit_status=0, scheduled="2026-01-02T03:00:00.000Z")
    assert history.cells(run, NOON)[-1] == "finished (0), scheduled 2026-01-02 03:00:00"
    under_way = term(to=None, cause=None, scheduled="2026-01-02T03:00:00.000Z")
    assert history.cells(under_way, NOON)[-1] == "under way, scheduled 2026-01-02 03:00:00"
    times = {"from": "2026-01-02T04:00:00.000Z", "to": "2026-01-02T06:00:00.000Z", "times": 3}
    skipped = history.skipped_cells({"program": "beat", "cause": "missed", "node": "web-2", **times})
    assert skipped == (
        "beat",
        "-",
        "2026-01-02 04:00:00",
        "-",
        "-",
        "skipped: missed, 3 times until 2026-01-02 06:00:00",
    )
    unknown = {"program": "beat", "cause": "unreadable", "node": "web-2", **times, "times": 0}
    assert history.skipped_cells(unknown)[-1] == "skipped: unreadable, until 2026-01-02 06:00:00"
    once = {"program": "beat", "cause": "missed", "node": "web-2", **times, "times": 1}
    assert history.skipped_cells(once)[-1] == "skipped: missed"
