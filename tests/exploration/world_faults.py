"""Misfortunes and orders. What happens for nothing must have a cost, so that each search says how much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from highlanderd.core.events import (
    EndOrdered,
    Event,
    FoundUnhealthy,
    FoundUnready,
    ReleaseOrdered,
    RestartOrdered,
    StartOrdered,
    StopOrdered,
)
from highlanderd.core.lease import Lease
from highlanderd.core.states import Cause, Leading, Ready, Running, Want
from tests.exploration import world_batch
from tests.exploration.world import LEASE, LENGTHS, LONGER, World, backend, believes, set_node, set_server, swept
from tests.exploration.world_node import Node
from tests.exploration.world_postgres import Ledger, Postgres
from tests.exploration.world_processes import child_fault, crash, freeze, kill_keeper, lose_worker
from tests.exploration.world_session import cancel, reset
from tests.exploration.world_turn import cut, leave, tell

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
    yield from world_batch.stalls(poorer)
    for kind, words, may_be, changed in _LEDGER_FAULTS:
        if kind in rules.kinds and may_be(world):
            yield (words,), partial(changed, poorer)
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


def _new_place(world: World, ledger: Ledger) -> World:
    """Another ledger stands where one was, under the same run of the server."""
    place = str(int(world.pg.ledger.place) + 1)
    return set_server(world, world.pg, world.pg._replace(ledger=ledger._replace(place=place), lockers=None))


def _recreate(world: World) -> World:
    """The ledger is dropped, and made anew from the printed schema, by somebody who remembers nothing."""
    lease = world.rules.lease
    return _new_place(world, Ledger(lease, lease, offsets=((world.pg.system, 0),)))


def _restore(world: World) -> World:
    """A dump is restored: rows and meta are as they were, and the settled place is the old one."""
    return world if world.dump is None else _new_place(world, world.dump)


def _first_place(world: World) -> bool:
    """Whether no ledger was replaced yet: two in a row outrun what nodes have seen."""
    return len(world.servers) == 1 and world.pg.ledger.place == "1"


def _rewind(world: World) -> World:
    """Rows are put back, in place, and once: what nobody has seen between two of these cannot be seen to go back."""
    if world.dump is None:
        return world
    ledger = world.pg.ledger._replace(rows=world.dump.rows, row_backends=world.dump.row_backends)
    return set_server(world, world.pg, world.pg._replace(ledger=ledger))._replace(dump=None)


def _lockers(world: World) -> World:
    """Transactions of others that called ``assert_leader`` begin to overlap."""
    row = next(row for row in world.pg.ledger.rows if not row.released)
    return set_server(world, world.pg, world.pg._replace(lockers=(row.lock_id, row.epoch), lockers_end=0.0))


def _revive(world: World) -> World:
    """The primary that died at the failover is started again, beside the promoted one."""
    if world.former is None:
        return world
    old = world.former.restart()._replace(standby=None, run=world.former.run + 100)
    return world._replace(servers=(old, *world.servers), former=None, divided_at=world.now)


_LEDGER_FAULTS: tuple[tuple[str, str, Callable[[World], bool], Callable[[World], World]], ...] = (
    ("recreate", "the ledger is dropped and made anew", _first_place, _recreate),
    ("restore", "the ledger is restored from a dump", _first_place, _restore),
    ("rewind", "rows of the ledger are put back in place", lambda world: world.dump is not None, _rewind),
    (
        "lockers",
        "transactions that asserted the leader overlap",
        lambda world: world.pg.lockers is None and any(not row.released for row in world.pg.ledger.rows),
        _lockers,
    ),
    ("revive", "the old primary is started again", lambda world: world.former is not None, _revive),
)


def _terminated(world: World, i: int) -> World:
    """A backend that waits for a standby commits when it is terminated; its client is not answered."""
    hung = next((ask for ask in world.asks if ask.hung and ask.who == world.nodes[i].who), None)
    return reset(world if hung is None else cancel(world, hung), i)


def _child_is(*stages: str) -> Callable[[World, Node], bool]:
    return lambda _world, node: node.child is not None and node.child.stage in stages and not node.child.slow


def _has_keeper(_world: World, node: Node) -> bool:
    child = node.child
    return child is not None and child.stage in ("forked", "hooking", "running", "left") and not child.silent


def _thawed(_world: World, node: Node) -> bool:
    return node.up and not node.frozen


def _no_orphans(world: World, node: Node) -> bool:
    bereaved = node.orphans is not None or (node.child is not None and node.child.silent and node.child.alive)
    return _thawed(world, node) and not bereaved


def _has_session(world: World, node: Node) -> bool:
    return node.connected and node.awake and backend(world, node.who) is not None


def probed(node: Node, kind: type[Running | Ready]) -> bool:
    """Whether a worker asks its child: whether it is ready, or whether it still is."""
    state = None if node.situation is None or not node.awake or node.inbox is not None else node.situation.state
    return isinstance(state, Leading) and isinstance(state.child, kind)


_NODE_FAULTS: tuple[tuple[str, Callable[[World, Node], bool], Callable[[World, int], World]], ...] = (
    ("cut", lambda _, node: node.connected and node.awake, cut),
    ("reset", _has_session, _terminated),
    ("leave", lambda _, node: node.connected and node.joint and node.awake, leave),
    ("worker", lambda _, node: node.situation is not None, lose_worker),
    ("crash", lambda _, node: node.up, crash),
    ("exit", _child_is("running"), lambda world, i: child_fault(world, i, stage="left")),
    ("unhealthy", lambda _, node: probed(node, Ready), lambda world, i: tell(world, i, FoundUnhealthy("", 0.0))),
    ("delayed", lambda _, node: probed(node, Running), lambda x, i: tell(x, i, FoundUnready("", x.now + LEASE))),
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


def order_lengths(world: World, kind: str) -> World:
    """A longer lease is promised first: by the ceiling, which every server that may be promoted has to have."""
    longer = Lease(LONGER)
    if kind not in ("lengthen", "maintain"):
        return change_lengths(world, kind, world.rules.lease)
    ledger = world.pg.ledger
    if not _settled(world.pg) or longer.length <= ledger.lease.length:
        return world
    if ledger.ceiling.length < longer.length:
        world = set_server(world, world.pg, world.pg._replace(ledger=ledger._replace(ceiling=longer)))
    return world._replace(intent=(kind, longer)) if world.rules.ceiling_first else change_lengths(world, kind, longer)


def _settled(pg: Postgres) -> bool:
    return pg.ledger.settled == (pg.system, pg.timeline, pg.ledger.place)


def replicated_to_all(pg: Postgres, longer: Lease) -> bool:
    """Whether every server that may be promoted has the ceiling on its disk; an isolated one confirms nothing."""
    return not pg.isolated and (pg.standby is None or pg.standby.ceiling.length >= longer.length)


def change_lengths(world: World, kind: str, lease: Lease) -> World:
    """Change what leaders are to write; nothing, where the ceiling does not allow it."""
    ledger, world = world.pg.ledger, world._replace(intent=None)
    if kind in ("lengthen", "maintain") and ledger.ceiling.length < lease.length:
        return world
    match kind:
        case "lengthen" | "shorten":
            ledger = ledger._replace(lease=lease)
        case "maintain":
            ledger = ledger._replace(maintenance=lease)
        case "relax":
            ledger = ledger._replace(maintenance=None)
    return set_server(world, world.pg, world.pg._replace(ledger=ledger))


def orders(world: World) -> Iterator[Way]:
    """List the orders that an operator may give now."""
    poorer = world._replace(orders=world.orders - 1)
    for kind in LENGTHS:
        if kind in world.rules.kinds and not world.pg.isolated and world.intent is None:
            yield (f"ordered to {kind}",), partial(order_lengths, poorer, kind)
    for kind, suspended in (("suspend", True), ("resume", False)):
        if kind in world.rules.kinds and not world.pg.isolated and world.pg.ledger.suspended is not suspended:
            ledger = world.pg.ledger._replace(suspended=suspended)
            ordered = partial(set_server, poorer, world.pg, world.pg._replace(ledger=ledger))
            yield (f"ordered to {kind} everywhere",), ordered
    for i, node in enumerate(world.nodes):
        if not node.awake or node.inbox is not None:
            continue
        for kind, order, wish in _ORDERS:
            if world.rules.allows(kind, node.name):
                told = set_node(poorer, i, node._replace(wish=wish or node.wish))
                yield (f"ordered to {kind}", node.name), partial(tell, told, i, order)
        if node.host == 0 and world.rules.allows("move", node.name):
            yield ("moved to the other server", node.name), partial(_move, poorer, i)


def _move(world: World, i: int) -> World:
    """Its DSN names the last server from now on, and its session with the first one is dropped."""
    moved = set_node(world, i, world.nodes[i]._replace(host=-1))
    return cut(moved, i) if world.nodes[i].connected else moved


_ORDERS: tuple[tuple[str, Event, Want | None], ...] = (
    ("stop", StopOrdered(), Want.STOP),
    ("start", StartOrdered(), Want.RUN),
    ("release", ReleaseOrdered(None, 10), None),
    ("reserve", ReleaseOrdered("B", 10), None),
    ("again", RestartOrdered(), None),
    ("end", EndOrdered(Cause.SHUTDOWN), Want.END),
)
