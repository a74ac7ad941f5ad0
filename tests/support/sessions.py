"""The sessions that pages show, as tests run them: commands after a prompt, and what they print.

A line such as ``b$ highlanderctl status`` is typed on node ``b``; a bare ``$`` is the shell that the test names. What a
page shows and what a command prints are alike when they differ only in numbers, times, identities and the width of
columns; a line ``...`` stands for any lines.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.forked import Forked
from tests.support.nodes import PACKAGE, Node
from tests.support.postgres import throwaway_place

DOCS = PACKAGE / "docs"
_ALIKE = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME"),
    (r"\b\d+(\.\d+)?(ms|s|m|h|d)\b( \d+[smh]\b)*", "SPAN"),
    (r"uid \d+( \([^)]*\))?", "uid N"),
    (r"role \S+?\b(?=[\s:,)]|$)", "role R"),
    (r"\d+", "N"),
    (r"\s+", " "),
)


@dataclass(frozen=True, slots=True)
class Typed:
    """One command of a page."""

    node: str
    """Whose prompt it stands after; empty for a bare one."""
    command: str
    shown: tuple[str, ...]
    """The lines that follow it."""


def typed(page: str) -> list[Typed]:
    """Return the commands of a page below ``docs``, in their order."""
    steps = [one for block in blocks(page) for one in _of_block(block)]
    assert steps, f"{page} shows no session"
    return steps


def blocks(page: str, language: str = "") -> list[str]:
    """Return the blocks of a page below ``docs`` that are in a language; sessions and logs are in none."""
    text = (DOCS / page).read_text("utf-8")
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for word, block in found if word == language]


def _of_block(block: str) -> Iterator[Typed]:
    for part in re.split(r"^(?=[a-z]?\$ )", block, flags=re.MULTILINE):
        if found := re.match(r"([a-z]?)\$ (.*)\n", part):
            yield Typed(found[1], found[2], tuple(part[found.end() :].splitlines()))


def said(step: Typed, nodes: Mapping[str, Node]) -> list[str]:
    """Run a command of ``highlanderctl`` on its node; return the lines that a terminal of any width shows."""
    words = shlex.split(step.command, comments=True)
    assert words[0] == "highlanderctl", step
    command = [sys.executable, "-m", "highlanderd.ctl", "--socket", str(nodes[step.node].socket), *words[1:]]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PACKAGE)}
    with tempfile.TemporaryDirectory(dir=throwaway_place()) as directory:
        printed = Path(directory, "printed")
        Forked(command, environment, printed, printed).wait(120)
        return printed.read_text().splitlines()


def alike(shown: Sequence[str], lines: Sequence[str]) -> bool:
    """Return whether a command has printed what a page shows."""
    pattern = "".join(r"(.*\n)*?" if line == "..." else re.escape(_bare(line)) + "\n" for line in shown)
    return re.fullmatch(pattern, "".join(_bare(line) + "\n" for line in lines)) is not None


def _bare(line: str) -> str:
    for pattern, word in _ALIKE:
        line = re.sub(pattern, word, line)
    return line.strip()
