"""A finding: how bad it is, and one sentence with its cure."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct


class Severity(IntEnum):
    """How bad a finding is; the worst first."""

    PROBLEM = 0
    """The daemon would refuse this server, or the promise of bounded gaps cannot be kept with it."""
    WARNING = 1
    """It works now, and may do harm one day."""
    FINE = 2


class Finding(Struct, frozen=True):
    """One sentence about one thing."""

    severity: Severity
    sentence: str


def problem(sentence: str) -> Finding:
    """Return a finding that must be cured before programs can rely on this server."""
    return Finding(Severity.PROBLEM, sentence)


def warning(sentence: str) -> Finding:
    """Return a finding that an administrator should look at."""
    return Finding(Severity.WARNING, sentence)


def fine(sentence: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(Severity.FINE, sentence)
