"""Misfortunes and orders. What happens for nothing must have a cost, so that each search says how much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from property.world import World, backend, believes, set_node, set_server, swept
from property.world_node import Node
from property.world_postgres import Postgres
from property.world_processes import child_fault, crash, freeze, kill_keeper, lose_worker
from property.world_session import cancel, reset
from property.world_turn import cut, tell

from highlanderd.core import words as w

Way = tuple[tuple[str, ...], Callable[[], World]]


def faults(world: World) -> Iterator[Way]:
    """List the misfortunes that may happen now."""
    poorer, rules = world._replace(faults=world.faults - 1), world.rules
    for n, ask in enumerate(world.asks):
        if rules.allows("stall", ask.who[0]) and not ask.slow and not ask.hung and believes(world, ask.who):
            asks = (*world.asks[:n], ask._replace(slow=True), *world.asks[n + 1 :])
            yield ("a message stalls", ask.who[0]), partial(poorer._replace, asks=asks)
        if rules.allows("cancel", ask.who[0]) and ask.hung and backend(world, ask.who) is not None:
            yield ("somebody cancels the wait for the standby", ask.who[0]), partial(cancel, poorer, ask)
    if len(world.servers) == 1 and world.pg.standby is None:
        for kind, words, fault in _SERVER_FAULTS:
            if kind in rules.kinds and world.pg.backends:
                yield (words,), partial(_to_server, poorer, fault)
    for i, node in enumerate(world.nodes):
        for kind, possible, happen in _NODE_FAULTS:
            if rules.allows(kind, node.name) and possible(world, node):
                yield (kind, node.name), partial(happen, poorer, i)


def _to_server(world: World, fault: Callable[[Postgres], Postgres]) -> World:
    return swept(set_server(world, world.pg, fault(world.pg)))


def _falls_behind(pg: Postgres) -> Postgres:
    """An asynchronous standby receives nothing any more; the primary goes on, until it is gone."""
    return pg._replace(standby=pg.ledger)


def isolated_primary(pg: Postgres) -> Postgres:
    """A synchronous standby receives nothing any more, so the primary acknowledges nothing, for as long as it lives."""
    return pg._replace(standby=pg.ledger, isolated=True)


_SERVER_FAULTS: tuple[tuple[str, str, Callable[[Postgres], Postgres]], ...] = (
    ("restart", "PostgreSQL restarts", Postgres.restart),
    ("upgrade", "PostgreSQL runs on under another system identifier", Postgres.upgrade),
    ("failover", "the asynchronous standby falls behind", _falls_behind),
    ("isolate", "the primary is cut off from its synchronous standby", isolated_primary),
)


def _terminated(world: World, i: int) -> World:
    """A backend that waits for a standby commits when it is terminated; its client is not answered."""
    hung = next((ask for ask in world.asks if ask.hung and ask.who == world.nodes[i].who), None)
    return reset(world if hung is None else cancel(world, hung), i)


def _child_is(*stages: str) -> Callable[[World, Node], bool]:
    return lambda _world, node: node.child is not None and node.child.stage in stages and not node.child.slow


def _has_keeper(_world: World, node: Node) -> bool:
    return node.child is not None and node.child.stage in ("forked", "running", "left") and not node.child.silent


def _thawed(_world: World, node: Node) -> bool:
    return node.up and not node.frozen


def _no_orphans(world: World, node: Node) -> bool:
    bereaved = node.orphans is not None or (node.child is not None and node.child.silent and node.child.alive)
    return _thawed(world, node) and not bereaved


def _has_session(world: World, node: Node) -> bool:
    return node.connected and node.awake and backend(world, node.who) is not None


_NODE_FAULTS: tuple[tuple[str, Callable[[World, Node], bool], Callable[[World, int], World]], ...] = (
    ("cut", lambda _, node: node.connected and node.awake, cut),
    ("reset", _has_session, _terminated),
    ("worker", lambda _, node: node.situation is not None, lose_worker),
    ("crash", lambda _, node: node.up, crash),
    ("exit", _child_is("running"), lambda world, i: child_fault(world, i, stage="left")),
    ("stall", _child_is("ordered", "forked"), lambda world, i: child_fault(world, i, slow=True)),
    ("keeper", lambda world, node: _has_keeper(world, node) and "guardian" not in node.frozen, kill_keeper),
    ("busy", lambda _, node: node.awake and node.inbox is None, lambda world, i: _busy(world, i)),
    ("freeze worker", lambda world, node: _thawed(world, node) and node.awake, lambda x, i: freeze(x, i, "worker")),
    ("freeze keeper", lambda x, node: _thawed(x, node) and _has_keeper(x, node), lambda x, i: freeze(x, i, "keeper")),
    ("freeze guardian", _no_orphans, lambda world, i: freeze(world, i, "guardian")),
    (
        "freeze worker and keeper",
        lambda x, node: _thawed(x, node) and node.awake and _has_keeper(x, node),
        lambda world, i: freeze(world, i, "worker", "keeper"),
    ),
    (
        "freeze worker and guardian",
        lambda world, node: node.awake and _no_orphans(world, node),
        lambda world, i: freeze(world, i, "worker", "guardian"),
    ),
    ("freeze node", _thawed, lambda world, i: freeze(world, i, "worker", "guardian", "keeper", "child")),
)


def _busy(world: World, i: int) -> World:
    """The program's task has no turn; its session goes on by itself, and what it tells waits in the inbox."""
    return set_node(world, i, world.nodes[i]._replace(inbox=()))


def orders(world: World) -> Iterator[Way]:
    """List the orders that an operator may give now."""
    poorer = world._replace(orders=world.orders - 1)
    for i, node in enumerate(world.nodes):
        if not node.awake or node.inbox is not None:
            continue
        for kind, order, wish in _ORDERS:
            if world.rules.allows(kind, node.name):
                told = set_node(poorer, i, node._replace(wish=wish or node.wish))
                yield (f"ordered to {kind}", node.name), partial(tell, told, i, order)


_ORDERS: tuple[tuple[str, w.Event, w.Want | None], ...] = (
    ("stop", w.StopOrdered(), w.Want.STOP),
    ("start", w.StartOrdered(), w.Want.RUN),
    ("release", w.ReleaseOrdered(None, 10), None),
    ("reserve", w.ReleaseOrdered("B", 10), None),
    ("again", w.RestartOrdered(), None),
    ("end", w.EndOrdered(w.Cause.SHUTDOWN), w.Want.END),
)
