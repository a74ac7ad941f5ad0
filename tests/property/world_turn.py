"""A machine's turn: it handles events, a passed deadline always first, and its effects are performed and checked."""

from __future__ import annotations

from property.world import Ask, Violation, World, set_child, set_node, swept
from property.world_node import Child, Node
from property.world_postgres import LookAt, Notify, ReleaseIf, RenewIf, SettleOn, Statement, TakeOverIf, UnlockAll

from highlanderd.core import machine
from highlanderd.core import words as w


def tell(world: World, i: int, *events: w.Event) -> World:
    """Let the machine handle ``events``, a passed deadline always first, and perform its effects."""
    queue = list(events)
    while (situation := world.nodes[i].situation) is not None:
        node = world.nodes[i]
        due = machine.deadline(situation, node.policy)
        event: w.Event
        if due is not None and due <= world.now:
            event = w.Due()
        elif queue:
            event = queue.pop(0)
        else:
            _check_not_stuck(world, node, situation)
            return world
        after, effects = world.rules.step(situation, event, world.now, node.policy)
        if isinstance(event, w.Due) and after == situation:
            raise Violation(f"{node.name}: a deadline passed and changed nothing")
        world = set_node(world, i, node._replace(situation=after))
        for effect in effects:
            world = _perform(world, i, effect)
        if machine.finished(after):
            return _leave(world, i)
    return world


def _check_not_stuck(world: World, node: Node, situation: w.Situation) -> None:
    """Each situation has a deadline, or an event that must come."""
    owed = node.child is not None or situation.link is not w.Link.IDLE or isinstance(situation.state, w.Stopped)
    if not owed and machine.deadline(situation, node.policy) is None:
        raise Violation(f"{node.name}: waits for nothing, for ever: {situation}")
    unasked = situation.link is w.Link.ASKING and not any(ask.who == node.who for ask in world.asks)
    if unasked and node.connected and world.pg.backend(node.who) is not None:
        raise Violation(f"{node.name}: waits for an answer to nothing: {situation}")


def _leave(world: World, i: int) -> World:
    """The program has left the daemon; its session ends in good order."""
    node = world.nodes[i]
    if node.child is not None and node.child.stage != "empty":
        raise Violation(f"{node.name}: left the daemon while its child lives")
    world = set_node(world, i, node._replace(situation=None, connected=False, granted=False, ended=True))
    return swept(world._replace(pg=world.pg.end(node.who)))


def _perform(world: World, i: int, effect: w.Effect) -> World:
    node = world.nodes[i]
    child = node.child
    match effect:
        case w.Spawn(epoch, not_after, deadline):
            if child is not None or node.situation is None:
                raise Violation(f"{node.name}: a second child is asked for: {effect}")
            if node.situation.want is not w.Want.RUN:
                raise Violation(f"{node.name}: a child is asked for that nobody wants: {effect}")
            return set_child(world, i, Child(epoch, not_after, deadline, node.situation))
        case w.Entrust(deadline):
            if child is None or node.situation is None:
                return world
            return set_child(world, i, child._replace(deadline=deadline, memo=node.situation))
        case w.Signal():
            return world if child is None else set_child(world, i, child._replace(signalled=True))
        case w.Kill():
            return world if child is None else set_child(world, i, child.kill(world.now))
        case w.Disconnect():
            return cut(world, i)
        case w.Renew():
            _check_renewal(world, node)
        case w.Release(epoch):
            if child is not None and child.stage != "empty":
                raise Violation(f"{node.name}: releases epoch {epoch} while its child is {child.stage}")
            world = world._replace(release_sent=(*world.release_sent, epoch))
        case _:
            pass
    return _ask(world, node, effect)


def _check_renewal(world: World, node: Node) -> None:
    state = node.situation.state if node.situation is not None else None
    if not isinstance(state, w.Leading | w.Draining) or world.now >= state.term.trusted_until:
        raise Violation(f"{node.name}: renews what it cannot trust any more")
    if isinstance(state, w.Draining) and state.cause is w.Cause.OVERRULED:
        raise Violation(f"{node.name}: renews a term that is another's")
    if node.child is None:
        raise Violation(f"{node.name}: renews a term whose child has ended")


def _ask(world: World, node: Node, effect: w.Effect) -> World:
    if any(ask.who == node.who for ask in world.asks):
        raise Violation(f"{node.name}: asks {effect} while another question is under way")
    ask = Ask(node.who, effect, world.now, _statements(world, node, effect))
    return world._replace(asks=(*world.asks, ask))


def _statements(world: World, node: Node, effect: w.Effect) -> tuple[Statement, ...]:
    match effect:
        case w.Look():
            return (LookAt(),)
        case w.WriteSettled(settle):
            return (SettleOn(settle),)
        case w.TakeOver(claim):
            return (TakeOverIf(claim, node.name, node.instance, world.rules.compares_version),)
        case w.Renew(epoch):
            return (RenewIf(epoch, node.instance, not node.granted),)
        case w.Release():
            return (ReleaseIf(effect, node.instance), UnlockAll(), Notify())
    raise AssertionError(effect)


def detach(world: World, i: int) -> World:
    """The session is lost, and the worker hears of it."""
    node = world.nodes[i]
    world = swept(set_node(world, i, node._replace(connected=False, granted=False)))
    return tell(world, i, w.Detached("lost"))


def cut(world: World, i: int) -> World:
    """The client loses or drops its session; the server does not know."""
    return detach(world._replace(pg=world.pg.orphan(world.nodes[i].who)), i)
