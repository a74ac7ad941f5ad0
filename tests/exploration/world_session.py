"""What happens between a node and PostgreSQL: statements are applied one by one, and answers heard.

Stands in for the hearing half of ``session.py``: what counts as acknowledged, and which event an answer becomes.
``tests/integration/test_session.py`` asks the same of the session itself, against a real server.
"""

from __future__ import annotations

from highlanderd.core.effects import CloseTerms, Look, Release, Renew, TakeOver, WriteSettled
from highlanderd.core.events import (
    Attached,
    Contended,
    Event,
    Granted,
    LeaseRefused,
    Looked,
    Notified,
    Overruled,
    Refused,
    Renewed,
    Settled,
    Unlocked,
)
from highlanderd.core.lease import Lease, Lengths
from highlanderd.core.placement import Peers
from highlanderd.core.states import Waiting
from highlanderd.structs import replace
from tests.exploration.world import Ask, Violation, World, clock, ended, everywhere, set_node, set_server, swept
from tests.exploration.world_postgres import LAST_LOCKERS, Postgres
from tests.exploration.world_statements import (
    WRITES,
    CloseIf,
    HoldIf,
    LockName,
    Notify,
    ReleaseIf,
    RenewIf,
    Reply,
    Statement,
    TakeOverIf,
    TerminateOld,
    UnlockAll,
)
from tests.exploration.world_survey import admitted
from tests.exploration.world_turn import ask_hosts, cut, leads, news, share_again

REFUSED_RETRY = 4
"""Ticks until a lock that another session holds is tried again."""


def attach(world: World, i: int, server: int = -1) -> World:
    """Open a session, unless the server shows a past that this node has left behind."""
    if not world.nodes[i].met and world.rules.asks_hosts:
        world = ask_hosts(world, i)
    node, pg = world.nodes[i]._replace(met=True), world.servers[server]
    if pg.timeline < dict(node.memory).get(pg.system, 0):
        return set_node(world, i, node)
    own = not world.rules.shared or leads(node)
    joint = world.rules.joint and leads(node) and not node.apart
    node = node._replace(number=node.number + 1, connected=True, own=own, granted=False, pace=pg.ledger.lease)
    node = node._replace(joint=joint, apart=False)
    world = set_server(world, pg, pg.connect(node.who, world.now, node.pace.length, joint=joint))
    return news(set_node(world, i, node.learn(pg.system, pg.timeline)), i, Attached(node.number))


def may_attach(world: World, i: int, server: int = -1) -> bool:
    """Whether this server was not left behind, as far as the node knows."""
    pg = world.servers[server]
    return pg.timeline >= dict(world.nodes[i].memory).get(pg.system, 0)


def reset(world: World, i: int) -> World:
    """The server's end of the session dies first."""
    return ended(world, world.nodes[i].who)


# ------------------------------------------------------------------------------------------------------ at the server


def apply(world: World, ask: Ask) -> World:
    """One statement and its Sync: committed by itself, or, on a primary without its standby, waiting for that."""
    pg = next(pg for pg in world.servers if pg.backend(ask.who) is not None)
    statement, *later = ask.statements
    if world.rules.snapshots and isinstance(statement, TakeOverIf) and statement.alone is None:
        begun = ask._replace(statements=(statement.begun(pg), *later))
        return world._replace(asks=tuple(begun if one is ask else one for one in world.asks))
    after, reply = statement.on(pg, ask.who)
    _check(world, pg, statement, ask, reply)
    after = after.touch(ask.who, world.now)
    if pg.isolated and isinstance(statement, WRITES) and reply.changed:
        return _hang(world, ask, pg, after._replace(ledger=pg.ledger), reply)
    if isinstance(statement, ReleaseIf | CloseIf) and reply.changed:
        ledger = after.ledger._replace(reserved_at=world.now)
        after = after._replace(ledger=ledger, lockers_end=world.now + LAST_LOCKERS if after.lockers else 0.0)
    world = set_server(_answered(world, ask, reply, tuple(later)), pg, after)
    if isinstance(statement, LockName) and not world.rules.snapshots:
        return apply(world, next(one for one in world.asks if one.who == ask.who and one.statements == tuple(later)))
    return _notify(world, after, ask) if isinstance(statement, Notify) else swept(world)


def _answered(world: World, ask: Ask, reply: Reply, later: tuple[Statement, ...]) -> World:
    if ask.background:
        return world._replace(asks=tuple(one for one in world.asks if one is not ask))
    changed = ask._replace(statements=later, replies=(*ask.replies, reply), hung=False)
    return world._replace(asks=tuple(changed if one is ask else one for one in world.asks))


def _hang(world: World, ask: Ask, pg: Postgres, after: Postgres, reply: Reply) -> World:
    """What the statement did beside its write is done; the write is seen by nobody, and no answer counts."""
    if world.rules.counts_tags:
        return swept(set_server(_answered(world, ask, reply, ask.statements[1:]), pg, after))
    hung = tuple(one._replace(hung=True) if one is ask else one for one in world.asks)
    return set_server(world, pg, after)._replace(asks=hung)


def cancel(world: World, ask: Ask) -> World:
    """Somebody cancels the wait: committed here, lost at the standby, and the answer comes with a WARNING."""
    pg = next(pg for pg in world.servers if pg.backend(ask.who) is not None)
    after, reply = ask.statements[0].on(pg, ask.who)
    return set_server(_answered(world, ask, reply._replace(acknowledged=False), ask.statements[1:]), pg, after)


def _check(world: World, pg: Postgres, statement: Statement, ask: Ask, reply: Reply) -> None:
    """What the ledger must never be made to say."""
    if isinstance(statement, TakeOverIf | RenewIf | HoldIf) and reply.changed:
        holder = pg.holder(statement.lock_id)
        takes = statement.takes_lock if isinstance(statement, RenewIf) else not getattr(statement, "held", False)
        if holder not in (None, ask.who) or (holder is None and not takes):
            raise Violation(f"{ask.who[0]} writes its term into the ledger without the advisory lock")
    if isinstance(statement, TakeOverIf) and reply.changed and pg.ledger.suspended:
        raise Violation(f"{ask.who[0]} begins a term of a program that is stopped everywhere")
    if isinstance(statement, TakeOverIf) and reply.changed and statement.claim.run is not None:
        _check_time(pg, statement, ask)
    row = pg.row(statement.lock_id) if isinstance(statement, TakeOverIf) else None
    if not isinstance(statement, TakeOverIf) or not reply.changed or row is None:
        return
    if statement.claim.epoch <= row.epoch:
        raise Violation(f"a term begins under epoch {statement.claim.epoch}, which is not above {row.epoch}")
    kept = row.released and row.reserved_for not in (None, ask.who[0]) and row.epoch > _overridden(world, ask)
    if kept and world.now < pg.ledger.reserved_at + row.reserved_seconds:
        raise Violation(f"{ask.who[0]} takes over what is reserved for {row.reserved_for}")


def _check_time(pg: Postgres, statement: TakeOverIf, ask: Ask) -> None:
    """A time is begun once; it is repeated after the term that was begun for it, as long as that has not finished."""
    row, ledger = pg.row(statement.lock_id), pg.ledger
    repeated = row is not None and row.epoch == ledger.run_epoch and row.reason != "finished"
    if ledger.latest and not repeated:
        raise Violation(f"{ask.who[0]} begins a scheduled time that was begun before")


def _overridden(world: World, ask: Ask) -> int:
    """Return the epoch up to which an operator's ``start`` on this node overrides reservations."""
    states = [node.situation.state for node in world.nodes if node.name == ask.who[0] and node.situation]
    return max((state.overridden for state in states if isinstance(state, Waiting)), default=0)


def _notify(world: World, pg: Postgres, ask: Ask) -> World:
    for i, node in enumerate(world.nodes):
        if node.connected and node.awake and node.name != ask.who[0] and pg.backend(node.who) is not None:
            world = news(world, i, Notified())
    return swept(world)


# ------------------------------------------------------------------------------------------------------ at the client


def answer(world: World, ask: Ask) -> World:
    """The client hears the replies, as ``session.py`` reads them: an event, or a statement that must follow."""
    i = next(n for n, node in enumerate(world.nodes) if node.who == ask.who)
    world = world._replace(asks=tuple(one for one in world.asks if one is not ask))
    if ask.then is not None:
        return news(world, i, ask.then)
    reply = ask.replies[-3] if isinstance(ask.effect, Release) else ask.replies[-1]
    acknowledged = reply.acknowledged or world.rules.counts_warnings
    sent = clock(world, i) if world.rules.trusts_from_arrival else ask.sent
    match ask.effect:
        case Look() if reply.observation is not None:
            at = ask.sent if world.rules.looks_from_sending else clock(world, i)
            world = _follow(world, i, reply.observation.meta.lease)
            surveyed = admitted(world, i, reply.observation)
            world = set_node(world, i, world.nodes[i]._replace(survey=surveyed))
            found = Looked(reply.observation, at, _keeperless(world, i), _peers(world, i), ask.glimpse)
            world = news(world, i, replace(found, watched=surveyed.standing is not None))
            return share_again(world, i) if world.rules.shared else world
        case WriteSettled() | CloseTerms():
            return news(world, i, Settled())
        case TakeOver() if reply.changed and acknowledged and not ask.replies[-2].granted:
            return cut(world, i)  # the name was granted too late to know who else leads
        case TakeOver(claim) if reply.changed and acknowledged:
            world = set_node(world, i, world.nodes[i]._replace(granted=True))
            return news(world, i, Granted(claim.epoch, claim.lengths, sent))
        case TakeOver():
            return _follow_up(world, i, UnlockAll(), Refused(_retry(reply), ""))
        case Renew() | Release() if not acknowledged:
            return cut(world, i)
        case Renew() as renew:
            return _renewal_answered(world, i, renew, reply, sent)
        case Release():
            return news(world, i, Unlocked())
    raise AssertionError(ask)


def _peers(world: World, i: int) -> Peers:
    """Return whom placement goes by: nobody, or all other nodes."""
    others = {node.name: 0 for node in world.nodes if node is not world.nodes[i]}
    return Peers(others) if world.rules.placed else Peers()


def _retry(reply: Reply) -> float:
    """Return the ticks until a takeover that was refused is tried again: at once, if another session was faster."""
    return 0 if reply.granted and reply.acknowledged and not reply.blocked else REFUSED_RETRY


def _renewal_answered(world: World, i: int, renew: Renew, reply: Reply, sent: float) -> World:
    node, asked = world.nodes[i], renew.lease
    if reply.changed and reply.lengths is not None:
        wanted, pace = reply.lengths
        world = _follow(set_node(world, i, node._replace(granted=True)), i, pace)
        return news(world, i, Renewed(sent, Lengths(asked, wanted, pace)))
    if not reply.granted:
        terminate = TerminateOld(node.lock_id, renew.epoch, node.instance, node.first)
        return _follow_up(world, i, terminate, Contended())
    return news(world, i, LeaseRefused(node.pace) if asked.length > node.pace.length else Overruled())


def _follow(world: World, i: int, lease: Lease) -> World:
    """Go by the ledger's lease, in the session's timeout too."""
    node = world.nodes[i]
    if node.pace == lease:
        return world
    world = everywhere(world, lambda pg: pg.limit(node.who, lease.length))
    return set_node(world, i, node._replace(pace=lease))


def _keeperless(world: World, i: int) -> bool:
    """Whether the guardian holds nothing, as far as this worker was told."""
    node = world.nodes[i]
    return node.child is None and (node.orphans is None or not world.rules.guardian_tells_of_orphans)


def _follow_up(world: World, i: int, statement: Statement, then: Event) -> World:
    follow = Ask(world.nodes[i].who, None, clock(world, i), (statement,), then=then)
    return world._replace(asks=(*world.asks, follow))
