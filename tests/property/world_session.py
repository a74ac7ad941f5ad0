"""What happens between a node and PostgreSQL: statements are applied one by one, and answers heard."""

from __future__ import annotations

from property.world import Ask, Violation, World, set_node, swept
from property.world_postgres import Notify, Statement, TakeOverIf, TerminateOld, UnlockAll
from property.world_turn import tell

from highlanderd.core import words as w

REFUSED_RETRY = 4
"""Ticks until a lock that another session holds is tried again."""


def attach(world: World, i: int) -> World:
    node = world.nodes[i]
    node = node._replace(number=node.number + 1, connected=True, granted=False)
    world = set_node(world._replace(pg=world.pg.connect(node.who, world.now)), i, node)
    return tell(world, i, w.Attached(node.number))


def reset(world: World, i: int) -> World:
    """The server's end of the session dies first."""
    return swept(world._replace(pg=world.pg.end(world.nodes[i].who)))


def apply(world: World, ask: Ask) -> World:
    """One statement and its Sync: committed by itself."""
    statement, *later = ask.statements
    before = world.pg.row.epoch if world.pg.row else 0
    pg, reply = statement.on(world.pg, ask.who)
    changed = ask._replace(statements=tuple(later), replies=(*ask.replies, reply))
    asks = tuple(changed if one is ask else one for one in world.asks)
    world = world._replace(pg=pg.touch(ask.who, world.now), asks=asks)
    if isinstance(statement, TakeOverIf) and reply.changed and statement.claim.epoch <= before:
        raise Violation(f"a term begins under epoch {statement.claim.epoch}, which is not above {before}")
    if not isinstance(statement, Notify):
        return swept(world)
    for i, node in enumerate(world.nodes):
        if node.connected and world.pg.backend(node.who) is not None and node.name != ask.who[0]:
            world = tell(world, i, w.Notified())
    return world


def answer(world: World, ask: Ask) -> World:
    """The client hears the replies, as ``session.py`` reads them: an event, or a statement that must follow."""
    i = next(n for n, node in enumerate(world.nodes) if node.who == ask.who)
    world = world._replace(asks=tuple(one for one in world.asks if one is not ask))
    node = world.nodes[i]
    if ask.then is not None:
        return tell(world, i, ask.then)
    reply = ask.replies[0]
    sent = world.now if world.rules.trusts_from_arrival else ask.sent
    match ask.effect:
        case w.Look() if reply.sight is not None:
            at = ask.sent if world.rules.looks_from_sending else world.now
            return tell(world, i, w.Looked(reply.sight, at, node.child is None))
        case w.WriteSettled():
            return tell(world, i, w.Settled())
        case w.TakeOver(claim) if reply.changed:
            world = set_node(world, i, node._replace(granted=True))
            return tell(world, i, w.Granted(claim.epoch, claim.lease, sent))
        case w.TakeOver():
            refused = w.Refused(0 if reply.granted else REFUSED_RETRY, "")
            return _follow_up(world, ask, UnlockAll(), refused)
        case w.Renew() if reply.changed:
            world = set_node(world, i, node._replace(granted=True))
            return tell(world, i, w.Renewed(sent))
        case w.Renew(epoch) if not reply.granted:
            return _follow_up(world, ask, TerminateOld(epoch, node.instance, node.first), w.Contended())
        case w.Renew():
            return tell(world, i, w.Overruled())
        case w.Release():
            world = set_node(world, i, node._replace(granted=False))
            return tell(world, i, w.Unlocked())
    raise AssertionError(ask)


def _follow_up(world: World, ask: Ask, statement: Statement, then: w.Event) -> World:
    follow = Ask(ask.who, None, world.now, (statement,), then=then)
    return world._replace(asks=(*world.asks, follow))
