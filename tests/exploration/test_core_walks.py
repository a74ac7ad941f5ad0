"""Random walks through the small world: longer, with more nodes and more misfortune than can be explored whole.

The world itself raises when the promise or a rule breaks: two children, a release beside a living tree, a second spawn
in a term, a renewal of what cannot be trusted, a situation that waits for nothing, an impossible event.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from highlanderd.core.states import Leading, Policy, Situation
from highlanderd.structs import replace
from tests.exploration.explore import is_wanted
from tests.exploration.world import LEASE, PROBE_FAULTS, Rules, World, beginning, set_server
from tests.exploration.world_node import Node
from tests.exploration.world_steps import steps
from tests.exploration.world_stories import led

STUBBORN = ("the tree is empty", "the main process ends")
"""What a child does that heeds signals."""


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Return one to three nodes, led or not, with their choices of policy."""
    names = draw(st.sampled_from(["A", "AB", "ABC"]))
    start = draw(st.sampled_from([beginning, led]))
    probed = draw(st.booleans())
    kinds = Rules().kinds | (set(PROBE_FAULTS) if probed else set())
    rules = Rules(kinds=kinds, probes=probed, hooks=draw(st.booleans()), placed=draw(st.booleans()))
    rules = rules._replace(shared=draw(st.booleans()), batches=draw(st.booleans()))
    world = start(rules, names, draw(st.integers(0, 6)), draw(st.integers(0, 5)))
    choice = {
        "on_connection_loss": draw(st.sampled_from(["hold", "stop"])),
        "stop_timeout": draw(st.sampled_from([0, 1, 3, 30])),
        "jitter": draw(st.sampled_from([0.0, 0.5, 0.9])),
    }
    return world._replace(nodes=tuple(node._replace(policy=_with(node.policy, choice)) for node in world.nodes))


def _with(policy: Policy, choice: dict[str, Any]) -> Policy:
    return replace(policy, **choice)


def walk(world: World, choices: list[int]) -> World:
    """Go where the choices say; one step in eight may be a misfortune or an order."""
    for choice in choices:
        poor = world._replace(faults=0, orders=0)
        ordinary = [go for _, go in steps(poor)]
        ways = ordinary if choice % 8 or not ordinary else [go for _, go in steps(world)]
        if not ways:
            return world
        after = ways[choice // 8 % len(ways)]()
        world = after._replace(faults=world.faults, orders=world.orders) if ways is ordinary else after
    return world


def onward(world: World, stubborn: bool) -> World:
    """Take the next step of a world in which nothing is delayed; a stubborn child ends by SIGKILL alone."""
    return next(go for label, go in steps(world) if not (stubborn and label[0] in STUBBORN))()


CHOICES = st.lists(st.integers(0, 8 * 64), min_size=20, max_size=250)


@settings(max_examples=60)
@given(worlds(), CHOICES, st.booleans(), st.booleans())
def test_whatever_happened_a_daemon_that_is_told_to_end_ends(
    world: World, choices: list[int], stubborn: bool, reachable: bool
) -> None:
    """Also with PostgreSQL away for good, and with a child that heeds no signal."""
    world = walk(world, choices)
    world = world._replace(faults=0, orders=0, rules=world.rules._replace(reconnect="ABC" if reachable else ""))
    for i in range(len(world.nodes)):
        world = _order_end(world, i)
    told = world.now
    while not all(node.ended for node in world.nodes):
        world = onward(world, stubborn)
        assert world.now <= told + 4 * LEASE, world.show()
    assert not any(node.child for node in world.nodes), world.show()


def _order_end(world: World, i: int) -> World:
    """By the orders that the world knows; who is frozen or without a worker hears it from the guardian later."""
    rules = world.rules._replace(kinds=frozenset({f"end {world.nodes[i].name}"}))
    asking = world._replace(orders=1, rules=rules)
    for label, go in steps(asking):
        if label in _goes_on(world.nodes[i]):
            return _order_end(go()._replace(orders=0, rules=world.rules), i)
        if label == ("ordered to end", world.nodes[i].name):
            return go()._replace(orders=0, rules=world.rules)
    nodes = list(world.nodes)
    nodes[i] = nodes[i]._replace(draining=True)
    return world._replace(nodes=tuple(nodes))


def _goes_on(node: Node) -> tuple[tuple[str, str], ...]:
    return (f"{' and '.join(node.frozen)} goes on", node.name), ("the program has its turn again", node.name)


@settings(max_examples=60)
@given(worlds(), CHOICES, st.booleans())
def test_once_the_misfortune_is_over_a_wanted_program_runs_again(
    world: World, choices: list[int], stubborn: bool
) -> None:
    world = walk(world, choices)._replace(faults=0, orders=0)
    over = world.now
    while not any(node.child is not None and node.child.alive and _leads(node.situation) for node in world.nodes):
        if not is_wanted(world):
            return
        world = onward(world, stubborn)
        assert world.now <= over + 6 * LEASE, world.show()


def _leads(situation: Situation | None) -> bool:
    return situation is not None and isinstance(situation.state, Leading)


@settings(max_examples=60)
@given(worlds(), CHOICES, CHOICES, st.booleans())
def test_once_it_is_stopped_everywhere_a_program_runs_nowhere(
    world: World, choices: list[int], more: list[int], stubborn: bool
) -> None:
    """Whatever had happened when it was stopped, and whatever happens after it; it is not started again."""
    world = walk(world, choices)
    rules = world.rules._replace(kinds=world.rules.kinds - {"resume", "failover", "isolate", "upgrade"})
    ledger = world.pg.ledger._replace(suspended=True)
    world = set_server(world, world.pg, world.pg._replace(ledger=ledger))._replace(rules=rules)
    if len(world.servers) > 1 or world.pg.standby is not None:
        return  # a failover may lose the order, as any other commit
    world = walk(world, more)._replace(faults=0, orders=0)
    over = world.now
    while any(node.child is not None and node.child.alive for node in world.nodes):
        world = onward(world, stubborn)
        assert world.now <= over + 6 * LEASE, world.show()
    assert world.pg.ledger.suspended
