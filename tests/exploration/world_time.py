"""How time passes: to the next moment at which a clock of somebody's says something, and what it says then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, inf

from highlanderd.core import machine
from highlanderd.core.ceiling import CeilingWatch, LeaseUse
from highlanderd.core.lease import Lease
from tests.exploration import world_batch
from tests.exploration.world import LEASE, Violation, World, clock, ended, rate, set_child, set_server
from tests.exploration.world_node import GRACE, SILENCE, Child, Node
from tests.exploration.world_postgres import Who
from tests.exploration.world_processes import kill_keeper, lose_worker
from tests.exploration.world_survey import survey, survey_due, survey_overdue
from tests.exploration.world_turn import ask_hosts, cut, detach, tell

GUARDIANS_GRACE = 0.02 * LEASE
"""Ticks after a deadline at which the guardian kills a keeper that has not reported: ``keepers.GRACE``."""

GRAIN = 0.05
"""Ticks: where clocks run apart, moments are rounded up to this."""


def next_moment(world: World) -> float | None:
    """Return the next tick at which time itself changes something."""
    moments = list(_dues_of_servers(world))
    for i, node in enumerate(world.nodes):
        moments += [_when(world, i, due) for due in _dues(world, node)]
    return min((moment for moment in moments if moment > world.now), default=None)


def _dues_of_servers(world: World) -> Iterator[float]:
    for pg in world.servers:
        if world.rules.idle_timeout:
            yield from (one.idle_since + one.idle_limit for one in pg.backends)
        if pg.lockers and pg.lockers_end:
            yield pg.lockers_end
    use, since = world.watch.use, world.watch.since
    if use is not None and use.ceiling > use.lease and since < inf:
        yield ceil(since + Lease(use.ceiling).wait)
    if world.divided_at is not None:
        yield world.divided_at + LEASE


def _when(world: World, i: int, due: float) -> float:
    """Return the moment at which the node's clock shows ``due`` or a little more."""
    if not world.rules.rates:
        return due
    steps = ceil(due / rate(world, i) / GRAIN - 1e-6)
    while clock(world._replace(now=round(steps * GRAIN, 6)), i) < due:
        steps += 1
    return round(steps * GRAIN, 6)


def _dues(world: World, node: Node) -> Iterator[float]:
    """What the clock of one node is asked for."""
    if node.awake:
        yield from (ask.sent + node.pace.answer_within for ask in world.asks if ask.who == node.who)
        yield from world_batch.dues(world, node)
    if (due := survey_due(node)) is not None:
        yield ceil(due) if not world.rules.rates else due
    if node.awake and node.inbox is None and node.situation is not None:
        due = machine.deadline(node.situation, node.policy)
        if due is not None:
            yield ceil(due) if not world.rules.rates else due
    if "worker" in node.frozen and "guardian" not in node.frozen:
        yield node.frozen_at + SILENCE
    if "child" in node.frozen:
        return
    if node.orphans is not None and node.orphans.killed_at is not None:
        yield node.orphans.killed_at + GRACE
    if node.child is not None:
        yield from _dues_of_child(node, node.child)


def _dues_of_child(node: Node, child: Child) -> Iterator[float]:
    if child.alive and child.killed_at is not None:
        yield child.killed_at + GRACE
    elif child.alive or child.stage == "forked":
        yield _keepers_due(child)
        if "keeper" in node.frozen:
            yield _keepers_due(child) + GUARDIANS_GRACE
            if child.entrusted is not None and node.awake:
                yield child.entrusted[0] + SILENCE


def _keepers_due(child: Child) -> float:
    """Before the program is executed its not-after ends the term as the deadline does."""
    return child.deadline if child.executed else min(child.deadline, child.not_after)


def overdue(world: World, i: int) -> bool:
    """Whether the session has waited too long for an answer, and somebody is there to say so."""
    node = world.nodes[i]
    limit = clock(world, i) - node.pace.answer_within
    return node.awake and node.connected and any(ask.who == node.who and ask.sent <= limit for ask in world.asks)


def hosts_overdue(world: World, i: int) -> bool:
    """Whether the daemon should have learned by now of the server that was promoted."""
    return world.divided_at is not None and world.now >= world.divided_at + LEASE and may_learn(world, i)


def may_learn(world: World, i: int) -> bool:
    """Whether a host could tell this daemon of a timeline that it does not know."""
    if world.divided_at is None or not world.rules.asks_hosts or not world.nodes[i].awake:
        return False
    known = dict(world.nodes[i].memory)
    return any(pg.timeline > known.get(pg.system, 0) for pg in world.servers)


def _survey(world: World) -> World:
    """Somebody watches the ledger, and lowers the ceiling once nobody can rest on a longer lease any more."""
    pg, ledger = world.pg, world.pg.ledger
    if ledger.ceiling.length <= ledger.lease.length and world.watch.use is None:
        return world
    longest = max((row.trusted_for for row in ledger.rows if not row.released), default=0.0)
    where = (pg.system, pg.timeline, ledger.place)
    use = LeaseUse(where, ledger.lease.length, ledger.ceiling.length, ledger.wanted.length, longest)
    watch = world.watch.after(use, world.now)
    used = max(longest, ledger.wanted.length) > ledger.lease.length
    if not pg.isolated and not used and (watch.may_lower(world.now) or not world.rules.watches):
        return set_server(world, pg, pg._replace(ledger=ledger._replace(ceiling=ledger.lease)))._replace(
            watch=CeilingWatch()
        )
    return world._replace(watch=watch)


def _check_overlap(world: World) -> World:
    """The stated exception, and only for so long."""
    if sum(node.running for node in world.nodes) < 2:
        return world._replace(two_since=None)
    since = world.now if world.two_since is None else world.two_since
    if world.now - since > world.rules.overlap:
        raise Violation(f"two children have been alive for {world.now - since:g} ticks")
    return world._replace(two_since=since)


def pass_time(world: World, moment: float) -> World:
    world = _survey(world)
    if world.rules.overlap:
        world = _check_overlap(world)
    world = world._replace(now=moment)
    for pg in world.servers:
        if pg.lockers and pg.lockers_end and pg.lockers_end <= moment:
            world = set_server(world, pg, pg._replace(lockers=None, lockers_end=0.0))
    for i, node in enumerate(world.nodes):
        if node.child is not None and "child" not in node.frozen:
            world = _mind_deadline(world, i, node.child)
    if world.rules.idle_timeout:
        world = _end_idle_sessions(world)
    for i in range(len(world.nodes)):
        if overdue(world, i):
            world = cut(world, i)
        if (late := world_batch.overdue(world, i)) is not None:
            world = world_batch.give_up(world, late, i)
        if hosts_overdue(world, i):
            world = ask_hosts(world, i)
        if survey_overdue(world, i):
            world = survey(world, i, world.pg)
    for i, node in enumerate(world.nodes):
        if "worker" in node.frozen and "guardian" not in node.frozen and clock(world, i) >= node.frozen_at + SILENCE:
            world = lose_worker(world, i)
        if world.nodes[i].awake and world.nodes[i].inbox is None:
            world = tell(world, i)
    return world


def _mind_deadline(world: World, i: int, child: Child) -> World:
    """The keeper kills by its deadline; the guardian kills a keeper that does not."""
    node, now, due = world.nodes[i], clock(world, i), _keepers_due(child)
    lives = (child.alive or child.stage == "forked") and child.killed_at is None
    if not lives or (now < due and not child.entrusted):
        return world
    if "keeper" not in node.frozen:
        keeps = world.rules.keeper_keeps_deadline and now >= due
        return set_child(world, i, child.kill(now)) if keeps else world
    owes = child.entrusted is not None and node.awake and now >= child.entrusted[0] + SILENCE
    if "guardian" in node.frozen or not world.rules.guardian_kills_frozen_keepers:
        return world
    return kill_keeper(world, i) if owes or now >= due + GUARDIANS_GRACE else world


def _end_idle_sessions(world: World) -> World:
    waiting = {ask.who for ask in world.asks if ask.hung}
    for one in [one for pg in world.servers for one in pg.backends if one.who not in waiting]:
        if one.idle_since + one.idle_limit <= world.now:
            world = _when_heard(ended(world, one.who), one.who, detach)
    return world


def _when_heard(world: World, who: Who, happen: Callable[[World, int], World]) -> World:
    for i, node in enumerate(world.nodes):
        if node.connected and node.who == who and node.awake:
            return happen(world, i)
    return world
