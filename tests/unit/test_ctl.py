"""Claims about highlanderctl's pure parts: durations, spans, choices, tables."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import pytest

from highlanderd.api import MOST_LINES
from highlanderd.core.states import STATE_NAMES
from highlanderd.ctl import status, tables
from highlanderd.ctl.argument_values import STATES, duration
from highlanderd.ctl.arguments import parser
from highlanderd.ctl.choice import chosen, exact
from highlanderd.ctl.words import WORDS
from highlanderd.durations import span
from highlanderd.errors import NoSuchProgram
from highlanderd.guardian.log_tail import KEPT_LINES


def row(name: str, **facts: Any) -> dict[str, Any]:
    quiet: dict[str, Any] = {
        "name": name,
        "state": "waiting",
        "reason": "",
        "leader": None,
        "epoch": None,
        "pid": None,
        "uptime": None,
        "restarts": 0,
        "connected": True,
    }
    return {**quiet, **facts}


PROGRAMS = [row("beat"), row("web-1", state="leading"), row("web-2")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400), ("2d", 172800), ("7", 7), ("0", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10 s", "-5", "s", "10x", "1h-3m", "5s!", "1e3", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a duration"):
        duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (-5, "0s"), (59.9, "59s"), (60, "1m"), (3725, "1h 2m"), (86400, "1d"), (90061, "1d 1h")],
)
def test_spans_are_short(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], ["beat", "web-1", "web-2"]),
        (["all"], ["beat", "web-1", "web-2"]),
        (["web-*", "web-1"], ["web-1", "web-2"]),
        (["web-2", "beat"], ["beat", "web-2"]),
        (["web-[2]"], ["web-2"]),
    ],
)
def test_names_globs_and_all_choose_programs_once_each(names: list[str], found: list[str]) -> None:
    assert [program["name"] for program in chosen(names, PROGRAMS)] == found


@pytest.mark.parametrize("glob", ["b*", "all"])
def test_where_one_program_is_to_be_named_a_glob_is_told_with_what_it_means(glob: str) -> None:
    assert str(NoSuchProgram.among(glob, ["bot", "beat"])) == f"{glob!r} means beat, bot here; name one program"


def test_a_name_that_chooses_nothing_is_told_with_what_there_is() -> None:
    with pytest.raises(NoSuchProgram, match=r"'baet'.*beat, web-1, web-2"):
        chosen(["beat", "baet"], PROGRAMS)
    with pytest.raises(NoSuchProgram, match="none"):
        chosen(["x*"], [])
    assert chosen(["all"], []) == []


def test_what_there_is_comes_in_one_order_and_of_many_only_the_first() -> None:
    there = sorted(f"web-{number}" for number in range(30))
    with pytest.raises(NoSuchProgram) as refused:
        chosen(["nosuch"], [row(name) for name in reversed(there)])
    assert str(refused.value).endswith(f"; it has {', '.join(there[:20])} and 10 more")


def test_a_program_whose_name_looks_like_a_glob_is_found_by_it() -> None:
    assert [program["name"] for program in chosen(["a[b]"], [row("a[b]"), row("ab")])] == ["a[b]"]


def test_only_plain_names_insist_on_their_program() -> None:
    assert exact(["beat", "all", "web-*", "w?b", "[x]"]) == {"beat"}


def test_columns_are_aligned_and_nothing_trails() -> None:
    lines = tables.table(
        [
            tables.cells(row("beat", state="leading", leader="web-1", epoch=4294967299, pid=71, uptime=61.0), 65.0),
            tables.cells(row("a-long-name", state="backoff", reason="exited with code 1", restarts=12), 3.0),
        ],
        width=None,
        colour=False,
    )
    assert lines == [
        "PROGRAM      STATE    SINCE  LEADER  EPOCH       PID  UPTIME  RESTARTS  REASON",
        "beat         leading  1m 5s  web-1   4294967299  71   1m 1s   0",
        "a-long-name  backoff  3s     -       -           -    -       12        exited with code 1",
    ]


def test_no_line_is_wider_than_the_terminal_coloured_or_not() -> None:
    rows = [tables.cells(row("beat", state="backoff", reason="x" * 300), 5.0)]
    for width in (20, 40, 80):
        plain = tables.table(rows, width=width, colour=False)
        assert max(len(line) for line in plain) == width
        coloured = tables.table(rows, width=width, colour=True)
        assert [line.replace("\x1b[31m", "").replace("\x1b[0m", "") for line in coloured] == plain


def test_a_reason_wraps_and_a_long_name_hides_no_column() -> None:
    reason = "led by another daemon that is called web-1, too: give each its own name"
    rows = [tables.cells(row("n" * 60, leader="web-1", reason=reason), 5.0), tables.cells(row("beat"), 5.0)]
    lines = tables.table(rows, width=80, colour=False)
    assert lines[0].split() == ["PROGRAM", "STATE", "SINCE", "LEADER", "PID", "REASON"]
    assert lines[1].split() == ["n" * 24 + "…", "waiting", "5s", "web-1", "-"]
    assert " ".join("".join(f"{line} " for line in lines[2:-1]).split()) == reason, "below, for it takes many lines"
    short = tables.table([tables.cells(row("beat", reason="led by web-1 until noon"), 5.0)], width=80, colour=False)
    assert short[1].endswith("  led by web-1 until noon"), "in its column"
    narrow = tables.table(rows, width=50, colour=False)
    assert " ".join("".join(f"{line} " for line in narrow[2:4]).split()) == reason


def test_the_states_to_choose_from_are_those_that_there_are() -> None:
    assert set(STATES) == set(STATE_NAMES.values())


def test_as_many_lines_may_be_asked_for_as_a_logger_keeps() -> None:
    assert MOST_LINES == KEPT_LINES


def test_what_needs_an_operator_comes_first() -> None:
    programs = [row("a", state="leading"), row("b", leader="a"), row("c"), row("d", state="backoff")]
    assert [program["name"] for program in tables.sickest_first(programs)] == ["d", "c", "a", "b"]


def test_colour_is_on_the_state_alone() -> None:
    lines = tables.table([tables.cells(row("leading", state="leading"), 5.0)], width=None, colour=True)
    assert lines[1].startswith("leading  \x1b[32mleading\x1b[0m  5s")
    assert "\x1b" not in lines[0]


def test_what_others_say_cannot_steer_the_terminal() -> None:
    cells = tables.cells(row("beat", reason="\x1b]0;owned\x07\r\nfake line"), 5.0)
    assert all(cell.isprintable() for cell in cells)


def test_a_lost_connection_is_the_reason_when_there_is_no_other() -> None:
    assert tables.cells(row("beat", connected=False), 5.0)[-1] == "not connected to PostgreSQL"
    assert tables.cells(row("beat", connected=False, reason="stopped by operator"), 5.0)[-1] == "stopped by operator"


def test_the_process_tree_shows_every_process_once_below_its_parent() -> None:
    processes = [
        {"pid": 30, "parent": 20, "name": "c"},
        {"pid": 10, "parent": 1, "name": "a"},
        {"pid": 20, "parent": 10, "name": "b"},
        {"pid": 40, "parent": 1, "name": "orphan"},
    ]
    assert tables.tree(processes) == ["  10  a", "    20  b", "      30  c", "  40  orphan"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reread", {"command": "reload", "dry_run": True}),
        ("update", {"command": "reload", "dry_run": False}),
        ("reload --dry-run", {"command": "reload", "dry_run": True}),
        ("stop a b --no-wait", {"command": "stop", "names": ["a", "b"], "wait": False}),
        ("start all --timeout 1m", {"command": "start", "names": ["all"], "wait": True, "timeout": 60.0}),
        ("release beat --to web-2 --for 5m", {"names": ["beat"], "to": "web-2", "stay_out": 300.0}),
        ("ledger set-lease 20s", {"command": "ledger", "action": "set-lease", "lease": 20.0}),
        ("ledger set-lease 2500ms --force --no-wait", {"lease": 2.5, "force": True, "wait": False, "output": "table"}),
        ("ledger migrate --json", {"action": "migrate", "output": "json"}),
        (
            "maintenance on --for 24h",
            {"command": "maintenance", "action": "on", "outage": 86400.0, "reason": "", "force": False, "wait": True},
        ),
        ("maintenance off --timeout 5s --json", {"action": "off", "timeout": 5.0, "output": "json"}),
        ("release 'web-*' all --for 5s", {"names": ["'web-*'", "all"], "stay_out": 5.0}),
        ("maintenance --socket /a off", {"socket": "/a"}),
        ("maintenance off --socket /a", {"socket": "/a"}),
        ("--socket /a status", {"socket": "/a"}),
        ("status --socket /a", {"socket": "/a"}),
        ("ledger show --socket /a", {"socket": "/a"}),
    ],
)
def test_the_command_line_is_read(line: str, expected: dict[str, object]) -> None:
    read = vars(parser().parse_args(line.split()))
    assert {name: read[name] for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "explode",
        "stop",
        "release",
        "ledger",
        "status --jso",
        "stop a --timeout x",
        "ledger set-lease",
        "ledger set-lease soon",
        "ledger set-lease 10s --for 1m",
        "ledger migrate --force",
        "maintenance",
        "maintenance on",
        "maintenance on --for soon",
        "maintenance on 1m",
        "maintenance off --for 1m",
        "maintenance off --force",
    ],
)
def test_usage_errors_exit_with_two(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(line.split())
    assert left.value.code == 2
    assert "usage: highlanderctl" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["maintenance on --for -60s", "ledger set-lease -5s", "stop a --timeout -1"])
def test_a_negative_duration_is_refused_with_one_that_is_not(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(line.split())
    assert left.value.code == 2
    said = f"'{line.split()[-1]}' is not a duration: write a positive one, such as 60s\n"
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize("text", ["0", "0s", "24h1ms", "2d", "100000"])
def test_an_outage_that_no_maintenance_is_for_is_refused_with_the_limits(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(["maintenance", "on", "--for", text])
    assert left.value.code == 2
    said = f"error: argument --for: '{text}' is no outage to bear: name more than 0s, and 24h at most\n"
    assert capsys.readouterr().err.endswith(said)


def report(**facts: Any) -> dict[str, Any]:
    quiet: dict[str, Any] = {"lease": 3.5, "in_force": 3.5, "maintenance": None, "replaced_within": 4.55, "pending": []}
    return {**quiet, **facts}


def under_way(**facts: Any) -> dict[str, Any]:
    return {"outage": 60.0, "lease": 88.0, "until": "2026-01-02T03:05:05Z", "author": "ann", "reason": "", **facts}


NOON = 1767355200.0
"""2 January 2026, 12:00 UTC, in seconds of the epoch."""


def test_lengths_are_told_as_they_are_and_not_as_ages() -> None:
    assert tables.lengths(report(), "the lease is 3.5s now", NOON) == [
        "the lease is 3.5s now",
        "a node that is lost is replaced within 4.55s",
    ]


def test_who_does_not_use_the_new_lease_yet_is_told() -> None:
    lines = tables.lengths(report(pending=["beat on a", "re\x1b[31mlay on b"]), "", NOON)
    assert lines[-1] == "not in force yet: beat on a, re\ufffd[31mlay on b"


def test_an_outage_is_not_called_harmless_before_all_leaders_use_the_longer_lease() -> None:
    [first, *_, last] = tables.lengths(report(maintenance=under_way(), pending=["beat on a"]), "", NOON)
    assert first == "until 03:05:05 UTC PostgreSQL may go away for up to 1m, once each leader uses its lease"
    assert last == "not in force yet: beat on a"
    first = tables.lengths(report(maintenance=under_way()), "", NOON)[0]
    assert first == "until 03:05:05 UTC PostgreSQL may go away for up to 1m: that stops no child"


def test_the_footer_shows_only_what_was_said_and_nothing_that_steers_the_terminal() -> None:
    postgres = {"connected": True, "lease": 10.0, "replaced_within": 97.0}
    lines = tables.maintenance(under_way(), postgres, NOON)
    assert lines[0] == "maintenance until 03:05:05 UTC by ann"
    assert max(len(line) for line in lines) <= 80
    hostile = under_way(reason="\x1b[2Jwiped", author="\x07", until="\x1b]0;owned")
    assert all(line.isprintable() for line in tables.maintenance(hostile, postgres, NOON))


@pytest.mark.parametrize(
    ("connected", "begins"), [(False, "maintenance by ann has ended at "), (True, "maintenance until ")]
)
def test_a_maintenance_whose_time_is_over_is_not_shown_as_one_that_goes_on(connected: bool, begins: str) -> None:
    postgres = {"connected": connected, "lease": 10.0, "replaced_within": 97.0}
    [first, _] = tables.maintenance(under_way(), postgres, NOON)
    assert first.startswith(begins)
    assert tables.maintenance(under_way(until="2026-01-02T13:00:00Z"), postgres, NOON)[0].startswith(
        "maintenance until"
    )


EIGHTY = [
    row("celery-beat", state="backoff", reason="exited with status 1; starts again in 12 s", restarts=3),
    row("relay", state="leading", leader="web-1", epoch=4294967299, pid=71234, uptime=98765.0),
]


def test_in_eighty_columns_a_reason_has_room_and_the_least_columns_give_way() -> None:
    lines = tables.table([tables.cells(one, 98765.0) for one in EIGHTY], width=80, colour=False)
    assert lines[0].split() == ["PROGRAM", "STATE", "SINCE", "LEADER", "PID", "REASON"]
    assert max(map(len, lines)) <= 80
    wide = tables.table([tables.cells(one, 98765.0) for one in EIGHTY], width=140, colour=False)
    assert wide[0].split() == list(tables.HEADINGS)
    assert wide[1].endswith("exited with status 1; starts again in 12 s")
    quiet = tables.table([tables.cells(EIGHTY[1], 98765.0)], width=80, colour=False)
    assert "EPOCH" in quiet[0], "without a reason there is room"


def answered(*programs: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {"postgres": {"connected": True}, "warnings": [], "programs": list(programs), **facts}


def test_whatever_is_out_of_the_ordinary_has_a_line() -> None:
    held = {"by": "uid 0 on node a", "reason": "it corrupts data", "since": "2026-01-02T03:04:05Z"}
    drained = {**held, "reason": "new\x1bdisk"}
    alone = row("relay", state="leading", candidates=0)
    programs = [row("a", stopped=held), row("b", stopped=held), alone, row("beat", state="leading", candidates=1)]
    assert list(status.footer(answered(*programs, drained=drained), NOON)) == [
        "this node is drained by uid 0 on node a: new\ufffddisk",
        "stopped everywhere by uid 0 on node a: it corrupts data: a, b",
        "no standby: no other node could take over relay now",
    ]
    assert list(status.footer(answered(row("beat")), NOON)) == []
    away = answered(postgres={"connected": False, "trouble": "connection refused"}, warnings=["look"])
    assert list(status.footer(away, NOON)) == [
        "warning: PostgreSQL cannot be used: connection refused",
        "warning: look",
    ]
    full = {"connected": False, "trouble": "sorry, too many clients already"}
    few = answered(row("a"), row("b", connected=False), row("c", connected=False), postgres=full)
    assert list(status.footer(few, NOON)) == [
        "warning: no connection to PostgreSQL for b, c: sorry, too many clients already"
    ]


@pytest.mark.parametrize(
    "words", [("status", "--dsn", "secret"), ("logs", "--config=secret"), ("show", "a", "--dsn=s")]
)
def test_what_only_a_daemon_answers_names_what_postgresql_does_and_shows_no_secret(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(words)
    said = capsys.readouterr().err
    assert (left.value.code, "secret" in said) == (2, False)
    assert " is for cluster, explain, events, history and wait" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("history", "-n", "0"), "argument -n: '0' is no number of terms: name 1 to 1000"),
        (("history", "-n", "1001"), "argument -n: '1001' is no number of terms: name 1 to 1000"),
        (("events", "-n", "101"), "argument -n: '101' is no number of events: name 1 to 100"),
        (("events", "-f", "-n", "3"), "argument -n: not allowed with argument -f/--follow"),
        (("cluster", "--dsn", "x", "--config", "y"), "argument --config: not allowed with argument --dsn"),
        ((), "name a command; 'highlanderctl --help' lists them"),
        (("--jsno", "status"), "highlanderctl: error: there is no option --jsno; did you mean --json?"),
        (("status", "--sate=leading"), "highlanderctl status: error: there is no option --sate; did you mean --state?"),
        (("history", "--sumary"), "highlanderctl history: error: there is no option --sumary; did you mean --summary?"),
        (("shutdown", "--on", "b"), "no option --on; 'highlanderctl shutdown --help' lists those that there are"),
        (("cluster", "-psecret"), "no option -p; 'highlanderctl cluster --help' lists those that there are"),
        (("config", "beat", "relay"), "highlanderctl config: error: 'relay' is one word too many"),
        (("tail", "-5", "relay"), "argument NAME: '-5' is no name: the number of lines is written '-n 5'"),
        (("signal", "beat", "HUP"), "argument SIG: 'beat' is not the name or number of a signal, which stands before"),
        (("ledger", "show", "all"), "highlanderctl ledger show: error: 'all' is one word too many"),
    ],
)
def test_what_no_daemon_could_answer_is_refused_before_one_is_asked(
    words: Sequence[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(words)
    assert left.value.code == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_another_tool_is_answered_with_ours(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args([word, "beat"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert f"there is no command {word!r}: {WORDS[word]}" in said
    for command in re.findall(r"'([a-z]+)", WORDS[word]):
        if command != "journalctl":
            assert command in commands(), f"{word} is answered with a command that there is not"


def commands() -> set[str]:
    [action] = [one for one in parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return set(action.choices)


@pytest.mark.parametrize(("typed", "near"), [("restrat", "restart"), ("is-leadin", "is-leading"), ("statsu", "status")])
def test_a_mistyped_command_is_answered_with_the_nearest_one(
    typed: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser([typed, "beat"]).parse_args([typed, "beat"])
    assert left.value.code == 2
    said = f"highlanderctl: error: there is no command {typed!r}; did you mean {near!r}?\n"
    assert capsys.readouterr().err.endswith(said)


def test_no_command_is_also_answered_as_a_word_of_others() -> None:
    assert not commands() & WORDS.keys()


def test_what_was_typed_changes_no_word_of_help() -> None:
    whole = parser()
    [action] = [one for one in whole._actions if isinstance(one, argparse._SubParsersAction)]
    for name, command in action.choices.items():
        narrow = parser(["--socket", "x", name])
        assert narrow.format_help() == whole.format_help()
        [chosen] = [one for one in narrow._actions if isinstance(one, argparse._SubParsersAction)]
        assert chosen.choices[name].format_help() == command.format_help()


@pytest.mark.parametrize(("command", "actions"), [("ledger", "{show,set-lease,migrate}"), ("maintenance", "{on,off}")])
def test_a_command_without_its_action_names_those_there_are(
    command: str, actions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command])
    assert capsys.readouterr().err.endswith(f"required: {actions}\n")
