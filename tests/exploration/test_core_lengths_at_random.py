"""Leases that grow and shrink at random while answers are lost: no takeover before the child is dead."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from highlanderd.core.effects import Renew, SetDeadline
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Due,
    Event,
    LeaseRefused,
    Notified,
    Overruled,
    Renewed,
    StopOrdered,
)
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.machine import deadline, step
from highlanderd.core.states import Draining, Killing, Leading, Policy, SessionState, Situation, Term
from highlanderd.structs import replace
from tests.support.core import POLICY, prolonged

LOST = Detached("lost")


def term(situation: Situation) -> Term:
    """Return the term under way."""
    assert isinstance(situation.state, Leading | Draining)
    return situation.state.term


@dataclass
class Story:
    """One term, what its keeper and the ledger know of it, and the most impatient of all other nodes.

    That one sees each version of the row the moment it was written, and takes over as soon as the version allows.
    """

    policy: Policy
    situation: Situation
    row: tuple[float, float]
    """The version that others see: when it was written, and the lease that it carries."""
    asked: tuple[float, float]
    """The renewal that was sent last."""
    keeper: float
    now: float = 3.0

    @classmethod
    def begin(cls, policy: Policy, trusted: float, wanted: float) -> Story:
        """Return the story of a child that was renewed at 2."""
        situation = prolonged(trusted, wanted, policy)
        return cls(policy, situation, (2.0, trusted), (2.0, trusted), term(situation).kill_at)

    @property
    def over(self) -> bool:
        """Whether the child is dead, or nothing was left to renew."""
        return self.now >= self.keeper or isinstance(getattr(self.situation.state, "phase", None), Killing)

    def happen(self, event: Event) -> None:
        """Let the machine handle an event; each of its effects is performed before the next one."""
        self.situation, effects = step(self.situation, event, self.now, self.policy)
        for effect in effects:
            if isinstance(effect, SetDeadline):
                self.keeper = effect.deadline
            elif isinstance(effect, Renew):
                self.asked = self.now, effect.lease.length
                self.judge(self.asked)
        self.judge(self.row)

    def judge(self, seen: tuple[float, float]) -> None:
        """Nobody takes over before the keeper has killed, with a tenth of the lease to spare for the kernel."""
        written, length = seen
        held = term(self.situation)
        shortest = min([held.lengths.trusted.length] + ([held.shortening.lease.length] if held.shortening else []))
        takeover = written + Lease(length).wait
        assert self.keeper + 0.1 * shortest <= takeover, (seen, self)
        assert held.kill_at + 0.1 * shortest <= takeover, (seen, self)

    def wait(self, seconds: float) -> None:
        """Let time pass; deadlines come when they are due."""
        end = self.now + seconds
        while not self.over:
            due = deadline(self.situation, self.policy)
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.happen(Due())
        self.now = max(self.now, end)

    def answer(self, fate: str, wanted: float, pace: float) -> None:
        """Decide what became of the question under way, or of the session."""
        if self.situation.session is SessionState.DISCONNECTED:
            self.happen(Attached(1))
        elif self.situation.session is SessionState.IDLE:
            self.happen(LOST if fate == "lost" else Notified())
        elif fate == "refused":
            self.happen(LeaseRefused(Lease(pace)) if self.asked[1] > pace else Overruled())
        elif fate == "contended":
            self.happen(Contended())
        elif fate == "lost":
            self.happen(LOST)
        else:
            self.row = self.asked
            sent, trusted = self.asked
            lengths = Lengths(Lease(trusted), Lease(max(wanted, pace)), Lease(pace))
            self.happen(Renewed(sent, lengths) if fate == "acknowledged" else LOST)


FATES = ("acknowledged",) * 5 + ("applied and lost", "lost", "refused", "contended")
LENGTHS = st.sampled_from([4.0, 10.0, 13.0, 40.0, 90.0])
PACES = st.sampled_from([10.0, 4.0, 60.0])
PAUSES = st.sampled_from([2.0, 0.1, 1.0, 5.0, 8.0, 30.0])
CHAPTERS = st.lists(st.tuples(PAUSES, st.sampled_from(FATES), LENGTHS, PACES), min_size=1, max_size=12)


@settings(max_examples=150)
@given(CHAPTERS, LENGTHS, LENGTHS, st.integers(0, 20), st.sampled_from([0.0, 2.0, 30.0]))
def test_however_leases_change_and_answers_are_lost_nobody_takes_over_before_the_child_is_dead(
    chapters: list[tuple[float, str, float, float]], trusted: float, wanted: float, stopped: int, stop_timeout: float
) -> None:
    story = Story.begin(replace(POLICY, stop_timeout=stop_timeout), trusted, wanted)
    for number, (pause, fate, wants, pace) in enumerate(chapters):
        story.wait(pause)
        if story.over:
            return
        if number == stopped:
            story.happen(StopOrdered())
        story.answer(fate, wants, pace)
