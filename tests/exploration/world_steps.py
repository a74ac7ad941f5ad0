"""Every way on from a world. What may take long may happen now or later; what must not happen for nothing has a cost.

Time moves on only when nothing prompt is left to happen: a stalled message, like a crash, takes from a budget. It moves
to the next moment at which a clock of somebody's says something: what happens in between happens at one of its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from highlanderd.core import machine
from highlanderd.core.events import FoundReady, Resumed, Suspended
from highlanderd.core.states import Running
from tests.exploration import world_batch
from tests.exploration.world import (
    World,
    backend,
    believes,
    clock,
    ended,
    everywhere,
    set_child,
    set_node,
    set_server,
    swept,
)
from tests.exploration.world_faults import change_lengths, faults, orders, probed, replicated_to_all
from tests.exploration.world_node import GRACE, Child, Node
from tests.exploration.world_postgres import Backend
from tests.exploration.world_processes import (
    boot,
    end_hook,
    execute,
    hear_child,
    open_gate,
    start_worker,
    take_order,
    take_stray,
    thaw,
)
from tests.exploration.world_session import answer, apply, attach, may_attach
from tests.exploration.world_statements import SUSPENSION, Notify
from tests.exploration.world_survey import surveys
from tests.exploration.world_time import hosts_overdue, may_learn, next_moment, overdue, pass_time
from tests.exploration.world_turn import ask_hosts, cut, detach, tell

UNREAD = 4
"""Events that may wait for a busy program: an answer, a loss, a new session, and a loss again."""

Label = tuple[str, ...]
Way = tuple[Label, Callable[[], World]]


def steps(world: World) -> Iterator[Way]:
    """List what can happen next: first what is prompt, then what may happen, then faults, then time."""
    crowded = len(world.servers) > 1 and not world.rules.swift
    alone = None if world.faults or world.orders or crowded else _minding_itself(world)
    if alone is not None:
        yield from _near(world, alone, slow=False)
        yield from _answers(world, alone)
        yield from _near(world, alone, slow=True)
        yield from _leisurely(world, alone)
        return
    prompt = [
        *_replication(world),
        *_travelling(world, slow=False),
        *world_batch.ways(world, slow=False),
        *(way for i in _indexes(world) for way in _near(world, i, slow=False)),
    ]
    if world.rules.swift and prompt:
        yield prompt[0]
    else:
        yield from prompt
        yield from _unhurried(world)
    if world.faults:
        yield from faults(world)
    if world.orders:
        yield from orders(world)
    if not prompt and (moment := next_moment(world)) is not None and moment <= world.rules.horizon:
        yield ("time", f"{moment:g}"), partial(pass_time, world, moment)


def _unhurried(world: World) -> Iterator[Way]:
    yield from _travelling(world, slow=True)
    yield from world_batch.ways(world, slow=True)
    for i in _indexes(world):
        yield from _near(world, i, slow=True)
    yield from _of_servers(world)
    for i in _indexes(world):
        yield from _leisurely(world, i)


def _minding_itself(world: World) -> int | None:
    """Return a node with something prompt to hear, when nobody else can make a difference to it or see one.

    With no fault and no order left, whatever others do next can as well be done after it: exploring their order, too,
    would only show the same worlds again. A notification on its way is the one thing of others that it would notice.
    """
    if any(isinstance(statement, Notify) for ask in world.asks for statement in ask.statements):
        return None
    for i, node in enumerate(world.nodes):
        if not node.awake or node.inbox is not None or node.frozen:
            continue
        child = node.child
        news = child is not None and child.told < len(child.facts())
        here = not node.connected or backend(world, node.who) is not None
        if here and (news or any(True for _ in _answers(world, i))):
            return i
    return None


def _answers(world: World, i: int) -> Iterator[Way]:
    for ask in world.asks:
        if ask.who == world.nodes[i].who and not ask.statements and not ask.slow and world.nodes[i].connected:
            yield ("answered", ask.who[0]), partial(answer, world, ask)


def _indexes(world: World) -> range:
    return range(len(world.nodes))


def _travelling(world: World, *, slow: bool) -> Iterator[Way]:
    """Statements reach the server one by one, and answers the client; of a lost session only what the server holds."""
    awake = {node.who: node.awake for node in world.nodes}
    behind: set[tuple[str, int]] = set()
    for ask in world.asks:
        lost, earlier = not believes(world, ask.who), ask.who in behind
        if ask.statements:
            behind.add(ask.who)  # what a session sends is applied in that order
        if (ask.slow or lost) is not slow or ask.hung or earlier:
            continue
        if ask.statements and backend(world, ask.who) is not None:
            name = type(ask.statements[0]).__name__
            yield ("the server applies", ask.who[0], name), partial(apply, world, ask)
        elif not ask.statements and not lost and awake[ask.who]:
            yield ("answered", ask.who[0]), partial(answer, world, ask)


def _near(world: World, i: int, *, slow: bool) -> Iterator[Way]:
    """What happens between worker, guardian and keeper of one node."""
    node = world.nodes[i]
    child, frozen = node.child, node.frozen
    if node.orphans is not None and not slow and _dead_by_now(world, i, node.orphans.killed_at):
        yield ("the orphans are gone at last", node.name), partial(set_node, world, i, node._replace(orphans=None))
    if node.prepared and not slow and not world.rules.gate_waits:
        yield ("the child does not wait", node.name), partial(open_gate, world, i)
    if not slow and overdue(world, i):
        yield ("no answer in time", node.name), partial(cut, world, i)
    if not slow and (late := world_batch.overdue(world, i)) is not None:
        yield ("another session has no answer in time", node.name), partial(world_batch.give_up, world, late, i)
    if not slow and hosts_overdue(world, i):
        yield ("asks every host", node.name), partial(ask_hosts, world, i)
    if child is None:
        yield from _late_turn(world, i, slow=slow)
        return
    unread = child.stage == "ordered" and (node.situation is not None or world.rules.guardian_hears_last_words)
    if unread and child.slow is slow and "guardian" not in frozen:
        yield ("the guardian takes the order", node.name), partial(take_order, world, i)
    if child.stage == "forked" and child.slow is slow and "child" not in frozen:
        yield ("the child is about to be its program", node.name), partial(execute, world, i)
    yield from _late_turn(world, i, slow=slow)
    if slow:
        return
    told = child.facts(not world.rules.guardian_counts_orphans)
    speaker = "guardian" if child.silent or not child.kept else "keeper"
    if node.awake and node.inbox is None and speaker not in frozen and child.told < len(told):
        yield ("the worker hears of its child", node.name), partial(hear_child, world, i)
    if child.alive and _dead_by_now(world, i, child.killed_at):
        yield ("the tree is empty at last", node.name), partial(set_child, world, i, child._replace(stage="empty"))


def _late_turn(world: World, i: int, *, slow: bool) -> Iterator[Way]:
    """Who was frozen past a deadline of its machine comes to it now."""
    node = world.nodes[i]
    if slow or not node.awake or node.inbox is not None or node.situation is None:
        return
    due = machine.deadline(node.situation, node.policy)
    if due is not None and due <= clock(world, i):
        yield ("the worker has its turn", node.name), partial(tell, world, i)


def _dead_by_now(world: World, i: int, killed_at: float | None) -> bool:
    return killed_at is not None and "child" not in world.nodes[i].frozen and clock(world, i) >= killed_at + GRACE


def _of_servers(world: World) -> Iterator[Way]:
    """A standby that was left behind is promoted; an old primary that lived on is stopped."""
    if world.pg.standby is not None:
        old, former = ((world.pg,), None) if world.pg.isolated else ((), world.pg)
        promoted = world._replace(servers=(*old, world.pg.promoted()), divided_at=world.now if old else None)
        promoted = promoted._replace(former=former if "revive" in world.rules.kinds else None)
        yield ("the standby is promoted",), partial(swept, promoted)
    if len(world.servers) > 1 and world.pg.subscribed is None:
        alone = world._replace(servers=world.servers[-1:], divided_at=None)
        yield ("the old primary is stopped",), partial(swept, alone)
    if world.intent is not None and replicated_to_all(world.pg, world.intent[1]):
        yield (f"the operator goes on to {world.intent[0]}",), partial(change_lengths, world, *world.intent)


def _replication(world: World) -> Iterator[Way]:
    """What the first server has committed arrives at its subscriber, row by row, over whatever is there."""
    if len(world.servers) > 1 and world.pg.subscribed not in (None, world.servers[0].ledger.rows):
        yield ("rows arrive by replication",), partial(_subscribe, world)


def _subscribe(world: World) -> World:
    pg, rows = world.pg, world.servers[0].ledger.rows
    for row in rows:
        if row not in (world.pg.subscribed or ()):
            pg = pg.write(row)
    return set_server(world, world.pg, pg._replace(subscribed=rows))


def _leisurely(world: World, i: int) -> Iterator[Way]:
    """What may happen now or at any later time, for nothing."""
    node = world.nodes[i]
    if not node.up:
        yield ("the host is back", node.name), partial(boot, world, i)
        return
    if node.frozen:
        yield (f"{' and '.join(node.frozen)} goes on", node.name), partial(thaw, world, i)
    if node.inbox is not None and node.awake:
        free = set_node(world, i, node._replace(inbox=None))
        yield ("the program has its turn again", node.name), partial(tell, free, i, *node.inbox)
    if node.situation is None and not node.ended and "guardian" not in node.frozen:
        unread = node.child is not None and node.child.stage == "ordered" and world.rules.guardian_hears_last_words
        if not unread:
            yield ("a new worker starts", node.name), partial(start_worker, world, i)
    if node.stray is not None and node.situation is not None:
        yield ("the guardian reads a dead worker's order", node.name), partial(take_stray, world, i)
    if node.awake:
        yield from _survey(world, i)
        yield from surveys(world, i)
        yield from _of_session(world, i)
        if world.rules.meets_both and may_learn(world, i) and not hosts_overdue(world, i):
            yield ("asks every host", node.name), partial(ask_hosts, world, i)
    for lost in [one for pg in world.servers for one in pg.backends if one.orphaned and one.who[0] == node.name]:
        if not any(ask.hung and ask.who == lost.who for ask in world.asks):
            label = "the server notices a lost client", *map(str, lost.who)
            yield label, partial(ended, world, lost.who)
    for left in [one for pg in world.servers for one in pg.backends if one.joint and one.who[0] == node.name]:
        if not left.orphaned and not believes(world, left.who):
            yield ("others lose the joint session, too", *map(str, left.who)), partial(_orphaned, world, left)
    if "child" not in node.frozen:
        yield from _of_tree(world, i)
        if world.rules.probes and node.child is not None and node.child.alive and probed(node, Running):
            yield ("the child is found ready", node.name), partial(_found_ready, world, i, node.child)


def _orphaned(world: World, left: Backend) -> World:
    return everywhere(world, lambda pg: pg.orphan(left.who))


def _found_ready(world: World, i: int, child: Child) -> World:
    return tell(set_child(world, i, child._replace(ready=True)), i, FoundReady(0.0))


def _survey(world: World, i: int) -> Iterator[Way]:
    """The listening session shows that the program was stopped everywhere, or that this is over."""
    node = world.nodes[i]
    pg = next((pg for pg in world.servers if pg.backend(node.who) is not None), None)
    if pg is None or not node.connected or node.inbox is not None or node.situation is None:
        return
    if (node.situation.suspension is not None) is not pg.ledger.suspended:
        event = Suspended(SUSPENSION) if pg.ledger.suspended else Resumed()
        yield ("hears of the order", node.name), partial(tell, world, i, event)


def _of_session(world: World, i: int) -> Iterator[Way]:
    node = world.nodes[i]
    if len(node.inbox or ()) >= UNREAD:
        return
    if not node.connected and (node.name in world.rules.reconnect or not node.number):
        if node.host == 0 or may_attach(world, i, node.host):
            yield ("a session is up", node.name), partial(attach, world, i, node.host)
        both = world.divided_at is not None and (world.rules.meets_both or not world.rules.swift)
        if both and may_attach(world, i, 0):
            yield ("a session with the old primary is up", node.name), partial(attach, world, i, 0)
    elif node.connected and backend(world, node.who) is None:
        yield ("hears that its session is gone", node.name), partial(detach, world, i)
    elif node.connected and world.divided_at is not None and _may_be_cut_off(world, node):
        yield ("the old primary is out of its reach", node.name), partial(cut, world, i)


def _may_be_cut_off(world: World, node: Node) -> bool:
    return node.name in world.rules.reconnect and world.pg.backend(node.who) is None


def _of_tree(world: World, i: int) -> Iterator[Way]:
    node = world.nodes[i]
    child = node.child
    if node.orphans is not None and node.orphans.killed_at is not None:
        yield ("the orphans are gone", node.name), partial(set_node, world, i, node._replace(orphans=None))
    if child is None or not child.alive:
        return
    if child.stage == "hooking" and child.killed_at is None:
        yield ("the hook is over", node.name), partial(end_hook, world, i, well=True)
        yield ("the hook fails", node.name), partial(end_hook, world, i, well=False)
    if child.killed_at is not None or (child.signalled and child.stage == "running") or child.stage == "left":
        yield ("the tree is empty", node.name), partial(set_child, world, i, child._replace(stage="empty"))
    if child.signalled and child.stage == "running":
        yield ("the main process ends", node.name), partial(set_child, world, i, child._replace(stage="left"))
