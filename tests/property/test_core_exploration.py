"""Every way through a small world, around the real machine, lease and verdict; and proof that the search would see.

Two nodes, one server. With one misfortune of a kind *everything* that can be reached is seen, to the last world; two
misfortunes and an order are followed breadth first as far as the bound goes.
"""

from __future__ import annotations

import pytest
from property.explore import explore
from property.mutations import MUTATIONS
from property.world import Rules, beginning
from property.world_steps import led

FAULTS = ("stall", "cut", "reset", "restart", "crash", "worker", "exit", "keeper")
ORDERS = ("stop", "start", "release", "again", "end")


def test_nobody_is_harmed_from_the_very_first_start_on() -> None:
    found = explore(beginning(Rules(), "AB", 0, 0), 20_000)
    assert found.complete, found
    assert not found.trace, found


@pytest.mark.parametrize("kind", FAULTS)
def test_no_single_misfortune_breaks_the_promise_whatever_follows(kind: str) -> None:
    found = explore(led(Rules(kinds=frozenset({kind})), "AB", 1, 0), 120_000)
    assert not found.trace, found
    assert found.complete, found


@pytest.mark.parametrize("kind", ORDERS)
def test_no_single_order_breaks_the_promise_whatever_follows(kind: str) -> None:
    found = explore(led(Rules(kinds=frozenset({kind})), "AB", 0, 1), 20_000)
    assert not found.trace, found
    assert found.complete, found


def test_two_misfortunes_and_an_order_break_nothing_as_far_as_the_search_goes() -> None:
    found = explore(led(Rules(), "AB", 2, 1), 40_000)
    assert not found.trace, found


def test_what_an_operator_said_last_outlives_the_worker() -> None:
    kinds = frozenset({"again A", "stop A", "start A", "worker A"})
    found = explore(led(Rules(kinds=kinds, reconnects=False), "AB", 1, 2), 10_000)
    assert not found.trace, found


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_a_broken_rule(name: str) -> None:
    mutation = MUTATIONS[name]
    found = explore(led(mutation.rules, "AB", mutation.faults, mutation.orders), 120_000)
    assert found.trace, f"{name} was not found among {found}"
