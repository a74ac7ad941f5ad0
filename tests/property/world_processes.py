"""What happens between worker, guardian and keeper: spawns, what is heard of them, and workers that come and go."""

from __future__ import annotations

from dataclasses import replace

from property.world import Violation, World, set_child, set_node, swept
from property.world_turn import tell

from highlanderd import memo
from highlanderd.core import machine
from highlanderd.core import words as w


def execute(world: World, i: int) -> World:
    """The guardian forks a keeper for the order, which executes the program; or one of them refuses."""
    node = world.nodes[i]
    child = node.child
    if child is None:
        raise AssertionError(node)
    repeated = child.epoch <= node.spawned and world.rules.guardian_refuses
    if repeated or world.now >= min(child.not_after, child.deadline):
        return set_child(world, i, child._replace(stage="empty"))
    child = child._replace(stage="running", executed=True, slow=False)
    world = set_child(world, i, child)
    world = set_node(world, i, world.nodes[i]._replace(spawned=child.epoch))
    alive = [one.name for one in world.nodes if one.child is not None and one.child.alive]
    if len(alive) > 1:
        raise Violation(f"two children are alive: on {' and '.join(alive)}")
    if child.epoch <= world.executed:
        raise Violation(f"a child is executed under epoch {child.epoch}, not above the last one's {world.executed}")
    if child.epoch in world.release_sent:
        raise Violation(f"a child is executed under epoch {child.epoch}, whose release was sent")
    return world._replace(executed=child.epoch)


def hear_child(world: World, i: int) -> World:
    node = world.nodes[i]
    child = node.child
    if child is None:
        raise AssertionError(node)
    event = child.facts()[child.told]
    over = isinstance(event, w.Emptied | w.SpawnFailed)
    world = set_child(world, i, None if over else child._replace(told=child.told + 1))
    return tell(world, i, event)


def boot(world: World, i: int) -> World:
    node = world.nodes[i]
    life, over = node.life + 1, node.draining or node.wish is w.Want.END
    own = replace(node.policy, instance=f"{node.name}{life}")
    return set_node(world, i, node._replace(up=True, life=life, policy=own, spawned=0, wish=w.Want.RUN, ended=over))


def start_worker(world: World, i: int) -> World:
    """A new worker finds the keeper and goes on with what its memo says, or begins anew."""
    node = world.nodes[i]
    child = node.child
    node = node._replace(first=node.number + 1)
    if child is None and (node.draining or node.wish is w.Want.END):
        return set_node(world, i, node._replace(ended=True))
    if child is None:
        return tell(set_node(world, i, node._replace(situation=machine.begin(node.wish, world.now))), i)
    state, want = memo.decode(memo.encode(child.memo), child.epoch, 0.0 if child.executed else None)
    if want is not node.wish:
        raise Violation(f"{node.name}: the new worker takes {node.wish.value} for {want.value}")
    adopted = set_node(world, i, node._replace(situation=machine.adopt(state, want)))
    if child.executed:
        adopted = set_child(adopted, i, child._replace(told=1))
    adopted = tell(adopted, i, w.Detached("the worker was replaced"))
    return tell(adopted, i, w.EndOrdered(w.Cause.SHUTDOWN)) if node.draining else adopted


def lose_worker(world: World, i: int) -> World:
    node = world.nodes[i]
    world = set_node(world, i, node._replace(situation=None, connected=False, granted=False))
    return swept(world._replace(pg=world.pg.orphan(node.who)) if node.connected else world)


def crash(world: World, i: int) -> World:
    """The host dies with everything on it; the server hears nothing."""
    world = lose_worker(world, i)
    return set_node(world, i, world.nodes[i]._replace(up=False, child=None))


def child_fault(world: World, i: int, **facts: object) -> World:
    child = world.nodes[i].child
    if child is None:
        raise AssertionError(world.nodes[i])
    return set_child(world, i, child._replace(**facts))  # type: ignore[arg-type]
