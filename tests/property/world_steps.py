"""Every way on from a world. What may take long may happen now or later; what must not happen for nothing has a cost.

Time moves on only when nothing prompt is left to happen: a stalled message, like a crash, takes from a budget. It moves
to the next moment at which a clock of somebody's says something: what happens in between happens at one of its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil

from property.world import LEASE, Rules, World, beginning, believes, set_child, set_node, swept
from property.world_node import GRACE, Node
from property.world_postgres import Notify, Who
from property.world_processes import boot, child_fault, crash, execute, hear_child, lose_worker, start_worker
from property.world_session import answer, apply, attach, reset
from property.world_turn import cut, detach, tell

from highlanderd.core import machine
from highlanderd.core import words as w

Label = tuple[str, ...]


Way = tuple[Label, Callable[[], World]]


def led(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads, its child runs, and the others know it: where most stories begin."""
    world = beginning(rules, names, 0, 0)
    while not _settled_down(world):
        world = next(go for _, go in steps(world))()
    return world._replace(faults=faults, orders=orders)


def _settled_down(world: World) -> bool:
    first, *others = world.nodes
    leading = first.situation is not None and isinstance(first.situation.state, w.Leading)
    knowing = all(
        node.situation is not None and node.situation.knowledge.versions and node.situation.link is w.Link.IDLE
        for node in others
    )
    running = first.child is not None and first.child.told > 0
    return leading and running and knowing and not world.asks


def steps(world: World) -> Iterator[Way]:
    """List what can happen next: first what is prompt, then what may happen, then faults, then time."""
    alone = None if world.faults or world.orders else _minding_itself(world)
    if alone is not None:
        yield from _near(world, alone, slow=False)
        yield from _answers(world, alone)
        yield from _near(world, alone, slow=True)
        yield from _leisurely(world, alone)
        return
    prompt = [*_travelling(world, slow=False), *(way for i in _indexes(world) for way in _near(world, i, slow=False))]
    yield from prompt
    yield from _travelling(world, slow=True)
    for i in _indexes(world):
        yield from _near(world, i, slow=True)
        yield from _leisurely(world, i)
    if world.faults:
        yield from _faults(world)
    if world.orders:
        yield from _orders(world)
    if not prompt and (moment := _next_moment(world)) is not None:
        yield ("time", f"{moment:g}"), partial(_pass, world, moment)


def _minding_itself(world: World) -> int | None:
    """Give a node with something prompt to hear, when nobody else can make a difference to it or see one.

    With no fault and no order left, whatever others do next can as well be done after it: exploring their order, too,
    would only show the same worlds again. A notification on its way is the one thing of others that it would notice.
    """
    if any(isinstance(statement, Notify) for ask in world.asks for statement in ask.statements):
        return None
    for i, node in enumerate(world.nodes):
        child = node.child
        news = node.situation is not None and child is not None and child.told < len(child.facts())
        here = not node.connected or world.pg.backend(node.who) is not None
        if here and (news or any(True for _ in _answers(world, i))):
            return i
    return None


def _answers(world: World, i: int) -> Iterator[Way]:
    for ask in world.asks:
        if ask.who == world.nodes[i].who and not ask.statements and not ask.slow and world.nodes[i].connected:
            yield ("answered", ask.who[0]), partial(answer, world, ask)


def _indexes(world: World) -> range:
    return range(len(world.nodes))


def _travelling(world: World, *, slow: bool) -> Iterator[Way]:
    """Statements reach the server one by one, and answers the client; of a lost session only what the server holds."""
    for ask in world.asks:
        backend = world.pg.backend(ask.who)
        lost = not believes(world, ask.who)
        if (ask.slow or lost) is not slow:
            continue
        if ask.statements and backend is not None:
            name = type(ask.statements[0]).__name__
            yield ("the server applies", ask.who[0], name), partial(apply, world, ask)
        elif not ask.statements and not lost:
            yield ("answered", ask.who[0]), partial(answer, world, ask)


def _near(world: World, i: int, *, slow: bool) -> Iterator[Way]:
    """What happens between worker, guardian and keeper of one node."""
    node = world.nodes[i]
    child = node.child
    if child is None:
        return
    if child.stage == "ordered" and child.slow is slow:
        yield ("the guardian takes the order", node.name), partial(execute, world, i)
    if slow:
        return
    if node.situation is not None and child.told < len(child.facts()):
        yield ("the worker hears of its child", node.name), partial(hear_child, world, i)
    if child.alive and child.killed_at is not None and world.now >= child.killed_at + GRACE:
        yield ("the tree is empty at last", node.name), partial(set_child, world, i, child._replace(stage="empty"))


def _leisurely(world: World, i: int) -> Iterator[Way]:
    """What may happen now or at any later time, for nothing."""
    node, pg = world.nodes[i], world.pg
    child = node.child
    if not node.up:
        yield ("the host is back", node.name), partial(boot, world, i)
    elif node.situation is None and not node.ended:
        yield ("a new worker starts", node.name), partial(start_worker, world, i)
    elif node.situation is not None and not node.connected and (world.rules.reconnects or not node.number):
        yield ("a session is up", node.name), partial(attach, world, i)
    elif node.situation is not None and pg.backend(node.who) is None:
        yield ("hears that its session is gone", node.name), partial(detach, world, i)
    for backend in pg.backends:
        if backend.orphaned and backend.who[0] == node.name:
            ended = world._replace(pg=pg.end(backend.who))
            yield ("the server notices a lost client", *map(str, backend.who)), partial(swept, ended)
    if child is not None and child.alive:
        if child.killed_at is not None or (child.signalled and child.stage == "running") or child.stage == "left":
            yield ("the tree is empty", node.name), partial(set_child, world, i, child._replace(stage="empty"))
        if child.signalled and child.stage == "running":
            yield ("the main process ends", node.name), partial(set_child, world, i, child._replace(stage="left"))


def _faults(world: World) -> Iterator[Way]:
    poorer, rules = world._replace(faults=world.faults - 1), world.rules
    for n, ask in enumerate(world.asks):
        if rules.allows("stall", ask.who[0]) and not ask.slow and believes(world, ask.who):
            asks = (*world.asks[:n], ask._replace(slow=True), *world.asks[n + 1 :])
            yield ("a message stalls", ask.who[0]), partial(poorer._replace, asks=asks)
    if "restart" in rules.kinds and world.pg.backends:
        yield ("PostgreSQL restarts",), partial(swept, poorer._replace(pg=world.pg.restart()))
    for i, node in enumerate(world.nodes):
        for kind, possible, fault in _NODE_FAULTS:
            if rules.allows(kind, node.name) and possible(world, node):
                yield (kind, node.name), partial(fault, poorer, i)


def _orders(world: World) -> Iterator[Way]:
    poorer = world._replace(orders=world.orders - 1)
    for i, node in enumerate(world.nodes):
        if node.situation is None:
            continue
        for kind, order, wish in _ORDERS:
            if world.rules.allows(kind, node.name):
                told = set_node(poorer, i, node._replace(wish=wish or node.wish))
                yield (f"ordered to {kind}", node.name), partial(tell, told, i, order)


_ORDERS: tuple[tuple[str, w.Event, w.Want | None], ...] = (
    ("stop", w.StopOrdered(), w.Want.STOP),
    ("start", w.StartOrdered(), w.Want.RUN),
    ("release", w.ReleaseOrdered(None, 10), None),
    ("again", w.RestartOrdered(), None),
    ("end", w.EndOrdered(w.Cause.SHUTDOWN), w.Want.END),
)


def _next_moment(world: World) -> float | None:
    """Give the next tick at which time itself changes something."""
    moments = [backend.idle_since + LEASE for backend in world.pg.backends]
    moments += [ask.sent + world.rules.lease.answer_within for ask in world.asks if believes(world, ask.who)]
    for node in world.nodes:
        if node.situation is not None:
            due = machine.deadline(node.situation, node.policy)
            moments += [] if due is None else [due]
        child = node.child
        if child is not None and child.alive:
            moments.append(child.deadline if child.killed_at is None else child.killed_at + GRACE)
    return min((ceil(moment) for moment in moments if moment > world.now), default=None)


def _pass(world: World, moment: float) -> World:
    world = world._replace(now=moment)
    for i, node in enumerate(world.nodes):
        child = node.child
        overdue = child is not None and child.alive and child.deadline <= moment
        if child is not None and overdue and world.rules.keeper_keeps_deadline:
            world = set_child(world, i, child.kill(moment))
    for backend in world.pg.backends:
        if backend.idle_since + LEASE <= moment:
            world = swept(world._replace(pg=world.pg.end(backend.who)))
            world = _when_connected(world, backend.who, detach)
    for ask in world.asks:
        if ask.sent + world.rules.lease.answer_within <= moment:
            world = _when_connected(world, ask.who, cut)
    for i in _indexes(world):
        world = tell(world, i)
    return world


def _when_connected(world: World, who: Who, happen: Callable[[World, int], World]) -> World:
    for i, node in enumerate(world.nodes):
        if node.connected and node.who == who:
            return happen(world, i)
    return world


def _child_is(stage: str) -> Callable[[World, Node], bool]:
    return lambda _world, node: node.child is not None and node.child.stage == stage and not node.child.slow


_NODE_FAULTS: tuple[tuple[str, Callable[[World, Node], bool], Callable[[World, int], World]], ...] = (
    ("cut", lambda _, node: node.connected, cut),
    ("reset", lambda world, node: node.connected and world.pg.backend(node.who) is not None, reset),
    ("worker", lambda _, node: node.situation is not None, lose_worker),
    ("crash", lambda _, node: node.up, crash),
    ("exit", _child_is("running"), lambda world, i: child_fault(world, i, stage="left")),
    ("stall", _child_is("ordered"), lambda world, i: child_fault(world, i, slow=True)),
    ("keeper", _child_is("running"), lambda world, i: child_fault(world, i, silent=True, killed_at=world.now)),
)
