"""Beds for the tests of this directory: one for as many rounds as it bears, and another one when it is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from highlanderd.embedded.account import Account
from highlanderd.embedded.installation import Installation

from .bed import Bed
from .faults import Fault, registry
from .rounds import Outcome, Planned, one, play

LEASE = 8.0
"""Seconds. Outages that spare every child leave a few hundredths of it for the way back, on a busy machine, too."""
LEFT_TO_MAKE_CHAOS = {
    "partition, healed during the fence",
    "partition, questions lost",
    "link that flaps",
    "link that loses 4 in 10 packets",
    "SIGKILL of a whole node",
    "SIGSTOP of guardian and worker",
    "SIGSTOP of guardian and keeper",
    "machine paused, short",
    "pg_terminate_backend",
    "power cut of the server",
    "server stopped",
    "sessions terminated all the time",
    "daemon restarted",
    "wall clock stepped forward",
    "role with idle_session_timeout",
    "role with statement_timeout",
    "role with idle_in_transaction_session_timeout",
    "failover, old primary cut off",
    "failover, late",
    "failover, old primary serves on alone",
    "host lost under assert_leader, statement_timeout",
    "ledger dropped and made anew, one node cut off",
    "maintenance on and off",
    "node lost in a maintenance",
}
"""Near enough to another one, or to a test in integration/, for the time that the long tests may take."""
IN_EACH_RUN = {
    "wall clock stepped back",
    "partition, both ways",
    "release",
    "pg_ctl restart immediate",
    "machine lost",
}
"""The ones that ``make test`` plays, one of each kind; ``make test-long`` plays the others."""
Plays = Callable[[Sequence[Planned], str], Outcome]


class Beds:
    """Makes a bed when there is none that is whole."""

    def __init__(self, programs: Installation, account: Account, *, doors: bool) -> None:
        self._make: Callable[..., Bed] = partial(Bed, programs, account, LEASE, doors=doors)
        self._stack = ExitStack()
        self._bed: Bed | None = None

    def play(self, plan: Sequence[Planned], seed: str) -> Outcome:
        """Play a round, and give what it cost."""
        servers = plan[0].fault.servers
        if self._bed is not None and self._bed.servers != servers:
            self.close()
        if self._bed is None:
            self._bed = self._stack.enter_context(self._make(servers=servers))
        for lack in {lack for planned in plan for lack in planned.fault.needs if lack in self._bed.lacks}:
            pytest.skip(self._bed.lacks[lack])
        outcome = play(self._bed, plan, seed)
        print(outcome)
        if outcome.spent:
            self.close()
        return outcome

    def close(self) -> None:
        """Leave nothing."""
        self._stack.close()
        self._bed = None


@contextmanager
def _plays(programs: Installation, account: Account, *, doors: bool) -> Iterator[Plays]:
    beds = Beds(programs, account, doors=doors)
    try:
        yield beds.play
    finally:
        beds.close()


@pytest.fixture(scope="package")
def chaos(postgres_programs: Installation, postgres_account: Account) -> Iterator[Plays]:
    """Play rounds where the network is as real as it can be here."""
    with _plays(postgres_programs, postgres_account, doors=False) as plays:
        yield plays


@pytest.fixture(scope="module")
def chaos_behind_doors(postgres_programs: Installation, postgres_account: Account) -> Iterator[Plays]:
    """Play rounds behind TCP doors."""
    with _plays(postgres_programs, postgres_account, doors=True) as plays:
        yield plays


def borne(plays: Plays, fault: Fault) -> Outcome:
    """Play a round of one fault: it struck, never two, nothing lost, and the gap within its bound."""
    outcome = plays(one(fault, LEASE, fault.name), fault.name)
    assert outcome.struck == 1
    assert not outcome.failed, f"{outcome}; see {outcome.kept}"
    return outcome


def faults_of(module: str) -> list[Fault]:
    """Return the faults that a module has entered and that the tests have time for."""
    mine = [fault for fault in registry().values() if fault.strike.__module__.endswith(f".{module}")]
    return [fault for fault in mine if fault.name not in LEFT_TO_MAKE_CHAOS]


def cases(faults: Iterable[Fault]) -> list[object]:
    """Return faults for ``parametrize``."""
    return [fault if fault.name in IN_EACH_RUN else pytest.param(fault, marks=pytest.mark.long) for fault in faults]
