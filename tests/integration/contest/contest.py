"""What the contenders for one lock share: what each may believe, what was asked, and what has happened.

Times are CLOCK_BOOTTIME seconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from highlanderd.core.key import lock_id
from highlanderd.core.lease import Lease
from highlanderd.system.linux import boottime
from tests.integration.contest.audit import Audit


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
    outage: int
    """In which outage of the standby it was asked; 0 in none."""


@dataclass(slots=True)
class Contest:
    """What all contenders for one lock share."""

    program: str
    lease: Lease
    audit: Audit
    outage: int = 0
    """The number of the present outage of the synchronous standby, in which nobody confirms a commit; 0 for none."""
    outages: int = 0
    beliefs: list[Belief] = field(default_factory=list)
    asked: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    """How often each instance has asked for each write, by epoch."""
    said: list[str] = field(default_factory=list)
    """All that happened, for whoever has to understand a failure."""

    @property
    def lock_id(self) -> int:
        """The lock that all want."""
        return lock_id("highlander", self.program)

    def lose_standby(self) -> None:
        """Note that from now on nobody confirms a commit."""
        if not self.outage:
            self.outages += 1
            self.outage = self.outages

    def say(self, text: str) -> None:
        """Note what happened."""
        self.said.append(f"{boottime():.3f} {text}")
