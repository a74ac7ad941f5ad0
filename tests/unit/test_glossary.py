"""The glossary and the code use the same words: what the code names is explained, and what is explained is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import pytest

from highlanderd.core.effects import Effect
from highlanderd.core.events import Event
from highlanderd.core.states import Cause, SessionState, State, Want
from highlanderd.guardian.protocol import MESSAGES

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "highlanderd"
GLOSSARY: Final = ROOT / "docs/explanation/glossary.md"
ROOMS: Final = ("core", "config", "postgres", "guardian", "children", "worker")
"""The packages whose class names are nouns of the domain. The others name what every daemon has."""

_PLAIN: Final = """
ack acknowledged address afterwards alarm answer as aside asking attempt author
batch beat begin birth busy
change check client command compression config configuration connect connection context control credentials cron
daemon dead delay detail diagnose dial discard disconnect disk document done down due duplicate
elsewhere explanation end environment exec exit
facts fail file finish foresight fork found
garbled greeting guard
handle hello hindrance host housekeeping http
identity idle impossible inheritance inherited
judgement
key keys kill kind
last late leave led limits line lines link list listener load local location log logged loop lost
maker measured member memory message meter metrics migration moments
name names
not note notices notifier notify
of option order origin out output owner
past pause peek pending pipe persistence ping pong postgres preparation problems process
read record recorder reload remember remove reopen repeat reply report request resolve restart running
scan secret section seeking sent server service set shut shutdown signal socket sources stage stamps start
stop stream suspected
tcp text times turn
unlock unlogged unreadable untried unwanted unwatched unwell up usage use user
view
waiting write written
yet
"""
PLAIN: Final = frozenset(_PLAIN.split())
"""Plain English, and words of Python, Linux, PostgreSQL and HTTP: their dictionaries explain them. A noun that this
software gave a meaning of its own belongs into the glossary instead."""


def headwords() -> list[str]:
    """Return the first cell of each row."""
    return re.findall(r"^\| (?!word |-)([^|]+?) \|", GLOSSARY.read_text("utf-8"), re.MULTILINE)


def explained() -> frozenset[str]:
    """Return every word that a row explains."""
    return frozenset(word.lower() for head in headwords() for word in re.findall(r"\w{2,}", head))


def words(name: str) -> list[str]:
    """Return the words that a name is made of.

    >>> words("LedElsewhere"), words("spawn-failed"), words("_Hello")
    (['led', 'elsewhere'], ['spawn', 'failed'], ['hello'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def is_known(word: str, glossary: frozenset[str]) -> bool:
    """Return whether the word, or one that it is an inflection of, is plain or explained."""
    return any(word == known or (len(known) > 3 and word.startswith(known.rstrip("ey"))) for known in glossary | PLAIN)


def classes(room: str) -> Iterator[str]:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        yield from (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


NAMES: Final = {
    "states": [state.__name__ for state in get_args(State)],
    "events": [event.__name__ for event in get_args(Event)],
    "effects": [effect.__name__ for effect in get_args(Effect)],
    "causes": [cause.value for cause in Cause],
    "wishes and sessions": [member.value for kind in (Want, SessionState) for member in kind],
    "messages": [row.name for row in MESSAGES],
}
CLASSES: Final = "classes of "


@pytest.mark.parametrize("kind", [*NAMES, *(f"{CLASSES}{room}" for room in ROOMS)])
def test_every_private_word_in_a_name_is_in_the_glossary(kind: str) -> None:
    glossary = explained()
    names = NAMES.get(kind) or classes(kind.removeprefix(CLASSES))
    unknown = {name: word for name in names for word in words(name) if not is_known(word, glossary)}
    assert unknown == {}, "say it in the field's words, or add a row to docs/explanation/glossary.md"


def test_every_row_explains_a_word_that_is_used() -> None:
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page != GLOSSARY]
    text = "\n".join(path.read_text("utf-8").lower() for path in (*PACKAGE.rglob("*.py"), *pages))
    assert [head for head in headwords() if not any(part in text for part in head.lower().split(", "))] == []


def test_rows_stand_in_the_order_of_the_alphabet_and_once() -> None:
    heads = [head.lower() for head in headwords()]
    assert heads == sorted(set(heads))


def test_every_class_has_a_name_of_its_own() -> None:
    found = [name for room in sorted(PACKAGE.iterdir()) if room.is_dir() for name in classes(room.name)]
    assert sorted({name for name in found if found.count(name) > 1}) == []
