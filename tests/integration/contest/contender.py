"""A contender for one lock: a real pool and session behind a door of its own, and what it may believe.

It asks what the machine would ask, one question at a time, with the real verdict; a test may leave questions unanswered
for as long as it likes. Each answer is judged at once against what PostgreSQL shows past all doors, and each belief to
lead against those of the other contenders. Times are CLOCK_BOOTTIME seconds.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from highlanderd.core.effects import Release
from highlanderd.core.events import (
    Attached,
    Contended,
    Detached,
    Event,
    Granted,
    LookAdvised,
    Looked,
    Notified,
    Overruled,
    Refused,
    Renewed,
    Settled,
    Unlocked,
)
from highlanderd.core.key import AdvisoryLock
from highlanderd.core.knowledge import Knowledge, glimpsed, observe
from highlanderd.core.observation import Observation
from highlanderd.core.states import Cause, Reservation, SessionState
from highlanderd.core.verdict import Candidate, Claim, NotYet, Settle, judge
from highlanderd.postgres.connection import Connection
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.server import Server
from highlanderd.postgres.session import Session
from highlanderd.system.linux import boottime
from tests.integration.contest.contest import Belief, Contest, Question
from tests.support.proxy import Door
from tests.support.session import pool_of

BUSY, IDLE, DISCONNECTED = SessionState.BUSY, SessionState.IDLE, SessionState.DISCONNECTED


class _Session(Session):
    """Tells which backend it has."""

    backend = 0

    def deliver(self, hello: Connection) -> None:
        self.backend = hello.pid
        super().deliver(hello)


class Contender:
    """One node's line of sessions. ``ask_next`` asks what is due; whatever comes back is judged when it comes."""

    def __init__(self, contest: Contest, name: str, dsn: str, door: Door) -> None:
        ledger = Ledger("highlander", "highlander", contest.lease.length)
        self.contest, self.name, self.door = contest, name, door
        self.pool = pool_of(Server(door.dsn(dsn), ledger, node=name, fresh=None), ledger)
        self._running = asyncio.create_task(self.pool.run())
        self.belief: Belief | None = None
        self.leaving: int | None = None
        """A term that is over here and not released yet."""
        self.retired = self.hesitant = False
        self.acknowledged: dict[int, int] = {}
        """By epoch: how many renewals were told as acknowledged."""
        self.wrong: list[str] = []
        """What ought not to have happened; found when something arrives, told by ``complaint``."""
        self.answered = 0.0
        """When the last answer came."""
        self._begin_instance()

    def _begin_instance(self) -> None:
        self.instance = str(uuid.uuid4())
        self._begin_worker()

    def _begin_worker(self) -> None:
        contest = self.contest
        self.link, self.knowledge, self.hinted = DISCONNECTED, Knowledge(), False
        self.question: Question | None = None
        self.observation: Observation | None = None
        self._due, self._sure = 0.0, False
        self.session = session = _Session(
            self.pool,
            program=contest.program,
            lock_id=contest.lock_id,
            advisory=AdvisoryLock(contest.lock_id),
            node=self.name,
            instance=self.instance,
            keeperless=lambda: self.belief is None,
            post=lambda event: self._hear(event) if self.session is session else None,
            on_alarm=contest.say,
        )
        self.session.open()

    # ------------------------------------------------------------------------------------------------------ its fate

    def lose_worker(self) -> None:
        """Let another worker begin: same instance, the child lives on, all else is forgotten."""
        self.session.close()
        self._begin_worker()

    def lose_node(self) -> None:
        """Let the whole node be lost and begin anew: its child is dead, its term is never released."""
        self.end_belief()
        self.leaving = None
        self.session.close()
        self._begin_instance()

    def drop(self) -> None:
        """Let it give up its present session."""
        self.session.disconnect("dropped by the test")

    async def close(self) -> None:
        """Leave nothing."""
        self.session.close()
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running
        self.door.reset()  # the listening session's end
        await asyncio.sleep(0.01)

    def end_belief(self) -> None:
        """Let the child be dead from now on."""
        self._lapse()
        if self.belief is not None:
            self.belief.until = min(self.belief.until, boottime())
            self.belief = None

    def _lapse(self) -> None:
        if self.belief is not None and boottime() >= self.belief.until:
            self.leaving, self.belief = self.belief.epoch, None
            self.contest.say(f"{self.name} has stopped trusting")

    # -------------------------------------------------------------------------------------------------------- asking

    def due(self) -> bool:
        """Whether the machine would ask something now."""
        self._lapse()
        wants = self.leaving is not None or not (self.retired or (self.hesitant and self.observation and self._sure))
        return wants and self.link is IDLE and (self.hinted or boottime() >= self._due)

    def retire(self) -> None:
        """End the term, if there is one, and begin no other."""
        self.retired = True
        self.release()

    def ask_next(self) -> None:
        """Ask what follows, if nothing is under way."""
        self._lapse()
        if self.link is not IDLE:
            return
        self.hinted = False
        if self.leaving is not None:
            self.release()
        elif self.belief is not None:
            epoch = self.belief.epoch
            self._ask("renew", epoch, lambda: self.session.renew(epoch, self.contest.lease))
        else:
            self._contend()

    def _contend(self) -> None:
        observation, self.observation = self.observation, None
        verdict = observation and judge(
            observation, self.knowledge, boottime(), Candidate(self.name, self.instance, True)
        )
        match verdict:
            case Claim():
                self._ask("take over", verdict.epoch, lambda: self.session.take_over(verdict))
            case Settle():
                self._ask("settle", 0, lambda: self.session.write_settled(verdict))
            case _:
                self._ask("look", 0, self.session.look)

    def release(self, reservation: Reservation | None = None) -> None:
        """End the child, and the term."""
        self._lapse()
        if self.belief is not None:
            self.leaving = self.belief.epoch
            self.end_belief()
        epoch = self.leaving
        if epoch is not None and self.link is IDLE:
            self._ask("release", epoch, lambda: self.session.release(Release(epoch, Cause.RELEASED, reservation)))

    def _ask(self, what: str, epoch: int, ask: Callable[[], object]) -> None:
        self.link, after = BUSY, boottime()
        self.contest.asked[self.instance, epoch, what] += 1
        ask()
        self.question = question = Question(what, epoch, after, boottime(), self.contest.outage)
        if what == "renew":  # with others', if there are any: sent in the loop's next turn
            asyncio.get_running_loop().call_soon(self._sent, question)
        self._due = after + self.contest.lease.renew_every
        self.contest.say(f"{self.name} asks: {what} {epoch or ''}")

    def _sent(self, question: Question) -> None:
        if self.question is question:
            self.question = replace(question, before=boottime())

    # ------------------------------------------------------------------------------------------------------- hearing

    def _hear(self, event: Event) -> None:
        self.contest.say(f"{self.name} hears: {_shown(event)}")
        self._lapse()
        if isinstance(event, Notified | LookAdvised):
            self.hinted = True
            return
        self.link = DISCONNECTED if isinstance(event, Detached) else IDLE
        _HEARD[type(event)](self, event)

    def _attached(self, event: Attached) -> None:
        self.session.note_known(event.number)
        self._due = boottime()

    def _detached(self, _event: Detached) -> None:
        self.session.note_known(None)
        self.observation = None

    def _looked(self, event: Looked) -> None:
        self._answers("look")
        self.knowledge = observe(glimpsed(self.knowledge, event.glimpse), event.observation, event.at)
        if self.belief is None and self.leaving is None:
            self.observation = event.observation
            candidate = Candidate(self.name, self.instance, event.keeperless)
            verdict = judge(event.observation, self.knowledge, boottime(), candidate)
            self._sure = isinstance(verdict, Claim)
            match verdict:
                case Claim() | Settle():
                    self._due = boottime()
                case NotYet(until) if until is not None:
                    self._due = min(self._due, until)

    def _granted(self, event: Granted) -> None:
        question = self._answers("take over")
        self._judge_sent(event.sent, question)
        for other in self.contest.beliefs:
            self._must(other.until <= question.after, f"granted epoch {event.epoch} while {other} may lead")
            self._must(other.epoch < event.epoch, f"granted epoch {event.epoch}, which {other} has had")
        self._must(self._written(event.epoch) >= 1, f"epoch {event.epoch} was granted and is not in the ledger")
        free = not self._holds() and self.contest.audit.lives(self.session.backend)
        self._must(not free, f"epoch {event.epoch} was granted, and the lock is not held")
        until = self.contest.lease.trusted_until(event.sent)
        self.belief = Belief(self.name, event.epoch, boottime(), until)
        self.contest.beliefs.append(self.belief)
        self._lapse()

    def _renewed(self, event: Renewed) -> None:
        question = self._answers("renew")
        self._judge_sent(event.sent, question)
        self.acknowledged[question.epoch] = self.acknowledged.get(question.epoch, 0) + 1
        renewals = self._written(question.epoch) - 1
        self._must(renewals >= self.acknowledged[question.epoch], f"a renewal of {question.epoch} is not in the ledger")
        if self.belief is not None:
            self.belief.until = self.contest.lease.trusted_until(event.sent)
            for other in self.contest.beliefs:
                apart = other is self.belief or other.until <= self.belief.began or other.began >= self.belief.until
                self._must(apart, f"{self.belief} was renewed beside {other}")

    def _overruled(self, _event: Overruled) -> None:
        epoch = self._answers("renew").epoch
        last = self.contest.audit.writes(self.contest.lock_id)[-1]
        self._must(last.epoch > epoch or last.released, f"overruled in epoch {epoch}, but the ledger shows {last}")
        self.end_belief()
        self.leaving = epoch

    def _contended(self, _event: Contended) -> None:
        self._answers("renew")
        self._due = boottime() + self.contest.lease.renew_every / 4

    def _unlocked(self, _event: Unlocked) -> None:
        question = self._answers("release")
        last = self.contest.audit.writes(self.contest.lock_id)[-1]
        over = last.epoch > question.epoch or last.released
        self._must(over, f"epoch {question.epoch} was released, but the ledger shows {last}")
        if last.epoch == question.epoch and last.pid == self.session.backend:
            self._judge_confirmed(question)
        self._must(not self._holds(), f"epoch {question.epoch} was released, and the lock is still held")
        self.leaving, self._due = None, boottime()

    def _refused(self, event: Refused) -> None:
        if self._answers("take over", "settle").what == "take over":
            self._must(not self._holds(), f"refused ({event.why}), and the lock is still held")
        self._due = boottime() + event.again_in

    def _settled(self, _event: Settled) -> None:
        self._answers("settle")
        self._due = boottime()

    # ------------------------------------------------------------------------------------------------------- judging

    def _must(self, right: object, wrong: str) -> None:
        if not right:
            self.wrong.append(f"{self.name}: {wrong}")

    def _answers(self, *what: str) -> Question:
        """Return the question that an answer belongs to."""
        question = self.question
        assert question is not None, f"an answer to nothing: {what}"
        self._must(question.what in what, f"{question} was answered as {what}")
        self.answered = boottime()
        return question

    def _judge_confirmed(self, question: Question) -> None:
        confirmed = not question.outage or question.outage != self.contest.outage
        self._must(confirmed, f"{question} was told as acknowledged, and nobody could confirm it")

    def _judge_sent(self, sent: float, question: Question) -> None:
        self._must(question.after <= sent <= question.before, f"{question} is trusted from {sent} on")
        self._judge_confirmed(question)

    def _written(self, epoch: int) -> int:
        writes = self.contest.audit.writes(self.contest.lock_id)
        return sum(write.epoch == epoch and write.instance == self.instance for write in writes if not write.released)

    def _holds(self) -> bool:
        return self.session.backend in self.contest.audit.holders(self.contest.lock_id)


def _shown(event: Event) -> str:
    """Say what was told, and of a look only the row."""
    return f"looked: {event.observation.row}" if isinstance(event, Looked) else str(event)


_HEARD: Final[dict[type[Event], Callable[[Contender, Any], None]]] = {
    Attached: Contender._attached,
    Detached: Contender._detached,
    Looked: Contender._looked,
    Granted: Contender._granted,
    Renewed: Contender._renewed,
    Overruled: Contender._overruled,
    Contended: Contender._contended,
    Unlocked: Contender._unlocked,
    Refused: Contender._refused,
    Settled: Contender._settled,
}
