"""Claims about the formats in which highlanderctl prints an answer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import pytest

from highlanderd.ctl.arguments import parser
from highlanderd.ctl.printing import give

VALUES = {"SIG": "HUP", "DURATION": "10s"}
"""What an argument may be, by what it is called; anything else may be a name."""


def lines(above: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, ...]]:
    """Return the shortest line of each command."""
    below = [action for action in above._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for word, inner in action.choices.items():
            yield from lines(inner, *words, word)
    if not below:
        needed = [action for action in above._actions if action.required]
        yield words + tuple(part for one in needed for part in (*one.option_strings[:1], _value(one)))


def _value(needed: argparse.Action) -> str:
    return next(iter(needed.choices)) if needed.choices else VALUES.get(str(needed.metavar), "x")


@pytest.mark.parametrize("line", list(lines(parser())), ids=" ".join)
def test_every_command_takes_each_format_before_it_and_after_it(line: tuple[str, ...]) -> None:
    assert parser().parse_args(list(line)).output == "table"
    assert parser().parse_args([*line, "-o", "tsv"]).output == "tsv"
    assert parser().parse_args(["-o", "tsv", *line]).output == "tsv"
    assert parser().parse_args([*line, "--json"]).output == "json"
    assert parser().parse_args(["--json", *line]).output == "json"
    with pytest.raises(SystemExit):
        parser().parse_args([*line, "-o", "xml"])


def given(output: str, capsys: pytest.CaptureFixture[str], *, watch: bool = False) -> str:
    arguments = argparse.Namespace(output=output, watch=watch)
    give(arguments, {"a": [1]}, lambda: ["A   B", "a1  b1"], lambda: [("A", "B"), ("a1", "b1")])
    return capsys.readouterr().out


def test_a_table_is_aligned_and_tsv_is_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert given("table", capsys) == "A   B\na1  b1\n"
    assert given("tsv", capsys) == "A\tB\na1\tb1\n"


def test_json_is_the_answer_and_one_line_of_a_watch(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(given("json", capsys)) == {"a": [1]}
    assert given("json", capsys, watch=True) == '{"a": [1]}\n'
