"""Renewals that another program's session asks for: sent, executed on any server, heard, or given up and asked alone.

Stands in for ``renewal_batch.py``. What the program whose session asks is about is left out: its session may be with
any server, its statement may come at any time, also long after nobody waits for it, or never, and so may the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil

from highlanderd.core.events import Renewed
from highlanderd.core.lease import Lengths
from tests.exploration.world import Ask, Batch, Violation, World, clock, everywhere, set_server
from tests.exploration.world_node import Node
from tests.exploration.world_postgres import Postgres
from tests.exploration.world_statements import RenewIf
from tests.exploration.world_turn import news, stands

Way = tuple[tuple[str, ...], Callable[[], World]]


def owner(world: World, batch: Batch) -> int | None:
    """Return the node that still waits for the answer."""
    return next((i for i in range(len(world.nodes)) if stands(world, i, batch)), None)


def ways(world: World, *, slow: bool) -> Iterator[Way]:
    """List what may happen to them: what is late, or nobody waits for, may happen at any time."""
    for batch in world.batches:
        i = owner(world, batch)
        if (batch.slow or i is None) is not slow:
            continue
        if batch.reply is None and not batch.hung:
            for pg in world.servers:
                yield ("the server applies for another session", batch.who[0]), partial(execute, world, batch, pg)
        elif i is not None and batch.reply is not None and world.nodes[i].awake:
            yield ("another session was answered", batch.who[0]), partial(hear, world, batch, i)
        if i is None:
            yield ("another session's statement is lost", batch.who[0]), partial(_without, world, batch)


def stalls(world: World) -> Iterator[Way]:
    """List the ways in which one of them may be late."""
    for batch in world.batches:
        if world.rules.allows("stall", batch.who[0]) and not batch.slow and owner(world, batch) is not None:
            late = partial(_changed, world, batch, batch._replace(slow=True))
            yield ("another session's message stalls", batch.who[0]), late


def execute(world: World, batch: Batch, pg: Postgres) -> World:
    """It is committed, or waits for a standby for ever."""
    after, reply = batch.statement.on(pg, batch.who)
    if reply.changed and pg.holder(batch.statement.lock_id) is None:
        raise Violation(f"{batch.who[0]} is renewed by another session, and nobody holds its lock")
    if pg.isolated and reply.changed:
        return _changed(world, batch, batch._replace(hung=True))
    done = batch._replace(reply=reply)
    world = _changed(world, batch, done)
    world = set_server(world, pg, after)
    return world if owner(world, done) is not None else _without(world, done)


def hear(world: World, batch: Batch, i: int) -> World:
    """The batch tells a program of its renewal if nothing else has changed; else the program asks alone."""
    reply, lease = batch.reply, batch.renew.lease
    world = _without(world, batch)
    if reply is None or not reply.changed or reply.lengths != (lease, lease):
        return alone(world, batch, i)
    world = _kept_alive(world, i)
    sent = clock(world, i) if world.rules.trusts_from_arrival else batch.sent
    return news(world, i, Renewed(sent, Lengths(lease, lease, lease)))


def _kept_alive(world: World, i: int) -> World:
    """Its own session says something, if it has been silent for half a lease."""
    node = world.nodes[i]

    def said(pg: Postgres) -> Postgres:
        backend = pg.backend(node.who)
        silent = backend is not None and not backend.orphaned and world.now - backend.idle_since > node.pace.length / 2
        return pg.touch(node.who, world.now) if silent else pg

    return everywhere(world, said)


def give_up(world: World, batch: Batch, i: int) -> World:
    """No answer in time: its own session asks, and the statement may still be on its way."""
    world = _changed(world, batch, batch._replace(awaited=False))
    return alone(world, batch, i)


def alone(world: World, batch: Batch, i: int) -> World:
    """Ask on its own session."""
    node = world.nodes[i]
    statement = batch.statement
    renew = RenewIf(*statement[:4], not node.granted, statement.flaws)
    ask = Ask(node.who, batch.renew, clock(world, i), (renew,))
    return world._replace(asks=(*world.asks, ask))


def dues(world: World, node: Node) -> Iterator[float]:
    """When each is given up, by its node's clock."""
    for batch in world.batches:
        if batch.who == node.who and batch.awaited:
            yield batch.sent + ceil(node.pace.together_within)


def overdue(world: World, i: int) -> Batch | None:
    """Return one that is to be given up."""
    node = world.nodes[i]
    limit = clock(world, i) - node.pace.together_within
    late = (batch for batch in world.batches if node.awake and stands(world, i, batch) and batch.sent <= limit)
    return next(late, None)


def _without(world: World, batch: Batch) -> World:
    return world._replace(batches=tuple(one for one in world.batches if one is not batch))


def _changed(world: World, batch: Batch, after: Batch) -> World:
    return world._replace(batches=tuple(after if one is batch else one for one in world.batches))
