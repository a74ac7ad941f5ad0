"""Whatever stands in a file: each key has its right line, and loading it gives a configuration or sentences."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from highlanderd.config import SECTIONS, ProgramKeys, difference, load, reload_from
from highlanderd.config.expansion import expand
from highlanderd.config.lines import Path, locate
from highlanderd.config.suggestions import keys_of
from highlanderd.config.values import duration
from highlanderd.durations import shown
from tests.support.configuration import MAIN, problems, reading

Value = str | int | list["Value"] | dict[str, "Value"]

NAMES = st.sampled_from(["a", "b", "c-d", "e.f", 'g"h', "i'j", "k l", "#m", "[n]", "ä", ""])
STRINGS = st.text(st.sampled_from(list("ab \n\"'#[]{}=,\\$é")), max_size=12)
VALUES: st.SearchStrategy[Value] = st.recursive(
    st.integers(-9, 9) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@dataclass
class Writer:
    """Writes TOML in every style there is, and knows on which line each key went."""

    draw: st.DrawFn
    text: str = ""
    lines: dict[Path, int] = field(default_factory=dict)

    def emit(self, *choices: str) -> None:
        self.text += self.draw(st.sampled_from(choices)) if len(choices) > 1 else choices[0]

    def note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def name(self, name: str) -> None:
        styles = [json.dumps(name)]
        styles += [name] if re.fullmatch(r"[A-Za-z0-9_-]+", name) else []
        styles += [f"'{name}'"] if "'" not in name else []
        self.emit(*styles)

    def document(self, tables: dict[str, dict[str, Value]]) -> None:
        for name, table in tables.items():
            self.emit("", "\n", "# [a]\n", "  ")
            self.note((name,))
            self.emit("[")
            self.name(name)
            self.emit("]\n", " ] # b = 1\n", "]\r\n")
            for key, value in table.items():
                self.emit("", "\n", "# '''\n", "\t")
                self.pair((name, key), value)
                self.emit("\n", ' # """\n', "\r\n")

    def pair(self, path: Path, value: Value) -> None:
        self.note(path)
        self.name(str(path[-1]))
        if isinstance(value, dict) and len(value) == 1 and self.draw(st.booleans()):
            self.emit(".", " . ")
            ((key, inner),) = value.items()
            self.pair((*path, key), inner)
            return
        self.emit("=", " = ")
        self.value(path, value)

    def value(self, path: Path, value: Value) -> None:
        if isinstance(value, str):
            self.string(value)
        elif isinstance(value, int):
            self.emit(str(value))
        elif isinstance(value, dict):
            self.inline(path, value)
        else:
            self.array(path, value)

    def string(self, value: str) -> None:
        styles = [json.dumps(value), '"""\n' + json.dumps(value)[1:-1].replace("\\n", "\n") + '"""']
        if "'" not in value:
            styles += [f"'''\n{value}'''"] + ([f"'{value}'"] if "\n" not in value else [])
        self.emit(*styles)

    def inline(self, path: Path, value: dict[str, Value]) -> None:
        self.emit("{", "{ ")
        for number, (key, inner) in enumerate(value.items()):
            self.emit(", " if number else "")
            self.pair((*path, key), inner)
        self.emit("}", " }")

    def array(self, path: Path, value: list[Value]) -> None:
        self.emit("[", "[\n", "[ # ]\n")
        for number, inner in enumerate(value):
            self.note((*path, number))
            self.value((*path, number), inner)
            self.emit(",", ",\n", " , # ]\n")
        self.emit("]", " ]")


@st.composite
def documents(draw: st.DrawFn) -> Writer:
    writer = Writer(draw)
    writer.document(draw(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4), max_size=3)))
    return writer


@given(documents())
def test_every_key_is_found_on_the_line_where_it_was_written(document: Writer) -> None:
    tomli.loads(document.text)  # the writer writes TOML
    found = locate(document.text)
    assert {path: found.get(path) for path in document.lines} == document.lines


@given(st.text(st.sampled_from(list("ab=[]{}\"'\n\\,.# \r")), max_size=40))
def test_any_text_can_be_searched(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in locate(text).values())


@given(st.text())
def test_a_text_with_doubled_dollars_expands_to_itself(text: str) -> None:
    assert expand(text.replace("$", "$$"), {}) == text


@given(st.integers(0, 366 * 86_400_000))
def test_a_duration_is_shown_as_it_can_be_written(milliseconds: int) -> None:
    assert duration(shown(milliseconds / 1000)) == milliseconds / 1000


WORDS = [
    "",
    "x",
    "10s",
    "1GiB",
    "022",
    "TERM",
    "always",
    "embedded",
    "${A}",
    "${",
    "~/x",
    "/x",
    "a b",
    "\u0000",
    "é",
    "'",
]
ANYTHING = st.recursive(
    st.sampled_from(WORDS) | st.integers(-1, 300) | st.booleans() | st.floats(-1, 70),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["A", "B=", "beat", ""]), inner, max_size=2)
    ),
    max_leaves=4,
)


def table(keys: tuple[str, ...]) -> st.SearchStrategy[dict[str, object]]:
    """Return tables with some of these keys, and anything in them."""
    return st.dictionaries(st.sampled_from((*keys, "unknown", "stopsignal")), ANYTHING, max_size=4)


PROGRAMS = st.dictionaries(st.sampled_from(["beat", "all", "a b", "relay"]), table(keys_of(ProgramKeys)), max_size=3)
FILES = st.fixed_dictionaries(
    {},
    optional={
        **{name: table(keys_of(model)) | ANYTHING for name, model in SECTIONS.items()},
        "defaults": table(keys_of(ProgramKeys)) | ANYTHING,
        "program": PROGRAMS | ANYTHING,
        "programs": ANYTHING,
    },
)


def toml(value: object) -> str:
    """Write a value in line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    if isinstance(value, float):
        return f"{value:.3f}"
    return json.dumps(value, ensure_ascii=False).replace("\u0000", "\\u0000")


@given(FILES)
def test_any_file_is_a_configuration_or_sentences_about_its_lines(file: dict[str, object]) -> None:
    text = "".join(f"{name} = {toml(value)}\n" for name, value in file.items())
    for problem in problems(text, {"A": "a"}):
        assert re.fullmatch(r"\d+: [^:]+: .+; .+", problem, re.DOTALL) or "(/etc/" in problem or " already; " in problem
        assert 1 <= int(problem.split(":")[0]) <= max(1, len(file))


GOOD: dict[str, list[object]] = {
    "command": ["celery beat", ["sh", "-c", "echo $${A} ${A}"]],
    "lock_key": ["beat-${A}"],
    "directory": ["srv", "/srv"],
    "umask": ["027", 0],
    "user": ["nobody", 12],
    "environment": [{}, {"A": "${A}"}, {"A": "1", "B": "file:secret"}],
    "environment_file": ["env", ["env", "/env"]],
    "inherit_environment": [True, ["A"]],
    "stop_signal": ["INT", 9],
    "stop_timeout": [0, "1m"],
    "success_exit_codes": [[], [0, 2]],
    "stdout": ["null", "./${A}"],
    "backoff_max": ["1h"],
}
GOOD_TABLES = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in GOOD.items()})


@settings(max_examples=30)  # each loads three times what all keys may be
@given(GOOD_TABLES, GOOD_TABLES)
def test_what_loads_loads_again_as_the_same_and_the_own_key_wins(
    defaults: dict[str, object], own: dict[str, object]
) -> None:
    own = {"command": "x", **own}
    text = f'postgres = {{dsn = "embedded"}}\ndefaults = {toml(defaults)}\nprogram.beat = {toml(own)}\n'
    first = load(MAIN, {"A": "a"}, reading({str(MAIN): text, "/etc/secret": "s"}))
    assert reload_from(first.sources_json(), {"A": "a"}).configuration == first.configuration
    alone = f'postgres = {{dsn = "embedded"}}\nprogram.beat = {toml({**defaults, **own})}\n'
    beat = load(MAIN, {"A": "a"}, reading({str(MAIN): alone, "/etc/secret": "s"})).configuration.programs["beat"]
    assert set(difference(beat, first.configuration.programs["beat"])) <= {"environment"}  # which is merged
