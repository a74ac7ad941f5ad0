"""What the contenders for one lock share: what each may believe, what was asked, and what has happened.

Times are CLOCK_BOOTTIME seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from audit import Audit

from highlanderd.core.key import lock_id
from highlanderd.core.lease import Lease
from highlanderd.linux import boottime


@dataclass(slots=True)
class Belief:
    """From the arrival of the grant until ``until`` this contender may have a child."""

    who: str
    epoch: int
    began: float
    until: float


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, and between which two moments it was sent."""

    what: str
    epoch: int
    after: float
    before: float
    confirmed: bool
    """Whether the server could confirm a commit when it was asked."""


@dataclass(slots=True)
class Contest:
    """What all contenders for one lock share."""

    program: str
    lease: Lease
    audit: Audit
    confirming: bool = True
    """Whether commits can be confirmed: False while a synchronous standby is missing."""
    beliefs: list[Belief] = field(default_factory=list)
    asked: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    """How often each instance has asked for each write, by epoch."""
    said: list[str] = field(default_factory=list)
    """All that happened, for whoever has to understand a failure."""

    @property
    def lock_id(self) -> int:
        """The lock that all want."""
        return lock_id("highlander", self.program)

    def say(self, text: str) -> None:
        """Note what happened."""
        self.said.append(f"{boottime():.3f} {text}")
