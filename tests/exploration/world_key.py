"""When two worlds are the same: all that decides what can still happen, with time, epochs and versions made relative.

A leader that renews and a node that looks then walk in a circle, so that a search can see *all* that can be reached.
What is a node's own is kept with it and without its name: where nothing tells the nodes apart, worlds in which they
have changed places are one.
"""

from __future__ import annotations

from math import inf
from typing import Any

from highlanderd.core.effects import Renew
from highlanderd.core.events import Attached, Event, Granted, Looked, Renewed
from highlanderd.core.knowledge import Knowledge
from highlanderd.core.lease import Lengths
from highlanderd.core.observation import Glimpse, Observation, Row, ServerIdentity
from highlanderd.core.placement import FOR_PREFERRED
from highlanderd.core.states import (
    Backoff,
    Draining,
    Killing,
    Leading,
    Preparing,
    Ready,
    Releasing,
    Running,
    Situation,
    Spawning,
    State,
    Stopped,
    Stopping,
    Term,
    Waiting,
)
from tests.exploration.world import Ask, Batch, World
from tests.exploration.world_node import Child, Node
from tests.exploration.world_postgres import Ledger, Postgres
from tests.exploration.world_relative import OLD, Origin, Own
from tests.exploration.world_statements import (
    CloseIf,
    HoldIf,
    ReleaseIf,
    RenewIf,
    SettleOn,
    TakeOverIf,
    TerminateOld,
    UnlockOne,
)


def key(world: World) -> Any:
    """Return the world's identity."""
    o = Origin(world)
    nodes = [hash(_node(Own(o, world, i), world)) for i in range(len(world.nodes))]
    if o.alike:
        nodes.sort()
    ledgers = (world.pg.ledger,) if world.pg.standby is None else (world.pg.ledger, world.pg.standby)
    oldest = min((row.epoch for ledger in ledgers for row in ledger.rows), default=0)
    return (
        tuple(_server(pg, o, world.now) for pg in world.servers),
        tuple(nodes),
        _rest(world, o),
        world.faults,
        world.orders,
        tuple((lock_id, o.epoch(lock_id, epoch)) for lock_id, epoch in world.executed),
        tuple(sorted({(lock_id, epoch - oldest) for lock_id, epoch in world.release_sent if epoch >= oldest})),
        world.now if world.rules.horizon < inf else None,
    )


def _rest(world: World, o: Origin) -> Any:
    """What most worlds have nothing of."""
    watch = world.watch.use and (world.watch.use, max(world.watch.since - world.now, OLD))
    since = None if world.two_since is None else world.two_since - world.now
    divided = None if world.divided_at is None else max(world.divided_at - world.now, OLD)
    dumped = world.dump and _ledger(world.dump, o, world.now)
    former = world.former and _ledger(world.former.ledger, o, world.now)
    return world.intent, watch, since, divided, dumped, former


# -------------------------------------------------------------------------------------------------------- the servers


def _server(pg: Postgres, o: Origin, now: float) -> Any:
    standby = pg.standby and _ledger(pg.standby, o, now)
    lockers = pg.lockers and (pg.lockers[0], o.epoch(*pg.lockers), max(pg.lockers_end - now, 0.0))
    arrived = pg.subscribed and tuple(_row(row, o) for row in pg.subscribed)
    ledger = _ledger(pg.ledger, o, now)
    return pg.run, pg.system, pg.timeline, pg.isolated, ledger, standby, lockers, arrived


def _ledger(ledger: Ledger, o: Origin, now: float) -> Any:
    rows = tuple((row.lock_id, row.epoch >> 32, _row(row, o), row.reserved_for is None) for row in ledger.rows)
    reserved = any(row.reserved_for is not None for row in ledger.rows)
    lengths = ledger.lease.length, ledger.ceiling.length, ledger.wanted.length
    about = ledger.settled, ledger.settled_place, ledger.place, ledger.offsets, lengths, ledger.suspended
    begun = ledger.latest, any(row.epoch == ledger.run_epoch for row in ledger.rows)
    return about, begun, rows, max(ledger.reserved_at - now, OLD) if reserved else None


def _row(row: Row, o: Origin) -> Any:
    version = o.version(row.lock_id, row.version)
    return version, row.system, row.timeline, row.released, row.trusted_for, row.reason, row.reserved_seconds


def _ownership(own: Own, world: World) -> Any:
    """Say what of the servers is this node's."""
    name = own.node.name
    found = []
    for pg in world.servers:
        backends = tuple(
            (own.number(one.who), round(one.idle_since - world.now, 4), one.idle_limit, one.orphaned, one.joint)
            for one in pg.backends
            if one.who[0] == name
        )
        held = tuple((lock_id, own.number(who)) for lock_id, who in pg.holders if who[0] == name)
        ledgers = (pg.ledger,) if pg.standby is None else (pg.ledger, pg.standby)
        rows = tuple(
            (row.lock_id, own.life(row.instance), row.reserved_for == name) for ledger in ledgers for row in ledger.rows
        )
        living = {one.who for one in pg.backends}
        written = tuple(own.number(who) for _, who in pg.ledger.row_backends if who[0] == name and who in living)
        found.append((backends, held, rows, written))
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------- the nodes


def _node(own: Own, world: World) -> Any:
    node = own.node
    situation = None if node.situation is None else _situation(node.situation, own)
    trees = _child(node.child, own), _child(node.orphans, own), _child(node.stray, own)
    believed = node.believed - node.number if node.believed else None
    remembered = tuple(
        own.number(one.who)
        for pg in world.servers
        for one in pg.backends
        if one.who[0] == node.name and one.who[1] >= node.first
    )
    session = node.connected, node.own, node.granted, believed, remembered, node.lock_id, node.joint, node.apart
    frozen = node.frozen and (node.frozen, own.past(node.frozen_at))
    inbox = None if node.inbox is None else tuple(_event(event, own) for event in node.inbox)
    spawned = own.epoch(node.spawned) if node.spawned else None
    decides = not (world.rules.gate_waits and world.rules.compares_prepared)  # else it makes no difference
    prepared = own.epoch(node.prepared) if node.prepared and decides else None
    life = node.up, node.wish, node.draining, node.ended, node.met
    seen = node.pace.length, node.host, node.memory, node.generation
    name = None if own.origin.alike else node.name
    asks = tuple(_ask(ask, own) for ask in own.asks)
    survey = _survey(node, own) if world.rules.surveyed else None
    batches = tuple(_batch(batch, own) for batch in world.batches if batch.who[0] == node.name)
    told = inbox, asks, survey, batches
    return situation, session, trees, spawned, prepared, life, seen, frozen, told, name, _ownership(own, world)


def _survey(node: Node, own: Own) -> Any:
    glimpse, standing, at = node.survey
    rests = standing and (own.epoch(standing[0]), standing[1], own.past(at))
    return _glimpse(glimpse, own), rests


def _glimpse(glimpse: Glimpse | None, own: Own) -> Any:
    if glimpse is None:
        return None
    return _token(glimpse.server), own.origin.version(own.key, glimpse.version), own.past(glimpse.at)


def _child(child: Child | None, own: Own) -> Any:
    if child is None:
        return None
    killed = None if child.killed_at is None else own.past(child.killed_at)
    not_after = own.due(child.not_after) if child.stage in ("ordered", "forked") else 0
    memo = _state(child.memo.state, own), child.memo.want
    flags = (
        child.stage,
        child.executed,
        child.slow,
        child.signalled,
        child.silent,
        child.told,
        child.to_kill,
        child.ready,
        child.hooked,
        child.programmed,
        child.vetoed,
    )
    unread = child.entrusted
    entrusted = unread and (own.past(unread[0]), own.past(unread[1]), _state(unread[2].state, own), unread[2].want)
    return own.epoch(child.epoch), not_after, own.past(child.deadline), killed, memo, flags, entrusted


def _situation(situation: Situation, own: Own) -> Any:
    wished = situation.want, situation.suspension is not None
    return wished, situation.session, _known(situation.knowledge, own), _state(situation.state, own)


def _known(knowledge: Knowledge, own: Own) -> Any:
    """Return what still counts: the next look throws away knowledge of another run, or of a version that is gone."""
    server, o = knowledge.server, own.origin
    promised = own.beyond(knowledge.promised_until, own.now), knowledge.ceiling.length
    before = own.beyond(knowledge.promised_until, knowledge.since)
    epoch = max(own.epoch(knowledge.epoch), 0), knowledge.epoch >> 32
    lasting = tuple(knowledge.timelines.items()), epoch, promised, own.due(knowledge.distrusted_until)
    if own.looking or len(o.runs) > 1:
        versions = tuple((key, o.version(key, seen), own.past(at)) for key, (seen, at) in knowledge.versions.items())
        begun = own.past(knowledge.since), knowledge.settled, knowledge.row
        return lasting, server and _token(server), *begun, before, versions
    if server is None or (server.system, server.timeline, server.place) not in o.ledgers:
        return lasting
    if _token(server) not in o.runs:
        gone = tuple(key for key, (seen, _) in knowledge.versions.items() if o.versions.get(key, (0, 0)) < seen)
        return lasting, gone
    present = [
        (key, own.past(at) if o.versions.get(key) == seen else None)
        for key, (seen, at) in knowledge.versions.items()
        if o.versions.get(key, (0, 0)) <= seen
    ]
    return lasting, own.past(knowledge.since), before, knowledge.settled, *present


def _token(server: ServerIdentity) -> tuple[int, int, str, str]:
    return server.system, server.timeline, server.started, server.place


def _state(state: State, own: Own) -> Any:
    match state:
        case Waiting(
            look_at, hinted, abstention, insistent, overridden, next_run=next_run, vacancy=vacancy, recalled=recalled
        ):
            stays_out = abstention and (own.epoch(abstention.epoch), own.due(abstention.until))
            free = vacancy and (own.epoch(vacancy.epoch), own.past(vacancy.since))
            back = max(own.past(recalled), -FOR_PREFERRED) if own.origin.world.rules.placed else None
            finished = insistent, own.epoch(overridden) if overridden > 0 else overridden
            return "waiting", own.due(look_at), hinted, stays_out, finished, next_run, free, back
        case Leading(term, child, renew_at):
            return "leading", _term(term, own), _started(child, own), own.due(renew_at)
        case Draining(term, phase, cause, renew_at, abstain_for, kept, insistent):
            renewal = inf if renew_at == inf else own.due(renew_at)
            reservation = kept and (kept.node == own.node.name or kept.node, kept.seconds)
            ending = cause, abstain_for, reservation, insistent
            return "draining", _term(term, own), _phase(phase, own), renewal, ending
        case Backoff(until):
            return "backoff", own.due(until)
        case Stopped():
            return ("stopped",)


def _started(child: Spawning | Preparing | Running | Ready, own: Own) -> Any:
    match child:
        case Spawning(not_after):
            return own.due(not_after)
        case Preparing():
            return "preparing"
        case Running(_, _, ready_by):
            return "running", own.due(ready_by)
        case Ready():
            return "ready"


def _term(term: Term, own: Own) -> Any:
    shortening = term.shortening and (own.past(term.shortening.sent), term.shortening.lease.length)
    return own.epoch(term.epoch), own.past(term.sent), _lengths(term.lengths), shortening


def _lengths(lengths: Lengths) -> tuple[float, float, float]:
    return lengths.trusted.length, lengths.wanted.length, lengths.pace.length


def _phase(phase: Stopping | Killing | Releasing, own: Own) -> Any:
    match phase:
        case Stopping(kill_at):
            return "stopping", own.due(kill_at)
        case Killing():
            return ("killing",)
        case Releasing(give_up_at):
            return "releasing", None if give_up_at is None else own.due(give_up_at)


# ------------------------------------------------------------------------------------------------------- the messages


def _event(event: Event, own: Own) -> Any:
    match event:
        case Looked(observation, at, keeperless, glimpse=glimpse, watched=watched):
            return _observation(observation, own), own.past(at), keeperless, _glimpse(glimpse, own), watched
        case Granted(epoch, lengths, sent):
            return "granted", own.epoch(epoch), _lengths(lengths), own.past(sent)
        case Renewed(sent, lengths):
            return "renewed", own.past(sent), _lengths(lengths)
        case Attached(number):
            return "attached", number - own.node.number
        case _:
            return event


def _ask(ask: Ask, own: Own) -> Any:
    statements = tuple(_statement(one, own) for one in ask.statements)
    replies = tuple(
        (one.granted, one.changed, one.acknowledged, one.blocked, one.lengths, _observation(one.observation, own))
        for one in ask.replies
    )
    asked = ask.effect.lease.length if isinstance(ask.effect, Renew) else None
    how = own.past(ask.sent), ask.then, ask.slow, ask.hung, ask.background, _glimpse(ask.glimpse, own)
    return own.number(ask.who), type(ask.effect), asked, statements, replies, how


def _batch(batch: Batch, own: Own) -> Any:
    statement, reply = batch.statement, batch.reply
    waits = batch.awaited and own.past(batch.sent)
    asked = own.epoch(statement.epoch), own.life(statement.instance), statement.asked.length
    return own.number(batch.who), waits, asked, reply and (reply.changed, reply.lengths), batch.slow, batch.hung


def _observation(observation: Observation | None, own: Own) -> Any:
    if observation is None:
        return None
    rows = tuple(
        _seen(row, own) for row in ((observation.row, *observation.others) if observation.row else observation.others)
    )
    meta = observation.meta
    lengths = meta.lease.length, meta.wanted.length, meta.ceiling.length
    about = meta.settled, meta.offset, lengths, observation.suspension is not None
    row, timetable = observation.row, observation.timetable
    begun = timetable and (timetable.latest, row is not None and row.epoch == timetable.epoch)
    return rows, row is None, _token(observation.server), begun, *about


def _seen(row: Row, own: Own) -> Any:
    kept = row.reserved_for and (row.reserved_for == own.node.name or row.reserved_for)
    return row.lock_id, _row(row, own.origin), own.life(row.instance), kept


def _statement(statement: Any, own: Own) -> Any:
    match statement:
        case TakeOverIf(claim):
            judged = None if claim.judged is None else _row(claim.judged, own.origin)
            asked, alone = claim.lengths.trusted.length, statement.alone
            return (
                "take over",
                judged,
                own.epoch(claim.epoch),
                _token(claim.server),
                asked,
                len(claim.closing),
                alone,
                claim.run,
            )
        case CloseIf(row, server):
            return "close", row.lock_id, _row(row, own.origin), _token(server)
        case RenewIf(_, epoch, instance, asked, takes_lock):
            return "renew", own.epoch(epoch), own.life(instance), asked.length, takes_lock
        case HoldIf(_, epoch, instance, asked, held):
            return "hold", own.epoch(epoch), own.life(instance), asked.length, held
        case UnlockOne(held, leaves):
            return "unlock one", held, leaves
        case ReleaseIf(_, release, instance):
            kept = release.reservation and (release.reservation.node == own.node.name or release.reservation.node)
            return "release", own.epoch(release.epoch), own.life(instance), release.cause, kept
        case TerminateOld(_, epoch, instance, first):
            return "terminate", own.epoch(epoch), own.life(instance), first - own.node.first
        case SettleOn(settle, generation):
            return "settle", settle, generation
        case _:
            return type(statement).__name__
