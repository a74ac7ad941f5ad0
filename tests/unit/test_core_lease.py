"""The clocks of a lease: when the child is stopped and killed, and how long others wait."""

from __future__ import annotations

import pytest

from highlanderd.core.lease import Lease, maintenance_lease, replaced_within
from tests.support.core import L


def test_trust_counts_from_the_sending() -> None:
    assert L.trusted_until(100.0) == 110.0


def test_sigkill_comes_at_nine_tenths() -> None:
    assert L.kill_at(100.0) == 109.0


@pytest.mark.parametrize(("stop_timeout", "at"), [(10.0, 107.0), (2.0, 107.0), (0.5, 108.5), (0.0, 109.0)])
def test_sigterm_comes_at_seven_tenths_or_later_when_the_program_needs_less(stop_timeout: float, at: float) -> None:
    assert L.fence_at(100.0, stop_timeout) == at


def test_everybody_else_waits_a_twentieth_longer_than_a_lease() -> None:
    assert L.wait == 10.5


def test_two_renewals_may_be_lost_before_the_fence_begins() -> None:
    assert L.renew_every == 2.0
    assert L.renew_every + L.answer_within <= L.fence_at(0.0, 10.0) - L.renew_every


def test_an_outage_that_costs_nothing_leaves_a_tenth_of_a_lease_to_reconnect() -> None:
    latest_loss = L.renew_every  # the renewal that was just due is the first that is not answered
    assert latest_loss + L.outage_borne + 0.1 * L.length <= L.fence_at(0.0, 99.0)


def test_a_silent_leader_is_replaced_after_a_look_that_was_a_fifth_late_and_the_wait() -> None:
    assert 1.1 * L.renew_every + L.wait <= L.replaced_within
    assert L.wait <= L.resumed_within <= L.replaced_within


@pytest.mark.parametrize("lease", [2.0, 3.7, 10.0, 60.0])
@pytest.mark.parametrize("outage", [0.5, 4.0, 60.0, 3600.0, 86400.0])
def test_a_maintenance_lease_bears_its_outage_and_is_hardly_longer_than_that_takes(lease: float, outage: float) -> None:
    def borne(length: float) -> float:
        return Lease(length).fence_at(0.0, 1e9) - Lease(lease).renew_every - 0.1 * lease

    length = maintenance_lease(lease, outage)
    assert length >= lease
    assert borne(length) >= outage - 1e-6
    assert length == lease or borne(length - 1) < outage


def test_a_silent_leader_under_a_longer_lease_is_replaced_after_its_wait_and_a_look_at_the_usual_pace() -> None:
    latest = Lease(90.0).wait + 1.1 * L.renew_every
    assert latest <= replaced_within(90.0, L.length) < latest + 0.1 * L.length
    assert replaced_within(L.length, L.length) == pytest.approx(L.replaced_within)


def test_a_start_that_took_half_a_lease_is_none() -> None:
    assert L.spawn_within == 5.0


@pytest.mark.parametrize("length", [2.0, 10.0, 60.0])
def test_the_child_is_dead_before_anybody_else_may_begin(length: float) -> None:
    lease = Lease(length)
    assert lease.fence_at(0.0, 99.0) < lease.kill_at(0.0) < lease.trusted_until(0.0) < lease.wait
