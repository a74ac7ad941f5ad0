"""A session of a run that waits: it takes nothing over while the command that was typed is stopped, as by Ctrl-Z.

Otherwise the program would begin behind the back of who has suspended the wait, and may hold the lead without working:
what reads from the terminal is stopped as well.
"""

from __future__ import annotations

from typing import Any, Final

from highlanderd.core.events import Refused
from highlanderd.core.verdict import Claim
from highlanderd.postgres.session import Session
from highlanderd.system.proctree import state

AGAIN: Final = 1.0
"""Seconds between two looks whether it goes on."""
SUSPENDED: Final = "the command that was typed is stopped, as Ctrl-Z does it; it waits on once that is continued"


class WaitingSession(Session):
    """A session that does not take over while ``front``, the command that was typed, is stopped."""

    def __init__(self, *words: Any, front: int, **keys: Any) -> None:
        super().__init__(*words, **keys)
        self._front = front

    def take_over(self, claim: Claim) -> bool:
        """Take over unless the command that was typed is stopped. Posts Granted or Refused."""
        if state(self._front) == "T":
            self.post(Refused(AGAIN, SUSPENDED))
            return False
        return self.begin(claim)

    def begin(self, claim: Claim) -> bool:
        """Take over now."""
        return super().take_over(claim)
