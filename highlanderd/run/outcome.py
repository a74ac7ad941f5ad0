"""How a run ends: its exit code, and the sentence that explains it where the program itself has no code to give."""

from __future__ import annotations

from typing import NamedTuple

from highlanderd.core.states import Cause, Draining
from highlanderd.run.command import LOST, of_status


class Outcome(NamedTuple):
    """An exit code, and why; empty where there is nothing to say."""

    code: int
    why: str = ""


def of_term(state: Draining, reason: str, unstarted: int) -> Outcome:
    """Return what the end of a term means; ``unstarted`` is the code of a program that was not executed."""
    if state.cause in (Cause.EXITED, Cause.OUT_OF_MEMORY, Cause.FINISHED) and state.status is not None:
        return Outcome(of_status(state.status))
    if state.cause is Cause.SPAWN_FAILED:
        return Outcome(unstarted, reason)
    return Outcome(LOST, f"the lead was lost: {reason}")
