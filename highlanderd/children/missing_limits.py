"""A child that runs without a limit by cgroup that its program should have."""

from __future__ import annotations

from typing import Protocol

from highlanderd.config import ProgramConfig
from highlanderd.config.limits import cgroup_limits


class RunningChild(Protocol):
    """What has to be known of a child."""

    @property
    def missing_limits(self) -> str | None:
        """Which limits by cgroup do not hold for it, and why: empty when all do, None when nothing says so."""


def reason(config: ProgramConfig, child: RunningChild) -> str:
    """Return which limits do not hold for a child that runs, and why; empty when all do that its program has."""
    if not cgroup_limits(config.limits):
        return ""
    if child.missing_limits is None:
        return "its keeper is of an earlier version, which sets none by cgroup; restart the daemon after this upgrade"
    return child.missing_limits
