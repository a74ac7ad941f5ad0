"""Markdown from facts: sentences and tables."""

from __future__ import annotations

from collections.abc import Iterable


def first_sentence(text: str | None) -> str:
    """Return the first paragraph of a docstring as one line of Markdown."""
    paragraph = (text or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")


def row(*cells: str) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rows(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    headings = tuple(headings)
    return "\n".join([row(*headings), row(*("---" for _ in headings)), *(row(*line) for line in lines)])
