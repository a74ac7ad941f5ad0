"""What happens between worker, guardian and keeper: orders, what is heard of them, workers that come and go.

Stands in for ``keepers.py``, ``keeper.py``, ``launch.py`` and the guardian's side of a worker; memos are the product's.
Not in it: a guardian that is frozen or dead while one of its keepers dies. Then only a cgroup finds the orphans.
"""

from __future__ import annotations

from highlanderd.core import machine
from highlanderd.core.events import Detached, Emptied, EndOrdered, SpawnFailed
from highlanderd.core.states import Cause, Leading, Ready, Want
from highlanderd.structs import replace
from highlanderd.worker import child_handover
from tests.exploration.world import Violation, World, clock, everywhere, set_child, set_node, swept
from tests.exploration.world_node import Child, Node, Surveyed
from tests.exploration.world_turn import tell

# ---------------------------------------------------------------------------------------------------------- the child


def take_order(world: World, i: int) -> World:
    """The guardian forks a keeper for the order, or refuses. What was prepared for just this order goes on instead."""
    node = world.nodes[i]
    child = _of(node)
    if node.prepared and not world.rules.compares_prepared:
        child = child._replace(epoch=node.prepared)
    node = node._replace(prepared=0)
    world = set_node(world, i, node)
    if world.rules.guardian_refuses and _refused(world, i, child):
        gone = node.situation is None  # nobody is there to hear of it
        return set_child(world, i, None if gone else child._replace(stage="empty"))
    node = node._replace(spawned=child.epoch, child=child._replace(stage="forked", slow=False))
    world = set_node(world, i, node)
    return end_tree(world, i) if child.to_kill else world


def take_stray(world: World, i: int) -> World:
    """A guardian that reads a dead worker's order after the next worker was started."""
    node = world.nodes[i]
    stray = node.stray
    node = node._replace(stray=None)
    if stray is None or node.child is not None or _refused(world, i, stray):
        return set_node(world, i, node)
    forked = node._replace(orphans=stray._replace(stage="running", executed=True, programmed=True), spawned=stray.epoch)
    return _check_execution(set_node(world, i, forked), i, stray.epoch)


def _refused(world: World, i: int, order: Child) -> bool:
    node, now = world.nodes[i], clock(world, i)
    return order.epoch <= node.spawned or now >= min(order.not_after, order.deadline) or node.orphans is not None


def open_gate(world: World, i: int) -> World:
    """What was prepared executes its program, though nobody has ordered it: only a mutation does so."""
    node = world.nodes[i]
    memo = node.situation or machine.begin(node.wish, clock(world, i))
    stray = Child(node.prepared, 0.0, 0.0, memo, stage="running", executed=True, programmed=True)
    return _check_execution(set_node(world, i, node._replace(prepared=0, orphans=stray)), i, stray.epoch)


def execute(world: World, i: int) -> World:
    """The child becomes the program, unless its time is over."""
    child = _of(world.nodes[i])
    if world.rules.keeper_compares_at_exec and clock(world, i) >= min(child.not_after, child.deadline):
        return set_child(world, i, child._replace(stage="empty"))
    began = clock(world, i) if world.rules.probes else 0.0
    stage, hooked = ("hooking", True) if world.rules.hooks else ("running", False)
    facts = {"executed": True, "programmed": not hooked, "hooked": hooked, "slow": False, "began": began}
    world = child_fault(world, i, stage=stage, **facts)
    return _check_execution(world, i, child.epoch)


def end_hook(world: World, i: int, *, well: bool) -> World:
    """The hook is over: the child becomes the program, unless its time is over, or the term is."""
    child = _of(world.nodes[i])
    if not well or child.signalled:
        return set_child(world, i, child._replace(stage="left", vetoed=not well))
    if world.rules.keeper_compares_at_exec and clock(world, i) >= child.deadline:
        return set_child(world, i, child._replace(stage="left"))
    if (world.nodes[i].lock_id, child.epoch) in world.release_sent:
        raise Violation(f"a program is executed under epoch {child.epoch}, whose release was sent")
    return set_child(world, i, child._replace(stage="running", programmed=True))


def _check_execution(world: World, i: int, epoch: int) -> World:
    """Never two; never under an old epoch; never after the release was sent."""
    running, lock_id = [node.name for node in world.nodes if node.running], world.nodes[i].lock_id
    if len(running) > 1 and not world.rules.overlap:
        raise Violation(f"two children are alive: on {' and '.join(running)}")
    before = dict(world.executed).get(lock_id, 0)
    if epoch <= before:
        raise Violation(f"a child is executed under epoch {epoch}, not above the last one's {before}")
    if (lock_id, epoch) in world.release_sent:
        raise Violation(f"a child is executed under epoch {epoch}, whose release was sent")
    return world._replace(executed=tuple(sorted({**dict(world.executed), lock_id: epoch}.items())))


def _of(node: Node) -> Child:
    if node.child is None:
        raise AssertionError(node)
    return node.child


def hear_child(world: World, i: int) -> World:
    world = tell(world, i)  # a passed deadline comes first
    child = _of(world.nodes[i])
    event = child.facts(not world.rules.guardian_counts_orphans)[child.told]
    over = isinstance(event, Emptied | SpawnFailed)
    left = set_child(world, i, None if over else child._replace(told=child.told + 1))
    if over and child.alive:
        left = set_node(left, i, left.nodes[i]._replace(orphans=child))  # only a mutation tells it so early
    return tell(left, i, event)


def child_fault(world: World, i: int, **facts: object) -> World:
    return set_child(world, i, _of(world.nodes[i])._replace(**facts))  # type: ignore[arg-type]


def end_tree(world: World, i: int) -> World:
    return set_child(world, i, _of(world.nodes[i]).kill(clock(world, i)))


def kill_keeper(world: World, i: int) -> World:
    """SIGKILL to a keeper: its child dies with it, and the guardian kills the rest."""
    child = _of(world.nodes[i])
    frozen = tuple(one for one in world.nodes[i].frozen if one != "keeper")
    world = set_node(world, i, world.nodes[i]._replace(frozen=frozen))
    return set_child(world, i, child.kill(clock(world, i))._replace(silent=True, to_kill=False, entrusted=None))


# ----------------------------------------------------------------------------------------------- node, guardian, worker


def boot(world: World, i: int) -> World:
    node = world.nodes[i]
    life, over = node.life + 1, node.draining or node.wish is Want.END
    own = replace(node.policy, instance=f"{node.name}{life}")
    return set_node(
        world, i, node._replace(up=True, life=life, policy=own, spawned=0, wish=Want.RUN, ended=over, met=False)
    )


def start_worker(world: World, i: int) -> World:
    """A new worker finds the keeper and goes on with what its memo says, or begins anew."""
    world = _left_behind(world, i)
    node = world.nodes[i]
    child, now = node.child, clock(world, i)
    node = node._replace(first=node.number + 1)
    if child is None and (node.draining or node.wish is Want.END):
        return set_node(world, i, node._replace(ended=True))
    if child is None:
        return tell(set_node(world, i, node._replace(situation=machine.begin(node.wish, now))), i)
    started = child.began if child.programmed else None
    memo = child_handover.ChildHandover().encode(child.memo)
    within = node.policy.ready_timeout
    state, want = child_handover.decode(memo, child.epoch, started, within, preparing=child.hooked)
    if want is not node.wish:
        raise Violation(f"{node.name}: the new worker takes {node.wish.value} for {want.value}")
    if child.ready and isinstance(state, Leading) and not isinstance(state.child, Ready):
        raise Violation(f"{node.name}: the new worker does not know that the child is ready")
    adopted = set_node(world, i, node._replace(situation=machine.adopt(state, want)))
    adopted = set_child(adopted, i, child._replace(told=(1 + child.hooked) * child.programmed))
    adopted = tell(adopted, i, Detached("the worker was replaced"))
    return tell(adopted, i, EndOrdered(Cause.SHUTDOWN)) if node.draining else adopted


def _left_behind(world: World, i: int) -> World:
    """What has no keeper that answers is not adopted: it is buried by the guardian, and the memo is lost."""
    node = world.nodes[i]
    child = node.child
    if child is None:
        return world
    if child.stage == "ordered":
        return set_node(world, i, node._replace(child=None, stray=child))  # only a mutation leaves one unread
    if "keeper" in node.frozen:
        world = kill_keeper(world, i)
        child = _of(world.nodes[i])
    if not child.silent:
        return world
    return set_node(world, i, world.nodes[i]._replace(child=None, orphans=child if child.alive else None))


def lose_worker(world: World, i: int) -> World:
    node = world.nodes[i]
    frozen = tuple(one for one in node.frozen if one != "worker")
    gone = node._replace(situation=None, connected=False, granted=False, believed=0, inbox=None, frozen=frozen)
    gone = gone._replace(survey=Surveyed())
    unread = node.child is not None and node.child.stage == "ordered"
    if world.rules.discards_prepared and not (unread and world.rules.guardian_hears_last_words):
        gone = gone._replace(prepared=0)
    world = set_node(world, i, gone)
    return swept(everywhere(world, lambda pg: pg.orphan(node.who)) if node.connected else world)


def crash(world: World, i: int) -> World:
    """The host dies with everything on it; the server hears nothing."""
    world = lose_worker(world, i)
    gone = world.nodes[i]._replace(up=False, child=None, prepared=0, orphans=None, stray=None, frozen=())
    return set_node(world, i, gone)


# ------------------------------------------------------------------------------------------------------ freeze and thaw


def freeze(world: World, i: int, *what: str) -> World:
    return set_node(world, i, world.nodes[i]._replace(frozen=what, frozen_at=clock(world, i)))


def thaw(world: World, i: int) -> World:
    """All go on at once. Clocks have run: what a keeper owes by now comes before anything that a child could do."""
    node, now = world.nodes[i], clock(world, i)
    frozen, child = node.frozen, node.child
    world = set_node(world, i, node._replace(frozen=(), frozen_at=0.0))
    if child is not None and "keeper" in frozen:
        world = set_child(world, i, _awakened(child, now, "child" in frozen, world.rules.keeper_keeps_deadline))
    orphans = node.orphans
    if orphans is not None and "child" in frozen and orphans.killed_at is not None:
        world = set_node(world, i, world.nodes[i]._replace(orphans=None))
    return world


def _awakened(child: Child, now: float, whole_node: bool, keeps_deadline: bool) -> Child:
    if child.entrusted is not None:
        _, deadline, memo_ = child.entrusted
        child = child._replace(deadline=deadline, memo=memo_, entrusted=None)
    to_kill = child.to_kill or (now >= child.deadline and keeps_deadline)
    child = child._replace(to_kill=False)
    if not (to_kill and child.alive) and not (whole_node and child.killed_at is not None):
        return child
    return child._replace(stage="empty") if whole_node else child.kill(now)
