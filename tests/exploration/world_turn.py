"""A machine's turn: it handles events, a passed deadline always first, and its effects are performed and checked.

Stands in for ``program.py``, and for the sending half of ``session.py``: which statements an effect becomes.
"""

from __future__ import annotations

from collections.abc import Sequence

from highlanderd.core import machine
from highlanderd.core.effects import (
    CloseTerms,
    Disconnect,
    Effect,
    Kill,
    Look,
    Release,
    Renew,
    SetDeadline,
    Signal,
    Spawn,
    TakeOver,
    WriteSettled,
)
from highlanderd.core.events import Attached, Detached, Due, Event, Granted, Looked, Notified, Refused
from highlanderd.core.states import Cause, Draining, Leading, SessionState, Situation, Stopped, Want
from tests.exploration.world import (
    Ask,
    Batch,
    Violation,
    World,
    backend,
    clock,
    ended,
    everywhere,
    set_child,
    set_node,
    swept,
)
from tests.exploration.world_node import Child, Node, Surveyed
from tests.exploration.world_postgres import FORMER_ID, LOCK_ID, Postgres
from tests.exploration.world_statements import (
    CloseIf,
    HoldIf,
    LockName,
    LookAt,
    Notify,
    ReleaseIf,
    RenewIf,
    RenewManyIf,
    SettleOn,
    Statement,
    TakeOverIf,
    TerminateOld,
    UnlockAll,
    UnlockOne,
    Unsettle,
)


def tell(world: World, i: int, *events: Event) -> World:
    """Let the machine handle ``events``, a passed deadline always first, and perform its effects."""
    queue, now = list(events), clock(world, i)
    while (situation := world.nodes[i].situation) is not None:
        node = world.nodes[i]
        due = machine.deadline(situation, node.policy)
        event: Event
        if due is not None and due <= now:
            event = Due()
        elif queue:
            event = queue.pop(0)
        else:
            _check_not_stuck(world, node, situation)
            return world
        after, effects = world.rules.step(situation, event, now, node.policy)
        _check_transition(node, situation, event, after)
        node = _remembering(node._replace(situation=after, believed=_believed(node, event)), event)
        world = set_node(world, i, node)
        if node.joint and not leads(node):
            world = _leave_joint(world, i, apart=False)
            queue.append(Detached("its term is over"))
        if isinstance(event, Looked) and after.knowledge.rewinds > situation.knowledge.rewinds:
            world = _unsettle(world, node, event)
        for effect in effects:
            world = _perform(world, i, effect)
        world = _prepare(world, i, event, effects)
        if machine.finished(after):
            return _leave(world, i)
    return world


def _prepare(world: World, i: int, event: Event, effects: Sequence[Effect]) -> World:
    """Prepare a child at a hint, and end what was prepared, once no term is asked for any more."""
    node, row = world.nodes[i], world.pg.ledger.row(world.nodes[i].lock_id)
    if isinstance(event, Notified) and effects and row is not None and not world.rules.hooks:
        return set_node(world, i, node._replace(prepared=node.prepared or row.epoch + 1))
    goes_on = any(isinstance(effect, Spawn | TakeOver) for effect in effects)
    over = isinstance(event, Granted | Refused | Detached | Looked) and not goes_on
    return set_node(world, i, node._replace(prepared=0)) if over and world.rules.discards_prepared else world


def news(world: World, i: int, *events: Event) -> World:
    """The session tells something: it is handled at once, or waits until the program has its turn."""
    node = world.nodes[i]
    if node.inbox is None:
        return tell(world, i, *events)
    return set_node(world, i, node._replace(inbox=(*node.inbox, *events)))


def _believed(node: Node, event: Event) -> int:
    if isinstance(event, Attached):
        return event.number
    return 0 if isinstance(event, Detached) else node.believed


def _remembering(node: Node, event: Event) -> Node:
    """What ``past.py`` keeps of epochs. The product learns it from surveys, which see what looks see."""
    match event:
        case Looked(observation) if observation.row is not None:
            return node._replace(generation=max(node.generation, observation.row.epoch >> 32))
        case Granted(epoch):
            return node._replace(generation=max(node.generation, epoch >> 32))
    return node


def _unsettle(world: World, node: Node, event: Looked) -> World:
    """Nobody waits for the answer."""
    if not (world.rules.unsettles and node.connected):
        return world
    server = event.observation.server
    ask = Ask(node.who, None, world.now, (Unsettle(server.system, server.timeline),), background=True)
    return world._replace(asks=(*world.asks, ask))


def _check_transition(node: Node, before: Situation, event: Event, after: Situation) -> None:
    if isinstance(event, Due) and after == before:
        raise Violation(f"{node.name}: a deadline passed and changed nothing")
    if isinstance(before.state, Draining) and isinstance(after.state, Leading):
        raise Violation(f"{node.name}: leads on in a term whose end had begun ({before.state.cause.value})")


def _check_not_stuck(world: World, node: Node, situation: Situation) -> None:
    """Each situation has a deadline, or an event that must come."""
    owed = node.child is not None or situation.session is not SessionState.IDLE or isinstance(situation.state, Stopped)
    if not owed and machine.deadline(situation, node.policy) is None:
        raise Violation(f"{node.name}: waits for nothing, for ever: {situation}")
    asked = _under_way(world, world.nodes.index(node))
    unasked = situation.session is SessionState.BUSY and not asked
    if unasked and node.inbox is None and node.connected and backend(world, node.who) is not None:
        raise Violation(f"{node.name}: waits for an answer to nothing: {situation}")


def _leave(world: World, i: int) -> World:
    """The program has left the daemon; its session ends in good order. Under a new key it begins again."""
    node = world.nodes[i]
    if node.child is not None and node.child.stage != "empty":
        raise Violation(f"{node.name}: left the daemon while its child lives")
    world = ended(set_node(world, i, node._replace(connected=False, granted=False)), node.who)
    node = world.nodes[i]._replace(situation=None, ended=True, inbox=None, believed=0, survey=Surveyed())
    if node.lock_id == FORMER_ID:
        again = machine.begin(Want.RUN, clock(world, i))
        node = node._replace(situation=again, ended=False, lock_id=LOCK_ID, wish=Want.RUN, spawned=0)
    return set_node(world, i, node)


# --------------------------------------------------------------------------------------------------------- performing


def _perform(world: World, i: int, effect: Effect) -> World:
    node = world.nodes[i]
    child = node.child
    match effect:
        case Spawn():
            return set_child(world, i, _spawn(node, effect))
        case SetDeadline(deadline):
            if child is None or node.situation is None:
                return world
            return set_child(world, i, _entrust(world, i, child, deadline, node.situation))
        case Signal():
            return world if child is None else set_child(world, i, child._replace(signalled=True))
        case Kill():
            return world if child is None else set_child(world, i, _kill(world, i, child))
        case Disconnect():
            return cut(world, i)
        case Renew():
            _check_renewal(world, i)
        case Release(epoch):
            if child is not None and child.stage != "empty":
                raise Violation(f"{node.name}: releases epoch {epoch} while its child is {child.stage}")
            if node.orphans is not None:
                raise Violation(f"{node.name}: releases epoch {epoch} while orphans of a dead keeper live")
            world = world._replace(release_sent=(*world.release_sent, (node.lock_id, epoch)))
        case TakeOver(claim) if not world.rules.hooks:  # a hook may be the first that is executed
            kept = 0 if world.rules.discards_prepared else node.prepared
            world = set_node(world, i, node._replace(prepared=kept or claim.epoch))
        case _:
            pass
    return _ask(world, world.nodes[i], effect)


def _spawn(node: Node, spawn: Spawn) -> Child:
    if node.child is not None or node.situation is None:
        raise Violation(f"{node.name}: a second child is asked for: {spawn}")
    if node.situation.want is not Want.RUN or node.situation.suspension is not None:
        raise Violation(f"{node.name}: a child is asked for that nobody wants: {spawn}")
    return Child(spawn.epoch, spawn.not_after, spawn.deadline, node.situation)


def _entrust(world: World, i: int, child: Child, deadline: float, memo: Situation) -> Child:
    """A frozen keeper reads it later; the last word counts, and the first unread one is what it owes."""
    if "keeper" not in world.nodes[i].frozen:
        return child._replace(deadline=deadline, memo=memo)
    since = child.entrusted[0] if child.entrusted else clock(world, i)
    return child._replace(entrusted=(since, deadline, memo))


def _kill(world: World, i: int, child: Child) -> Child:
    if child.stage == "ordered" or "keeper" in world.nodes[i].frozen:
        return child._replace(to_kill=True)
    return child.kill(clock(world, i))


def _check_renewal(world: World, i: int) -> None:
    node = world.nodes[i]
    state = node.situation.state if node.situation is not None else None
    if not isinstance(state, Leading | Draining) or clock(world, i) >= state.term.trusted_until:
        raise Violation(f"{node.name}: renews what it cannot trust any more")
    if isinstance(state, Draining) and state.cause is Cause.OVERRULED:
        raise Violation(f"{node.name}: renews a term that is another's")
    if node.child is None:
        raise Violation(f"{node.name}: renews a term whose child has ended")


def _ask(world: World, node: Node, effect: Effect) -> World:
    """Send it, unless it was meant for a session that is gone: its Detached is on the way to the machine."""
    meant = node.believed == node.number or isinstance(effect, world.rules.reach_successors)
    if not (node.connected and meant):
        return world
    i = world.nodes.index(node)
    if _under_way(world, i) and not world.rules.reach_successors:
        raise Violation(f"{node.name}: asks {effect} while another question is under way")
    if not node.own and not isinstance(effect, Look) and world.rules.takes_own:
        return _take_own(world, i)
    _check_owned(node, effect)
    if isinstance(effect, Renew) and _may_join(world, node, effect):
        return _join(world, node, effect, clock(world, i))
    glimpse = node.survey.glimpse if isinstance(effect, Look) else None
    ask = Ask(node.who, effect, clock(world, i), _statements(world, node, effect), glimpse=glimpse)
    if isinstance(effect, WriteSettled) and node.believed != node.number:
        ask = ask._replace(effect=None, then=Notified())  # a stray's answer is a hint at most
    if isinstance(effect, Release):
        world = set_node(world, i, node._replace(granted=False))
    return world._replace(asks=(*world.asks, ask))


def _under_way(world: World, i: int) -> bool:
    who = world.nodes[i].who
    asked = any(ask.who == who and not ask.background for ask in world.asks)
    return asked or any(batch.who == who and stands(world, i, batch) for batch in world.batches)


def stands(world: World, i: int, batch: Batch) -> bool:
    """Whether a machine waits for what another session was asked for it."""
    node = world.nodes[i]
    if not world.rules.minds_loss:
        return batch.awaited and node.connected and batch.who[0] == node.name
    return batch.awaited and node.connected and batch.who == node.who and node.believed == node.number


def _may_join(world: World, node: Node, renew: Renew) -> bool:
    """Whether a renewal changes nothing but the time."""
    return world.rules.batches and node.granted and not node.joint and renew.lease == node.pace


def _join(world: World, node: Node, renew: Renew, now: float) -> World:
    """Have another session ask."""
    flaws = world.rules.sql
    statement = RenewManyIf(node.lock_id, renew.epoch, node.instance, renew.lease, node.who, flaws)
    return world._replace(batches=(*world.batches, Batch(node.who, renew, now, statement)))


def leads(node: Node) -> bool:
    """Whether a lease hangs on the node's session."""
    return node.situation is not None and isinstance(node.situation.state, Leading | Draining)


def _take_own(world: World, i: int) -> World:
    """Ask nothing but a look on a connection of its own: the machine is refused, and looks again, on that one."""
    world = _on_another(world, i, own=True)
    refused = Ask(world.nodes[i].who, None, clock(world, i), (UnlockAll(),), then=Refused(0, ""))
    return world._replace(asks=(*world.asks, refused))


def share_again(world: World, i: int) -> World:
    """Give the connection back that is of no use, if nothing is under way on it."""
    node = world.nodes[i]
    idle = not any(ask.who == node.who for ask in world.asks) and node.believed == node.number
    spare = node.connected and node.own and idle and not node.granted and not leads(node)
    return _on_another(world, i, own=False) if spare else world


def _on_another(world: World, i: int, *, own: bool) -> World:
    """Go on with another connection to the same server, of which the machine hears nothing. It holds no lock."""
    node, former = world.nodes[i], world.nodes[i].who
    after = node._replace(number=node.number + 1, believed=node.number + 1, own=own, granted=False)

    def connect(pg: Postgres) -> Postgres:
        return pg if pg.backend(former) is None else pg.connect(after.who, world.now, node.pace.length)

    world = everywhere(world, connect)
    return ended(set_node(world, i, after), former)


def _check_owned(node: Node, effect: Effect) -> None:
    if not node.own and isinstance(effect, Renew | Release):
        raise Violation(f"{node.name}: leads on a connection that others use, too")
    if node.joint and not isinstance(effect, Renew | Release):
        raise Violation(f"{node.name}: asks {effect} on a connection that holds the locks of others")


def _statements(world: World, node: Node, effect: Effect) -> tuple[Statement, ...]:
    """Return what ``session.py`` sends for an effect, one behind the other."""
    key, flaws = node.lock_id, world.rules.sql
    match effect:
        case Look():
            return (LookAt(key, flaws),)
        case WriteSettled(settle):
            return (SettleOn(settle, max(settle.generation, node.generation), flaws),)
        case TakeOver(claim):
            own: tuple[Statement, ...] = ()
            if claim.judged is not None and claim.judged.instance == node.instance and not claim.judged.released:
                own = (TerminateOld(key, claim.judged.epoch, node.instance, node.first),)
            closing = tuple(CloseIf(row, claim.server, flaws) for row in claim.closing if flaws.closes_first)
            return *own, *closing, LockName(flaws), TakeOverIf(claim, key, node.name, node.instance, flaws)
        case CloseTerms(claim):
            return tuple(CloseIf(row, claim.server, flaws) for row in claim.closing)
        case Renew(epoch, lease) if node.joint:
            return (HoldIf(key, epoch, node.instance, lease, node.granted, flaws),)
        case Renew(epoch, lease):
            return (RenewIf(key, epoch, node.instance, lease, not node.granted, flaws),)
        case Release(epoch):
            unlock = UnlockOne(node.granted, leaves=False) if node.joint else UnlockAll()
            release = ReleaseIf(key, effect, node.instance, flaws), unlock, Notify()
            return release if node.granted else (TerminateOld(key, epoch, node.instance, node.first), *release)
    raise AssertionError(effect)


def detach(world: World, i: int) -> World:
    """The session is lost, and the worker hears of it."""
    node = world.nodes[i]
    world = swept(set_node(world, i, node._replace(connected=False, granted=False)))
    return news(world, i, Detached("lost"))


def leave(world: World, i: int) -> World:
    """The program has its lock freed on a joint session, and seeks one of its own."""
    return news(_leave_joint(world, i, apart=True), i, Detached("its own trouble"))


def _leave_joint(world: World, i: int, *, apart: bool) -> World:
    """Leave a joint session, which goes on. What was asked there comes before the lock's end."""
    node = world.nodes[i]
    world = set_node(world, i, node._replace(connected=False, joint=False, granted=False, apart=apart))
    if not world.rules.unlocks_in_order:
        return everywhere(world, lambda pg: pg.unlock(node.who))
    unlock = Ask(node.who, None, clock(world, i), (UnlockOne(held=True, leaves=True),), background=True)
    return swept(world._replace(asks=(*world.asks, unlock)))


def ask_hosts(world: World, i: int) -> World:
    """Learn from every host which timeline it is on, and drop a session with one that was left behind."""
    node = world.nodes[i]
    for pg in world.servers:
        node = node.learn(pg.system, pg.timeline)
    world = set_node(world, i, node)
    behind = any(
        pg.backend(node.who) is not None and pg.timeline < dict(node.memory).get(pg.system, 0) for pg in world.servers
    )
    return cut(world, i) if behind and node.connected else world


def cut(world: World, i: int) -> World:
    """The client loses or drops its session; the server does not know."""
    return detach(everywhere(world, lambda pg: pg.orphan(world.nodes[i].who)), i)
