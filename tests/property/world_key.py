"""When two worlds are the same: all that decides what can still happen, with time, epochs and versions made relative.

A leader that renews and a node that looks then walk in a circle, so that a search can see *all* that can be reached.
"""

from __future__ import annotations

from math import inf
from typing import Any

from property.world import Ask, World
from property.world_node import Child, Node
from property.world_postgres import ReleaseIf, RenewIf, TakeOverIf, TerminateOld

from highlanderd.core import words as w
from highlanderd.core.lease import Knowledge, Row

OLD = -60.0
"""Nothing asks whether something happened longer ago than three leases."""


class _Origin:
    """What everything is relative to."""

    def __init__(self, world: World) -> None:
        row = world.pg.row
        self.now = world.now
        self.epoch = row.epoch if row else 0
        self.renewal = row.renewal if row else 0
        self.run = str(world.pg.run)
        self.numbers = {node.name: node.number for node in world.nodes}
        self.first = {node.name: node.first for node in world.nodes}
        self.live = [backend.who for backend in world.pg.backends]
        self.looking = {ask.who[0] for ask in world.asks if ask.replies and ask.replies[0].sight}
        """Nodes to which what was seen is still on its way."""

    def past(self, moment: float) -> float:
        return max(moment - self.now, OLD)

    def due(self, moment: float) -> float:
        """A deadline that has passed has passed."""
        return max(moment - self.now, 0.0)

    def who(self, who: tuple[str, int] | None) -> Any:
        return None if who is None else (who[0], who[1] - self.numbers[who[0]])

    def remembered(self, node: str, first: int) -> tuple[int, ...]:
        """Give the living sessions that a worker could have terminated."""
        return tuple(number - self.numbers[node] for name, number in self.live if name == node and number >= first)

    def version(self, version: tuple[int, int]) -> tuple[int, int]:
        return version[0] - self.epoch, version[1] - self.renewal


def key(world: World) -> Any:
    """Give the world's identity."""
    o = _Origin(world)
    return (
        _postgres(world, o),
        tuple(_node(node, o) for node in world.nodes),
        tuple(_ask(ask, o) for ask in world.asks),
        world.faults,
        world.orders,
        world.executed - o.epoch,
        tuple(sorted({epoch - o.epoch for epoch in world.release_sent if epoch >= o.epoch})),
    )


def _postgres(world: World, o: _Origin) -> Any:
    pg = world.pg
    backends = tuple((o.who(one.who), one.idle_since - o.now, one.orphaned) for one in pg.backends)
    row_backend = o.who(pg.row_backend) if pg.row_backend in o.live else None
    row = None if pg.row is None else _row(pg.row, o)
    return pg.run, pg.system, pg.timeline, pg.settled, row, row_backend, o.who(pg.holder), backends


def _row(row: Row, o: _Origin) -> Any:
    seconds, kept = row.reserved_seconds, row.reserved_for
    return o.version(row.version), row.instance, row.system, row.timeline, row.released, row.reason, kept, seconds


def _node(node: Node, o: _Origin) -> Any:
    situation = None if node.situation is None else _situation(node.situation, node.name, o)
    child = None if node.child is None else _child(node.child, o)
    spawned = node.spawned - o.epoch if node.spawned else None
    session = node.connected, node.granted, o.remembered(node.name, node.first)
    return situation, session, child, spawned, node.up, node.life, node.wish, node.draining, node.ended


def _child(child: Child, o: _Origin) -> Any:
    killed = None if child.killed_at is None else o.past(child.killed_at)
    times = o.due(child.not_after) if child.stage == "ordered" else 0, o.past(child.deadline), killed
    memo = _state(child.memo.state, o), child.memo.want
    flags = child.stage, child.executed, child.slow, child.signalled, child.silent, child.told
    return child.epoch - o.epoch, times, memo, flags


def _situation(situation: w.Situation, name: str, o: _Origin) -> Any:
    return situation.want, situation.link, _known(situation.knowledge, name, o), _state(situation.state, o)


def _known(knowledge: Knowledge, name: str, o: _Origin) -> Any:
    """Give what still counts: the next look throws away knowledge of another run, or of a version that is gone."""
    timelines = tuple(knowledge.timelines.items())
    if name in o.looking:
        server = knowledge.server and (knowledge.server.started, knowledge.server.timeline, knowledge.server.system)
        versions = tuple((o.version(version), o.past(at)) for version, at in knowledge.versions.values())
        return timelines, server, o.past(knowledge.since), versions
    if knowledge.server is None or knowledge.server.started != o.run:
        return timelines
    present = [o.past(at) for version, at in knowledge.versions.values() if o.version(version) == (0, 0)]
    return timelines, o.past(knowledge.since), *present


def _state(state: w.State, o: _Origin) -> Any:
    match state:
        case w.Waiting(look_at, hinted, abstention, insistent, overridden):
            stays_out = abstention and (abstention.epoch - o.epoch, o.due(abstention.until))
            finished = insistent, overridden - o.epoch if overridden else None
            return "waiting", o.due(look_at), hinted, stays_out, finished
        case w.Leading(term, child, renew_at):
            spawning = o.due(child.not_after) if isinstance(child, w.Spawning) else None
            return "leading", _term(term, o), spawning, o.due(renew_at)
        case w.Draining(term, phase, cause, renew_at, abstain_for, reservation, insistent):
            renewal = inf if renew_at == inf else o.due(renew_at)
            return "draining", _term(term, o), _phase(phase, o), cause, renewal, abstain_for, reservation, insistent
        case w.Backoff(until):
            return "backoff", o.due(until)
        case w.Stopped():
            return ("stopped",)


def _term(term: w.Term, o: _Origin) -> Any:
    return term.epoch - o.epoch, o.past(term.sent)


def _phase(phase: w.Stopping | w.Killing | w.Releasing, o: _Origin) -> Any:
    match phase:
        case w.Stopping(kill_at):
            return "stopping", o.due(kill_at)
        case w.Killing():
            return ("killing",)
        case w.Releasing(give_up_at):
            return "releasing", None if give_up_at is None else o.due(give_up_at)


def _ask(ask: Ask, o: _Origin) -> Any:
    statements = tuple(_statement(one, o) for one in ask.statements)
    replies = tuple((one.granted, one.changed, _sight(one.sight, o)) for one in ask.replies)
    return o.who(ask.who), type(ask.effect), o.past(ask.sent), statements, replies, ask.then, ask.slow


def _sight(sight: Any, o: _Origin) -> Any:
    if sight is None:
        return None
    row = None if sight.row is None else _row(sight.row, o)
    return row, sight.server.started, sight.server.timeline, sight.server.system, sight.meta.settled


def _statement(statement: Any, o: _Origin) -> Any:
    match statement:
        case TakeOverIf(claim):
            judged = None if claim.judged is None else _row(claim.judged, o)
            return "take over", judged, claim.epoch - o.epoch, claim.system, claim.timeline
        case RenewIf(epoch, instance, takes_lock):
            return "renew", epoch - o.epoch, instance, takes_lock
        case ReleaseIf(release, instance):
            return "release", release.epoch - o.epoch, instance, release.cause, release.reservation
        case TerminateOld(epoch, instance, first):
            return "terminate", epoch - o.epoch, instance, first - o.first[instance[0]]
        case _:
            return type(statement).__name__
