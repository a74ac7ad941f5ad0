"""Three contenders for one lock, and everything that can happen between them and PostgreSQL, in any order.

Hypothesis chooses what happens: who asks, what their doors do to them, what the server suffers, how time passes. After
each step the server's own record of every write is judged, see `audit.py`, and each contender judges what it is told as
it is told, see `contender.py`. In the end the faults are over, and somebody has to lead.

`HIGHLANDER_EXAMPLES=300` looks deeper than the default run, at random; a failure prints how to repeat it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from highlanderd.core.states import Reservation
from highlanderd.postgres.sql.connecting import SESSIONS
from highlanderd.system.linux import boottime
from tests.integration.contest.audit import offences, unasked
from tests.integration.contest.contender import BUSY, Contender
from tests.integration.contest.contention import LEASE, LONG_LEASE, NAMES, Bed
from tests.integration.contest.contest import Contest
from tests.support.postgres import Clusters
from tests.support.proxy import Door
from tests.support.session import OF_LOCK
from tests.support.wait import wait_for

RESTARTS = 4
"""One example of so many may restart the server: that takes as long as ten other steps."""
STEPS = 20
"""In every example: Hypothesis likes them shorter, and little happens in those."""
LIVENESS = 120.0
"""Seconds from the end of all faults until somebody leads: a lease and a few connections on an idle machine."""
EXAMPLES = int(os.environ.get("HIGHLANDER_EXAMPLES", "0"))

who = st.integers(0, len(NAMES) - 1)
spans = st.sampled_from([0.2, 0.0, 0.05, 0.45, 1.1])
"""Shares of a lease; Hypothesis likes the first one best."""
mostly = st.sampled_from([True, True, False])
patiences = st.sampled_from([0.1, 0.0, 0.4])


NETWORK: dict[str, Callable[[Door], None]] = {
    "cut": Door.cut,
    "reset": Door.reset,
    "stall": Door.stall,
    "stall questions": lambda door: door.stall("questions"),
    "stall answers": lambda door: door.stall("answers"),
    "swallow": Door.swallow,
    "lose": Door.lose,
    "slow": lambda door: door.slow(0.02 * LEASE.length),
    "very slow": lambda door: door.slow(0.1 * LEASE.length),
    **dict.fromkeys(("heal", "heal again", "heal once more"), Door.heal),
}
LOSSES: dict[str, Callable[[Contender], None]] = {
    "session": Contender.drop,
    "worker": Contender.lose_worker,
    "node": Contender.lose_node,
}
PLIGHTS = ("commits fail", "no standby", "no patience")
"""What a server may suffer: until all is well again no commit comes about, or none that counts."""
ENDS = {
    "of a contender": "application_name LIKE %(session)s",
    "of all": "usename = %(role)s",
    "of who holds the lock": f"pid IN (SELECT pid FROM pg_locks WHERE {OF_LOCK})",
}


class Contention(RuleBasedStateMachine):
    """What may happen to three contenders, in the order that Hypothesis likes."""

    bed: Bed

    @initialize(settled=mostly, led=mostly, plight=st.sampled_from(["all is well", *PLIGHTS]))
    def begin(self, settled: bool, led: bool, plight: str) -> None:
        """Let three nodes meet a ledger that does not know their program yet; mostly one leads when trouble begins."""
        number = next(self.bed.numbers)
        self.may_restart = number % RESTARTS == 0
        self.impatient = False
        """Somebody cancels every wait for the standby that is not there: success, with a warning."""
        self.contest = Contest(f"program-{number}", self.bed.lease, self.bed.audit)
        self.bed.settle(settled)
        self.run(self._open())
        if led:
            self.run(self._eventually(lambda: any(one.belief for one in self.contenders), "somebody leads"))
        self._suffer(plight)

    async def _open(self) -> None:
        dsn = self.bed.database.dsn
        self.contenders = [
            Contender(self.contest, name, dsn, door) for name, door in zip(NAMES, self.bed.doors, strict=True)
        ]

    def run(self, what: Coroutine[Any, Any, None]) -> None:
        """Do it on the loop, which stands still in between, as in a worker that gets no time."""
        self.bed.runner.run(what)

    # ------------------------------------------------------------------------------------------- what contenders do

    @rule(span=spans)
    def go_on(self, span: float) -> None:
        """Let nothing happen but life."""
        self.live(span)

    @rule(number=who, patience=patiences)
    def ask(self, number: int, patience: float) -> None:
        """Let one ask what is next, and wait for the answer, or not."""
        self.run(self._ask(self.contenders[number], patience * self.bed.lease.length))

    async def _ask(self, one: Contender, patience: float) -> None:
        one.hesitant = False
        one.ask_next()
        await self._pass(patience, until=lambda: one.link is not BUSY)

    def live(self, span: float) -> None:
        """Let everybody do for a while what the machine would do."""
        self.run(self._live(boottime() + span * self.bed.lease.length))

    async def _live(self, end: float, until: Callable[[], bool] = lambda: False) -> None:
        while boottime() < end and not until():
            for one in self.contenders:
                if one.due():
                    one.ask_next()
            await self._moment()

    @rule(number=who)
    def hesitate(self, number: int) -> None:
        """Let one get no time between its verdict and its takeover, until it is asked again."""
        self.contenders[number].hesitant = True

    @rule(moments=spans)
    def wait(self, moments: float) -> None:
        """Let time pass in which nobody asks anything."""
        self.run(self._pass(moments * self.bed.lease.length))

    async def _pass(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = boottime() + seconds
        while boottime() < end and not until():
            await self._moment()

    async def _moment(self) -> None:
        await asyncio.sleep(0.005)
        if self.impatient:
            self.bed.audit.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

    @rule(heir=st.sampled_from([None, *NAMES]), then=spans)
    def release(self, heir: str | None, then: float) -> None:
        """Let whoever leads end its term, perhaps for another one."""
        reservation = None if heir is None else Reservation(heir, self.bed.lease.length / 2)
        self.run(self._release(reservation))
        self.live(then)

    async def _release(self, reservation: Reservation | None) -> None:
        for one in self.contenders:
            one.release(reservation)

    # -------------------------------------------------------------------------------------------- what they suffer

    @rule(number=who, what=st.sampled_from(sorted(NETWORK)), then=spans)
    def network(self, number: int, what: str, then: float) -> None:
        """Do something to a contender's network."""
        self.contest.say(f"{NAMES[number]}'s door: {what}")
        NETWORK[what](self.bed.doors[number])
        self.live(then)

    @rule(number=who, what=st.sampled_from(sorted(LOSSES)), then=spans)
    def lose(self, number: int, what: str, then: float) -> None:
        """Lose a session, a worker, a whole node."""
        self.contest.say(f"{NAMES[number]} loses its {what}")
        self.run(self._lose(self.contenders[number], what))
        self.live(then)

    async def _lose(self, one: Contender, what: str) -> None:
        LOSSES[what](one)

    @rule(number=who, whose=st.sampled_from(sorted(ENDS)), then=spans)
    def terminate(self, number: int, whose: str, then: float) -> None:
        """End backends."""
        self.contest.say(f"an end {whose}")
        session = f"{SESSIONS}{NAMES[number]}/{self.contest.program}"
        which = ENDS[whose].replace("%s", "%(lock)s")
        values = {"session": session, "role": self.bed.database.role, "lock": self.contest.lock_id}
        self.bed.audit.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}", values)
        self.live(then)

    @rule(what=st.sampled_from(["all is well", "restart", *PLIGHTS]), then=spans)
    def server(self, what: str, then: float) -> None:
        """Do something to the server."""
        self._suffer(what)
        self.live(then)

    def _suffer(self, what: str) -> None:
        self.contest.say(f"server: {what}")
        match what:
            case "commits fail":
                self.bed.refuse_commits(True)
            case "no standby" | "no patience":
                self.impatient = what == "no patience"
                self.bed.lose_standby()
                self.contest.lose_standby()
            case "restart" if self.may_restart:
                self.may_restart = False
                self.run(self._restart())
            case "all is well":
                self._mend()

    def _mend(self) -> None:
        self.contest.outage, self.impatient = 0, False
        self.bed.refuse_commits(False)
        self.bed.find_standby()

    async def _restart(self) -> None:
        restarting = asyncio.create_task(asyncio.to_thread(self.bed.cluster.restart, "immediate"))
        await self._live(boottime() + LIVENESS, until=restarting.done)
        await restarting

    # ------------------------------------------------------------------------------------------- what has to be true

    @invariant()
    def nothing_wrong(self) -> None:
        """Judge what was told, what was written, and what is left lying about."""
        contest, audit = self.contest, self.bed.audit
        wrong = [what for one in self.contenders for what in one.wrong] + self.bed.faults
        writes = audit.writes(contest.lock_id)
        wrong += offences(writes, self.bed.lease.length, contest.asked) + unasked(writes, contest.asked)
        wrong += [f"left in a transaction: {session}" for session in audit.in_transaction()]
        if wrong:
            raise AssertionError("\n".join([*wrong, "", "what happened:", *contest.said]))

    def teardown(self) -> None:
        """End all faults: everybody comes back, somebody leads, its release is acknowledged, and nothing is left."""
        if not hasattr(self, "contenders"):
            return
        try:
            for door in self.bed.doors:
                door.heal()
            self._mend()
            self.contest.say("all faults are over")
            self.run(self._come_to_rest())
            self.nothing_wrong()
        finally:
            self.run(self._close())
            self.bed.faults.clear()

    async def _come_to_rest(self) -> None:
        over = boottime()
        for one in self.contenders:
            one.hesitant = False
        await self._eventually(lambda: any(one.belief for one in self.contenders), "somebody leads")
        await self._eventually(lambda: all(one.answered > over for one in self.contenders), "all are answered")
        for one in self.contenders:
            one.retire()
        await self._eventually(lambda: all(one.leaving is None for one in self.contenders), "all terms are released")
        await self._eventually(lambda: not self.bed.audit.holders(self.contest.lock_id), "the lock is free")
        sessions = "no session is left over"
        await self._eventually(lambda: self.bed.audit.sessions(self.contest.program) <= len(NAMES), sessions)

    async def _eventually(self, fact: Callable[[], bool], what: str) -> None:
        await self._live(boottime() + LIVENESS, until=fact)
        if not fact():
            raise AssertionError("\n".join([f"not within {LIVENESS:g} s: {what}", *self.contest.said]))

    async def _close(self) -> None:
        for one in self.contenders:
            await one.close()


@pytest.fixture
def bed(clusters: Clusters) -> Iterator[Bed]:
    """A server whose every write is noted."""
    with asyncio.Runner() as runner, contextlib.closing(Bed(clusters.create(), runner)) as made:
        yield made


@pytest.mark.timeout(900 + 60 * EXAMPLES)  # a moment of leisure on two busy cores
def test_whatever_happens_nobody_believes_to_lead_beside_another(bed: Bed) -> None:
    how = settings(
        max_examples=EXAMPLES or 2,
        stateful_step_count=STEPS,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=[Phase.generate],  # real time passes: a shorter example would be another one
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(type("Contention", (Contention,), {"bed": bed}), settings=how, _min_steps=STEPS - 1)


@pytest.fixture
def contention(clusters: Clusters) -> Iterator[Contention]:
    """Steps to be chosen by a test: what is rare among those that Hypothesis chooses."""
    with asyncio.Runner() as runner, contextlib.closing(Bed(clusters.create(), runner, LONG_LEASE)) as bed:
        made: Contention = type("Contention", (Contention,), {"bed": bed})()
        yield made
        made.nothing_wrong()
        made.teardown()


def test_connections_that_were_forgotten_on_their_way_are_replaced(contention: Contention) -> None:
    contention.begin(True, True, "all is well")
    for number in range(len(NAMES)):
        contention.network(number, "lose", 0.4)


@pytest.mark.parametrize("led", [True, False])
def test_a_verdict_that_comes_late_takes_nothing_from_another(contention: Contention, led: bool) -> None:
    contention.begin(True, led, "all is well")
    for number in range(len(NAMES)):
        contention.hesitate(number)
    contention.release(None, 0.5)
    for number in range(len(NAMES)):
        contention.ask(number, 0.4)
        contention.network(number, "cut", 0.0)
        wait_for(lambda: not contention.bed.audit.holders(contention.contest.lock_id), what="the lock is free")
    assert len(contention.contest.beliefs) == 1 + led


def test_a_release_whose_commit_fails_is_repeated(contention: Contention) -> None:
    contention.begin(True, True, "all is well")
    contention.server("commits fail", 0.0)
    contention.release(None, 0.5)
