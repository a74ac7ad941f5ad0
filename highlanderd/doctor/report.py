"""Findings as text: the worst first, one sentence each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from highlanderd.doctor.findings import Finding, Severity

INDENT: Final = 9
"""Columns for the word that says how bad it is."""


def report(findings: Sequence[Finding], width: int = 0) -> list[str]:
    """Return the lines; broken at ``width`` columns, or one line for each finding when it is 0."""
    lines = []
    for finding in sorted(findings, key=lambda finding: finding.severity):  # a stable sort keeps the order of asking
        text = f"{finding.severity.name.lower():{INDENT}}{finding.sentence}"
        lines += _wrapped(text, width) if width else [text]
    return [*lines, _sum(findings)]


def _wrapped(text: str, width: int) -> list[str]:
    indent = " " * INDENT
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _sum(findings: Sequence[Finding]) -> str:
    counts = [
        (sum(finding.severity is severity for finding in findings), severity.name.lower())
        for severity in (Severity.PROBLEM, Severity.WARNING)
    ]
    return ", ".join(f"{number or 'no'} {word}{'' if number == 1 else 's'}" for number, word in counts)
