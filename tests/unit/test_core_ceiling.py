"""The ceiling comes down only after nothing has used a longer lease for as long as such a lease is waited for."""

from __future__ import annotations

import pytest

from highlanderd.core.ceiling import CeilingWatch, LeaseUse
from highlanderd.structs import replace

QUIET = LeaseUse(where=(1, 3, "the ledger"), lease=10.0, ceiling=90.0, wanted=10.0, longest=10.0)
BUSY = {"a row": replace(QUIET, longest=90.0), "a maintenance": replace(QUIET, wanted=90.0)}


def watched(*surveys: tuple[float, LeaseUse]) -> CeilingWatch:
    """Return the watch after surveys, each at its moment."""
    watch = CeilingWatch()
    for at, use in surveys:
        watch = watch.after(use, at)
    return watch


def test_a_ceiling_is_lowered_once_its_wait_is_over_and_not_before() -> None:
    watch = watched((100.0, QUIET), (120.0, QUIET))
    assert not watch.may_lower(194.4)
    assert watch.may_lower(194.5)


def test_who_has_seen_nothing_lowers_nothing() -> None:
    assert not CeilingWatch().may_lower(1e9)


@pytest.mark.parametrize("name", BUSY)
def test_what_uses_a_longer_lease_starts_the_watch_anew(name: str) -> None:
    busy = watched((0.0, QUIET), (50.0, BUSY[name]))
    assert not busy.may_lower(1e9)
    quiet = busy.after(QUIET, 60.0)
    assert not quiet.may_lower(154.4)
    assert quiet.may_lower(154.5)


@pytest.mark.parametrize(
    "other",
    [replace(QUIET, where=(1, 4, "the ledger")), replace(QUIET, lease=12.0), replace(QUIET, ceiling=91.0)],
    ids=["another timeline", "another lease", "another ceiling"],
)
def test_what_was_watched_before_a_change_counts_for_nothing(other: LeaseUse) -> None:
    watch = watched((0.0, QUIET), (50.0, other))
    assert not watch.may_lower(144.4)
    assert watch.may_lower(50.0 + 1.05 * other.ceiling)


def test_no_ceiling_comes_below_the_ledgers_own_lease() -> None:
    assert not watched((0.0, replace(QUIET, ceiling=10.0))).may_lower(1e9)
