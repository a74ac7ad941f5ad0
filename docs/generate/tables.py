"""Markdown from facts: sentences and tables, and the docstrings that Python does not keep."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from itertools import pairwise


def first_sentence(text: str | None) -> str:
    """Return the first paragraph of a docstring as one line of Markdown."""
    paragraph = (text or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")


def member_docstrings(kind: type) -> Iterator[tuple[str, str]]:
    """Return the name of each member or field of a class that has a docstring below it, and its first sentence."""
    [body] = [
        node.body for node in ast.parse(textwrap.dedent(inspect.getsource(kind))).body if isinstance(node, ast.ClassDef)
    ]
    for node, after in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield target.id, first_sentence(str(after.value.value))


def row(*cells: str) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rows(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    headings = tuple(headings)
    return "\n".join([row(*headings), row(*("---" for _ in headings)), *(row(*line) for line in lines)])
