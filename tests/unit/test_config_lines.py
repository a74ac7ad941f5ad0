"""Every key of a TOML text has its line, however it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import tomli

from highlanderd.config.lines import Path, locate, nearest

TEXT = '''\
# line 1
top = 1
[a.b]                       # a comment with [brackets] and "quotes"
plain = "x"
"quoted.key" = "y"
'literal key' = "z"
dotted.inside . deep = 1
[a."x.y"]
basic = """
[not.a.table]
key = "no key"
\\""" still inside"""
literal = \'\'\'
z = 1\'\'\'
after = 2
array = [
  1, 2,   # two on one line
  # nothing here
  [ 3,
    { inline = 1, more = [
      "deep" ] } ],
]
inline = { one = 1, two.three = { four = 4 } }
[[fruit]]
name = "apple"
[fruit.color]
red = true
[[fruit]]
name = "pear"
'''


def everything(value: object, path: Path = ()) -> Iterator[Path]:
    """Return every path of a parsed document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from everything(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from everything(inner, (*path, index))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("a",), 3),
        (("a", "b"), 3),
        (("a", "b", "plain"), 4),
        (("a", "b", "quoted.key"), 5),
        (("a", "b", "literal key"), 6),
        (("a", "b", "dotted"), 7),
        (("a", "b", "dotted", "inside", "deep"), 7),
        (("a", "x.y"), 8),
        (("a", "x.y", "basic"), 9),
        (("a", "x.y", "literal"), 13),
        (("a", "x.y", "after"), 15),
        (("a", "x.y", "array"), 16),
        (("a", "x.y", "array", 1), 17),
        (("a", "x.y", "array", 2), 19),
        (("a", "x.y", "array", 2, 1, "more", 0), 21),
        (("a", "x.y", "inline", "two", "three", "four"), 23),
        (("fruit", 0, "name"), 25),
        (("fruit", 0, "color", "red"), 27),
        (("fruit", 1), 28),
        (("fruit", 1, "name"), 29),
    ],
)
def test_each_way_to_write_a_key_has_its_line(path: Path, line: int) -> None:
    assert locate(TEXT)[path] == line


def test_every_key_that_tomli_reads_is_located() -> None:
    assert set(everything(tomli.loads(TEXT))) <= set(locate(TEXT))


def test_a_table_stands_at_its_own_header_even_after_one_inside_it() -> None:
    assert locate("[program.beat.environment]\nA = 1\n\n[program.beat]\ncommand = 2")[("program", "beat")] == 4


def test_windows_line_ends_count_once() -> None:
    assert locate("[a]\r\nb = 1\r\nc = 2\r\n")[("a", "c")] == 3


def test_a_missing_key_is_at_its_table_and_a_missing_table_at_the_top() -> None:
    lines: Mapping[Path, int] = locate("\n[program.beat]\nuser = 1")
    assert nearest(lines, ("program", "beat", "command")) == 2
    assert nearest(lines, ("postgres", "dsn")) == 1


@pytest.mark.parametrize(
    "text", ["", "[", "[a", "a = [1, [", "a = {b", '= """', "a = 'x", "]]", "[[]]\n[[]]", '"\\q" = 1']
)
def test_what_is_no_toml_ends_the_search_in_peace(text: str) -> None:
    assert isinstance(locate(text), dict)
