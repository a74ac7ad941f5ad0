"""How quickly a server in doubt is probed, and which address is probed next."""

from __future__ import annotations

import pytest

from highlanderd.core.lease import Lease
from highlanderd.postgres.outage import PROBES, Down, Suspected, Untried, Up, pause
from highlanderd.postgres.turns import Turns

SHORT, LONG = Lease(5.0), Lease(100.0)


def test_a_lease_that_may_be_saved_is_probed_for_quickly_however_long_the_outage() -> None:
    assert pause(Down(0.0, "timeout", refused=False), 1000.0, SHORT, lease_at_stake=True) == 0.2


def test_without_a_lease_at_stake_probes_are_slow_after_five_seconds() -> None:
    down = Down(0.0, "timeout", refused=False)
    assert pause(down, 4.0, SHORT, lease_at_stake=False) == 0.2
    assert pause(down, 6.0, SHORT, lease_at_stake=False) == 1.0


def test_a_server_that_said_no_is_probed_slowly_even_with_a_lease_at_stake() -> None:
    assert pause(Down(0.0, "standby", refused=True), 0.0, SHORT, lease_at_stake=True) == 1.0


def test_as_many_probes_as_may_hang_take_as_long_as_the_oldest_may_hang() -> None:
    assert pause(Suspected(0.0), 0.0, LONG, lease_at_stake=True) * PROBES == pytest.approx(LONG.renew_every)


def test_only_a_failure_or_the_beginning_is_shown_as_an_error() -> None:
    states = (Untried(), Up(), Suspected(0.0), Down(0.0, "timeout", refused=False))
    assert [state.last_error for state in states] == ["not connected yet", "", "", "timeout"]


def test_attempts_that_fail_at_one_address_move_on_by_one() -> None:
    turns = Turns()
    first, second = turns.begin(), turns.begin()
    turns.move_on(first)
    turns.move_on(second)
    assert turns.begin() == first + 1


def test_sessions_that_fall_silent_at_one_address_move_on_by_one() -> None:
    turns = Turns()
    first = turns.begin()
    turns.note_silence(opened=1.0, now=10.0)
    turns.note_silence(opened=2.0, now=11.0)
    assert turns.begin() == first + 1
    turns.note_silence(opened=12.0, now=20.0)
    assert turns.begin() == first + 2


def test_the_address_that_served_is_kept() -> None:
    turns = Turns()
    served = turns.begin()
    turns.move_on()
    turns.succeeded(served)
    assert turns.begin() == served
