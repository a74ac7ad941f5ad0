"""Claims about the formats in which highlanderctl prints an answer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import pytest

from highlanderd.ctl.arguments import parser
from highlanderd.ctl.printing import give


def commands(above: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, ...]]:
    """Return each command line's first words."""
    below = [action for action in above._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for word, inner in action.choices.items():
            yield from commands(inner, *words, word)
    if not below:
        yield words


REQUIRED = {
    "show": ["beat"],
    "pid": ["beat"],
    "is-leading": ["beat"],
    "wait": ["beat", "--for", "leading"],
    "release": ["beat"],
    "start": ["beat"],
    "stop": ["beat"],
    "restart": ["beat"],
    "signal": ["HUP", "beat"],
    "ledger set-lease": ["10s"],
    "maintenance on": ["--for", "10s"],
}


@pytest.mark.parametrize("words", list(commands(parser())), ids=" ".join)
def test_every_command_takes_each_format_before_it_and_after_it(words: tuple[str, ...]) -> None:
    line = [*words, *REQUIRED.get(" ".join(words), [])]
    assert parser().parse_args(line).output == "table"
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
