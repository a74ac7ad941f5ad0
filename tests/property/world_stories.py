"""Where searches begin: each of these takes a world, without misfortune, to where its story becomes interesting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from property.world import Rules, World, beginning, former_key, set_node
from property.world_faults import isolated_primary
from property.world_steps import steps
from property.world_turn import cut, tell

from highlanderd.core import machine
from highlanderd.core import words as w


def led(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads, its child runs, and the others know it: where most stories begin."""
    world = _joined(_led_alone(beginning(_calm(rules), names, 0, 0)))
    return _onward_until(_settled_down, world)._replace(rules=rules, faults=faults, orders=orders)


def waited(rules: Rules, names: str, faults: int, orders: int) -> World:
    """Nobody has ever led, and the lease that all have to wait on a new ledger is nearly over."""
    world = _onward_until(lambda world: world.now >= 20, beginning(_calm(rules), names, 0, 0))
    return world._replace(rules=rules, faults=faults, orders=orders)


def renamed(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads under a lock key that was changed and is told to end; the others wait under the new one."""
    world = beginning(_calm(rules), names, 0, 0)
    first = _led_alone(former_key(world, 0))
    told = tell(set_node(first, 0, first.nodes[0]._replace(wish=w.Want.END)), 0, w.EndOrdered(w.Cause.REMOVED))
    return _joined(told)._replace(rules=rules, faults=faults, orders=orders)


def releasing(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node was told to release: its child is gone, and the release is about to be sent."""
    world = led(_calm(rules), names, 0, 0)
    world = tell(world, 0, w.ReleaseOrdered(None, 0))
    asked = _onward_until(lambda world: any(isinstance(ask.effect, w.Release) for ask in world.asks), world)
    return asked._replace(rules=rules, faults=faults, orders=orders)


def divided(rules: Rules, names: str, faults: int, orders: int) -> World:
    """A synchronous standby was promoted, the old primary lives; its leader is still there, the others are not."""
    world = led(_calm(rules), names, 0, 0)
    old = isolated_primary(world.pg)
    world = world._replace(servers=(old, old.promoted()))
    for i in range(1, len(world.nodes)):
        world = cut(world, i)
    return world._replace(rules=rules, faults=faults, orders=orders)


def _calm(rules: Rules) -> Rules:
    return rules._replace(horizon=float("inf"), reconnect="ABC")


def _led_alone(world: World) -> World:
    alone = _onward_until(_settled_down, world._replace(nodes=world.nodes[:1]))
    return alone._replace(nodes=(*alone.nodes, *world.nodes[1:]))


def _joined(world: World) -> World:
    """Have the nodes that were not there yet begin now."""
    first, *others = world.nodes
    begun = (node._replace(situation=machine.begin(w.Want.RUN, world.now)) for node in others)
    return world._replace(nodes=(first, *begun))


def _onward_until(reached: Callable[[World], bool], world: World) -> World:
    while not reached(world):
        world = next(go for _, go in steps(world))()
    return world


def _settled_down(world: World) -> bool:
    first, *others = world.nodes
    leading = first.situation is not None and isinstance(first.situation.state, w.Leading)
    knowing = all(
        node.situation is not None and node.situation.knowledge.versions and node.situation.link is w.Link.IDLE
        for node in others
    )
    running = first.child is not None and first.child.told > 0
    return leading and running and knowing and not world.asks


STORIES: Final[Mapping[str, Callable[[Rules, str, int, int], World]]] = {
    "led": led,
    "waited": waited,
    "renamed": renamed,
    "releasing": releasing,
    "divided": divided,
}
