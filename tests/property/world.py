"""A small world around the real machine, lease and verdict: nodes, one server, messages that travel, faults that cost.

Time comes in ticks, and moves on only when nothing prompt is left to happen. What may take long (a reconnection, a
child that is leaving) simply may happen now or later; what must not happen for nothing (a stalled message, a crash)
takes from a budget. ``steps`` lists every way on from a world; ``explore.py`` walks them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple

from property.world_node import GRACE, Child, Node, words
from property.world_postgres import (
    LookAt,
    Notify,
    Postgres,
    ReleaseIf,
    RenewIf,
    Reply,
    SettleOn,
    Statement,
    TakeOverIf,
    TerminateOld,
    UnlockAll,
    Who,
)

from highlanderd import memo
from highlanderd.core import machine
from highlanderd.core import words as w
from highlanderd.core.lease import Lease

LEASE = 20
"""Ticks: all clocks of the lease are whole then (renewal 4, answer 6, start 10, fence 14, SIGKILL 18, wait 21)."""
REFUSED_RETRY = 4
"""Ticks until a lock that another session holds is tried again."""


class Violation(AssertionError):
    """The promise, or a rule that keeps it, is broken."""


class Rules(NamedTuple):
    """What a mutation may replace. The defaults are the product, and the contract of what surrounds it."""

    lease: Lease = Lease(LEASE)
    step: Callable[[w.Situation, w.Event, float, w.Policy], machine.Step] = machine.step
    compares_version: bool = True
    trusts_from_arrival: bool = False
    looks_from_sending: bool = False
    keeper_keeps_deadline: bool = True
    guardian_refuses: bool = True
    kinds: frozenset[str] = frozenset(
        {"stall", "cut", "reset", "restart", "crash", "worker", "exit", "keeper", "stop", "start", "release", "again"}
    )
    """Faults and orders that may happen: anywhere, or as in ``"cut A"`` on one node only."""

    def allows(self, kind: str, node: str) -> bool:
        """Whether this may happen there."""
        return kind in self.kinds or f"{kind} {node}" in self.kinds


class Ask(NamedTuple):
    """A request on its way: some of its statements are applied, none, or all; then its answer travels back."""

    who: Who
    effect: w.Effect | None
    sent: float
    statements: tuple[Statement, ...]
    replies: tuple[Reply, ...] = ()
    then: w.Event | None = None
    """What the answer of a follow-up tells; the effect's own reply was heard before."""
    slow: bool = False


class World(NamedTuple):
    """Everything there is at one moment."""

    rules: Rules
    pg: Postgres
    nodes: tuple[Node, ...]
    now: float = 0
    asks: tuple[Ask, ...] = ()
    faults: int = 0
    """How many may still happen."""
    orders: int = 0
    """How many an operator may still give."""
    executed: int = 0
    """The highest epoch under which a child was executed."""
    release_sent: tuple[int, ...] = ()
    """Epochs whose release was sent."""

    def show(self) -> str:
        """Say what is where."""
        row = self.pg.row
        ledger = "no row"
        if row is not None:
            ledger = f"row epoch {row.epoch}.{row.renewal} of {row.instance}{' released' if row.released else ''}"
        return f"{ledger}, lock {self.pg.holder} | " + " | ".join(words(node) for node in self.nodes)


Label = tuple[str, ...]
Way = tuple[Label, Callable[[], World]]


def policy(name: str, life: int) -> w.Policy:
    """Give a node's configuration, small enough that everything happens within a few leases."""
    return w.Policy(name, f"{name}{life}", stop_timeout=3, backoff=2, backoff_max=2, backoff_reset=10_000)


def beginning(rules: Rules, names: str, faults: int, orders: int) -> World:
    """Nobody has ever led, and nobody is connected."""
    nodes = tuple(Node(name, policy(name, 1), machine.begin(w.Want.RUN, 0)) for name in names)
    return World(rules, Postgres(rules.lease), nodes, faults=faults, orders=orders)


def led(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads, its child runs, and the others know it: where most stories begin."""
    world = beginning(rules, names, 0, 0)
    while not _settled_down(world):
        world = next(go for _, go in steps(world))()
    return world._replace(faults=faults, orders=orders)


def _settled_down(world: World) -> bool:
    first, *others = world.nodes
    leading = first.situation is not None and isinstance(first.situation.state, w.Leading)
    knowing = all(
        node.situation is not None and node.situation.knowledge.versions and node.situation.link is w.Link.IDLE
        for node in others
    )
    running = first.child is not None and first.child.told > 0
    return leading and running and knowing and not world.asks


# ------------------------------------------------------------------------------------------------------ ways onward


def steps(world: World) -> Iterator[Way]:
    """List what can happen next: first what is prompt, then what may happen, then faults, then time."""
    alone = None if world.faults or world.orders else _minding_itself(world)
    if alone is not None:
        yield from _near(world, alone, slow=False)
        yield from _answers(world, alone)
        yield from _near(world, alone, slow=True)
        yield from _leisurely(world, alone)
        return
    prompt = [*_travelling(world, slow=False), *(way for i in _indexes(world) for way in _near(world, i, slow=False))]
    yield from prompt
    yield from _travelling(world, slow=True)
    for i in _indexes(world):
        yield from _near(world, i, slow=True)
        yield from _leisurely(world, i)
    if world.faults:
        yield from _faults(world)
    if world.orders:
        yield from _orders(world)
    if not prompt and (moment := _next_moment(world)) is not None:
        yield ("time", f"{moment:g}"), lambda: _pass(world, moment)


def _minding_itself(world: World) -> int | None:
    """Give a node with something prompt to hear, when nobody else can make a difference to it or see one.

    With no fault and no order left, whatever others do next can as well be done after it: exploring their order, too,
    would only show the same worlds again. A notification on its way is the one thing of others that it would notice.
    """
    if any(isinstance(statement, Notify) for ask in world.asks for statement in ask.statements):
        return None
    for i, node in enumerate(world.nodes):
        child = node.child
        news = node.situation is not None and child is not None and child.told < len(child.facts())
        here = not node.connected or world.pg.backend(node.who) is not None
        if here and (news or any(True for _ in _answers(world, i))):
            return i
    return None


def _answers(world: World, i: int) -> Iterator[Way]:
    for ask in world.asks:
        if ask.who == world.nodes[i].who and not ask.statements and not ask.slow and world.nodes[i].connected:
            yield ("answered", ask.who[0]), lambda ask=ask: _answer(world, ask)  # type: ignore[misc]


def _indexes(world: World) -> range:
    return range(len(world.nodes))


def _travelling(world: World, *, slow: bool) -> Iterator[Way]:
    """Statements reach the server one by one, and answers the client; of a lost session only what the server holds."""
    for ask in world.asks:
        backend = world.pg.backend(ask.who)
        lost = not _believes(world, ask.who)
        if (ask.slow or lost) is not slow:
            continue
        if ask.statements and backend is not None:
            name = type(ask.statements[0]).__name__
            yield ("the server applies", ask.who[0], name), lambda ask=ask: _apply(world, ask)  # type: ignore[misc]
        elif not ask.statements and not lost:
            yield ("answered", ask.who[0]), lambda ask=ask: _answer(world, ask)  # type: ignore[misc]


def _believes(world: World, who: Who) -> bool:
    return any(node.connected and node.who == who for node in world.nodes)


def _near(world: World, i: int, *, slow: bool) -> Iterator[Way]:
    """What happens between worker, guardian and keeper of one node."""
    node = world.nodes[i]
    child = node.child
    if child is None:
        return
    if child.stage == "ordered" and child.slow is slow:
        yield ("the guardian takes the order", node.name), lambda: _execute(world, i)
    if slow:
        return
    if node.situation is not None and child.told < len(child.facts()):
        yield ("the worker hears of its child", node.name), lambda: _hear_child(world, i)
    if child.alive and child.killed_at is not None and world.now >= child.killed_at + GRACE:
        yield ("the tree is empty", node.name), lambda: _set_child(world, i, child._replace(stage="empty"))


def _leisurely(world: World, i: int) -> Iterator[Way]:
    """What may happen now or at any later time, for nothing."""
    node, pg = world.nodes[i], world.pg
    child = node.child
    if not node.up:
        yield ("the host is back", node.name), lambda: _boot(world, i)
    elif node.situation is None and not node.ended:
        yield ("a new worker starts", node.name), lambda: _start_worker(world, i)
    elif node.situation is not None and not node.connected:
        yield ("a session is up", node.name), lambda: _attach(world, i)
    elif node.situation is not None and pg.backend(node.who) is None:
        yield ("hears that its session is gone", node.name), lambda: _detach(world, i)
    for backend in pg.backends:
        if backend.orphaned and backend.who[0] == node.name:
            ended = _swept(world._replace(pg=pg.end(backend.who)))
            yield ("the server notices a lost client", *map(str, backend.who)), lambda ended=ended: ended  # type: ignore[misc]
    if child is not None and child.alive:
        if child.killed_at is not None or (child.signalled and child.stage == "running") or child.stage == "left":
            yield ("the tree is empty", node.name), lambda: _set_child(world, i, child._replace(stage="empty"))
        if child.signalled and child.stage == "running":
            yield ("the main process ends", node.name), lambda: _set_child(world, i, child._replace(stage="left"))


def _faults(world: World) -> Iterator[Way]:
    poorer, rules = world._replace(faults=world.faults - 1), world.rules
    for n, ask in enumerate(world.asks):
        if rules.allows("stall", ask.who[0]) and not ask.slow and _believes(world, ask.who):
            asks = (*world.asks[:n], ask._replace(slow=True), *world.asks[n + 1 :])
            yield ("a message stalls", ask.who[0]), lambda asks=asks: poorer._replace(asks=asks)  # type: ignore[misc]
    if "restart" in rules.kinds and world.pg.backends:
        yield ("PostgreSQL restarts",), lambda: _swept(poorer._replace(pg=world.pg.restart()))
    for i, node in enumerate(world.nodes):
        for kind, possible, fault in _NODE_FAULTS:
            if rules.allows(kind, node.name) and possible(world, node):
                yield (kind, node.name), lambda i=i, fault=fault: fault(poorer, i)  # type: ignore[misc]


def _orders(world: World) -> Iterator[Way]:
    poorer = world._replace(orders=world.orders - 1)
    for i, node in enumerate(world.nodes):
        if node.situation is None:
            continue
        for kind, order, wish in _ORDERS:
            if world.rules.allows(kind, node.name):
                told = _set_node(poorer, i, node._replace(wish=wish or node.wish))
                yield (f"ordered to {kind}", node.name), lambda told=told, i=i, order=order: _tell(told, i, order)  # type: ignore[misc]


_ORDERS: tuple[tuple[str, w.Event, w.Want | None], ...] = (
    ("stop", w.StopOrdered(), w.Want.STOP),
    ("start", w.StartOrdered(), w.Want.RUN),
    ("release", w.ReleaseOrdered(None, 10), None),
    ("again", w.RestartOrdered(), None),
    ("end", w.EndOrdered(w.Cause.SHUTDOWN), w.Want.END),
)


# ------------------------------------------------------------------------------------------------------------- time


def _next_moment(world: World) -> float | None:
    """Give the next tick at which time itself changes something."""
    moments = [backend.idle_since + LEASE for backend in world.pg.backends]
    moments += [ask.sent + world.rules.lease.answer_within for ask in world.asks if _believes(world, ask.who)]
    for node in world.nodes:
        if node.situation is not None:
            due = machine.deadline(node.situation, node.policy)
            moments += [] if due is None else [due]
        child = node.child
        if child is not None and child.alive:
            moments.append(child.deadline if child.killed_at is None else child.killed_at + GRACE)
    return min((ceil(moment) for moment in moments if moment > world.now), default=None)


def _pass(world: World, moment: float) -> World:
    world = world._replace(now=moment)
    for i, node in enumerate(world.nodes):
        child = node.child
        overdue = child is not None and child.alive and child.deadline <= moment
        if child is not None and overdue and world.rules.keeper_keeps_deadline:
            world = _set_child(world, i, child.kill(moment))
    for backend in world.pg.backends:
        if backend.idle_since + LEASE <= moment:
            world = _swept(world._replace(pg=world.pg.end(backend.who)))
            world = _when_connected(world, backend.who, _detach)
    for ask in world.asks:
        if ask.sent + world.rules.lease.answer_within <= moment:
            world = _when_connected(world, ask.who, _cut)
    for i in _indexes(world):
        world = _tell(world, i)
    return world


def _when_connected(world: World, who: Who, happen: Callable[[World, int], World]) -> World:
    for i, node in enumerate(world.nodes):
        if node.connected and node.who == who:
            return happen(world, i)
    return world


# ---------------------------------------------------------------------------------------------------------- machine


def _tell(world: World, i: int, *events: w.Event) -> World:
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
        world = _set_node(world, i, node._replace(situation=after))
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
    if situation.link is w.Link.ASKING and not any(ask.who == node.who for ask in world.asks):
        if world.pg.backend(node.who) is not None and node.connected:
            raise Violation(f"{node.name}: waits for an answer to nothing: {situation}")


def _leave(world: World, i: int) -> World:
    """The program has left the daemon; its session ends in good order."""
    node = world.nodes[i]
    if node.child is not None and node.child.stage != "empty":
        raise Violation(f"{node.name}: left the daemon while its child lives")
    world = _set_node(world, i, node._replace(situation=None, connected=False, granted=False, ended=True))
    return _swept(world._replace(pg=world.pg.end(node.who)))


def _perform(world: World, i: int, effect: w.Effect) -> World:
    node = world.nodes[i]
    child = node.child
    match effect:
        case w.Spawn(epoch, not_after, deadline):
            if child is not None or node.situation is None:
                raise Violation(f"{node.name}: a second child is asked for: {effect}")
            if node.situation.want is not w.Want.RUN:
                raise Violation(f"{node.name}: a child is asked for that nobody wants: {effect}")
            return _set_child(world, i, Child(epoch, not_after, deadline, node.situation))
        case w.Entrust(deadline):
            if child is None or node.situation is None:
                return world
            return _set_child(world, i, child._replace(deadline=deadline, memo=node.situation))
        case w.Signal():
            return world if child is None else _set_child(world, i, child._replace(signalled=True))
        case w.Kill():
            return world if child is None else _set_child(world, i, child.kill(world.now))
        case w.Disconnect():
            return _cut(world, i)
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


# ---------------------------------------------------------------------------------------------------------- session


def _apply(world: World, ask: Ask) -> World:
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
        return _swept(world)
    for i, node in enumerate(world.nodes):
        if node.connected and world.pg.backend(node.who) is not None and node.name != ask.who[0]:
            world = _tell(world, i, w.Notified())
    return world


def _answer(world: World, ask: Ask) -> World:
    """The client hears the replies, as ``session.py`` reads them: an event, or a statement that must follow."""
    i = next(n for n, node in enumerate(world.nodes) if node.who == ask.who)
    world = world._replace(asks=tuple(one for one in world.asks if one is not ask))
    node = world.nodes[i]
    if ask.then is not None:
        return _tell(world, i, ask.then)
    reply = ask.replies[0]
    sent = world.now if world.rules.trusts_from_arrival else ask.sent
    match ask.effect:
        case w.Look() if reply.sight is not None:
            at = ask.sent if world.rules.looks_from_sending else world.now
            return _tell(world, i, w.Looked(reply.sight, at, node.child is None))
        case w.WriteSettled():
            return _tell(world, i, w.Settled())
        case w.TakeOver(claim) if reply.changed:
            world = _set_node(world, i, node._replace(granted=True))
            return _tell(world, i, w.Granted(claim.epoch, claim.lease, sent))
        case w.TakeOver():
            refused = w.Refused(0 if reply.granted else REFUSED_RETRY, "")
            return _follow_up(world, ask, UnlockAll(), refused)
        case w.Renew() if reply.changed:
            world = _set_node(world, i, node._replace(granted=True))
            return _tell(world, i, w.Renewed(sent))
        case w.Renew(epoch) if not reply.granted:
            return _follow_up(world, ask, TerminateOld(epoch, node.instance, node.first), w.Contended())
        case w.Renew():
            return _tell(world, i, w.Overruled())
        case w.Release():
            world = _set_node(world, i, node._replace(granted=False))
            return _tell(world, i, w.Unlocked())
    raise AssertionError(ask)


def _follow_up(world: World, ask: Ask, statement: Statement, then: w.Event) -> World:
    follow = Ask(ask.who, None, world.now, (statement,), then=then)
    return world._replace(asks=(*world.asks, follow))


def _attach(world: World, i: int) -> World:
    node = world.nodes[i]
    node = node._replace(number=node.number + 1, connected=True, granted=False)
    world = _set_node(world._replace(pg=world.pg.connect(node.who, world.now)), i, node)
    return _tell(world, i, w.Attached(node.number))


def _detach(world: World, i: int) -> World:
    """The session is lost, and the worker hears of it."""
    node = world.nodes[i]
    world = _swept(_set_node(world, i, node._replace(connected=False, granted=False)))
    return _tell(world, i, w.Detached("lost"))


def _cut(world: World, i: int) -> World:
    """The client loses or drops its session; the server does not know."""
    return _detach(world._replace(pg=world.pg.orphan(world.nodes[i].who)), i)


def _swept(world: World) -> World:
    """Forget requests that nobody waits for and that cannot be applied any more."""
    held = tuple(ask for ask in world.asks if _believes(world, ask.who) or _lives_on(world, ask))
    return world if len(held) == len(world.asks) else world._replace(asks=held)


def _lives_on(world: World, ask: Ask) -> bool:
    return bool(ask.statements) and world.pg.backend(ask.who) is not None


# -------------------------------------------------------------------------------------------------------- processes


def _execute(world: World, i: int) -> World:
    """The guardian forks a keeper for the order, which executes the program; or one of them refuses."""
    node = world.nodes[i]
    child = node.child
    if child is None:
        raise AssertionError(node)
    repeated = child.epoch <= node.spawned and world.rules.guardian_refuses
    if repeated or world.now >= min(child.not_after, child.deadline):
        return _set_child(world, i, child._replace(stage="empty"))
    child = child._replace(stage="running", executed=True, slow=False)
    world = _set_child(world, i, child)
    world = _set_node(world, i, world.nodes[i]._replace(spawned=child.epoch))
    alive = [one.name for one in world.nodes if one.child is not None and one.child.alive]
    if len(alive) > 1:
        raise Violation(f"two children are alive: on {' and '.join(alive)}")
    if child.epoch <= world.executed:
        raise Violation(f"a child is executed under epoch {child.epoch}, not above the last one's {world.executed}")
    if child.epoch in world.release_sent:
        raise Violation(f"a child is executed under epoch {child.epoch}, whose release was sent")
    return world._replace(executed=child.epoch)


def _hear_child(world: World, i: int) -> World:
    node = world.nodes[i]
    child = node.child
    if child is None:
        raise AssertionError(node)
    event = child.facts()[child.told]
    over = isinstance(event, w.Emptied | w.SpawnFailed)
    world = _set_child(world, i, None if over else child._replace(told=child.told + 1))
    return _tell(world, i, event)


def _boot(world: World, i: int) -> World:
    node = world.nodes[i]
    life = node.life + 1
    fresh = node._replace(up=True, life=life, policy=policy(node.name, life), spawned=0)
    return _set_node(world, i, fresh)


def _start_worker(world: World, i: int) -> World:
    """A new worker finds the keeper and goes on with what its memo says, or begins anew."""
    node = world.nodes[i]
    child = node.child
    node = node._replace(first=node.number + 1)
    if child is None:
        return _tell(_set_node(world, i, node._replace(situation=machine.begin(node.wish, world.now))), i)
    state, want = memo.decode(memo.encode(child.memo), child.epoch, 0.0 if child.executed else None)
    adopted = _set_node(world, i, node._replace(situation=machine.adopt(state, want)))
    if child.executed:
        adopted = _set_child(adopted, i, child._replace(told=1))
    return _tell(adopted, i, w.Detached("the worker was replaced"))


def _lose_worker(world: World, i: int) -> World:
    node = world.nodes[i]
    world = _set_node(world, i, node._replace(situation=None, connected=False, granted=False))
    return _swept(world._replace(pg=world.pg.orphan(node.who)) if node.connected else world)


def _crash(world: World, i: int) -> World:
    """The host dies with everything on it; the server hears nothing."""
    world = _lose_worker(world, i)
    return _set_node(world, i, world.nodes[i]._replace(up=False, child=None))


def _reset(world: World, i: int) -> World:
    """The server's end of the session dies first."""
    return _swept(world._replace(pg=world.pg.end(world.nodes[i].who)))


def _child_fault(world: World, i: int, **facts: object) -> World:
    child = world.nodes[i].child
    if child is None:
        raise AssertionError(world.nodes[i])
    return _set_child(world, i, child._replace(**facts))  # type: ignore[arg-type]


def _child_is(stage: str) -> Callable[[World, Node], bool]:
    return lambda _world, node: node.child is not None and node.child.stage == stage and not node.child.slow


_NODE_FAULTS: tuple[tuple[str, Callable[[World, Node], bool], Callable[[World, int], World]], ...] = (
    ("cut", lambda _, node: node.connected, _cut),
    ("reset", lambda world, node: node.connected and world.pg.backend(node.who) is not None, _reset),
    ("worker", lambda _, node: node.situation is not None, _lose_worker),
    ("crash", lambda _, node: node.up, _crash),
    ("exit", _child_is("running"), lambda world, i: _child_fault(world, i, stage="left")),
    ("stall", _child_is("ordered"), lambda world, i: _child_fault(world, i, slow=True)),
    ("keeper", _child_is("running"), lambda world, i: _child_fault(world, i, silent=True, killed_at=world.now)),
)


def _set_node(world: World, i: int, node: Node) -> World:
    return world._replace(nodes=(*world.nodes[:i], node, *world.nodes[i + 1 :]))


def _set_child(world: World, i: int, child: Child | None) -> World:
    return _set_node(world, i, world.nodes[i]._replace(child=child))
