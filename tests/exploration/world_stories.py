"""Where searches begin: each of these takes a world, without misfortune, to where its story becomes interesting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Final, NamedTuple

from highlanderd.core import machine
from highlanderd.core.effects import Release
from highlanderd.core.events import EndOrdered, ReleaseOrdered, RestartOrdered
from highlanderd.core.states import Cause, Leading, SessionState, Want
from highlanderd.structs import replace
from tests.exploration import world_batch
from tests.exploration.world import LEASE, LONGER, Rules, World, beginning, ended, former_key, set_node, swept
from tests.exploration.world_faults import change_lengths, isolated_primary, order_lengths, replicated_to_all
from tests.exploration.world_postgres import OTHER_ID, Ledger, Postgres
from tests.exploration.world_session import answer, apply, attach
from tests.exploration.world_steps import steps
from tests.exploration.world_turn import cut, detach, tell

Story = Callable[[Rules, str, int, int], World]
"""Takes what holds from its beginning on, the nodes' names, and how many misfortunes and orders may come."""


def led(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads, its child runs, and the others know it: where most stories begin."""
    world = _joined(_led_alone(beginning(_calm(rules), names, 0, 0)))
    return _onward_until(_settled_down, world)._replace(rules=rules, faults=faults, orders=orders)


def rejoined(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads, and a session that holds the locks of other programs, too, has its lock."""
    world = led(_calm(rules), names, 0, 0)
    world = ended(world, world.nodes[0].who)
    world = _onward_until(lambda world: world.nodes[0].joint and world.nodes[0].granted, world)
    return _onward_until(_settled_down, world)._replace(rules=rules, faults=faults, orders=orders)


def waited(rules: Rules, names: str, faults: int, orders: int) -> World:
    """Nobody has ever led, and the lease that all have to wait on a new ledger is nearly over."""
    world = _onward_until(lambda world: world.now >= 20, beginning(_calm(rules), names, 0, 0))
    return world._replace(rules=rules, faults=faults, orders=orders)


def renamed(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads under a lock key that was changed and is told to end; the others wait under the new one."""
    world = beginning(_calm(rules), names, 0, 0)
    first = _led_alone(former_key(world, 0))
    told = tell(set_node(first, 0, first.nodes[0]._replace(wish=Want.END)), 0, EndOrdered(Cause.REMOVED))
    return _joined(told)._replace(rules=rules, faults=faults, orders=orders)


def releasing(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node was told to release: its child is gone, and the release is about to be sent."""
    world = led(_calm(rules), names, 0, 0)
    world = tell(world, 0, ReleaseOrdered(None, 0))
    asked = _onward_until(lambda world: any(isinstance(ask.effect, Release) for ask in world.asks), world)
    return asked._replace(rules=rules, faults=faults, orders=orders)


def divided(rules: Rules, names: str, faults: int, orders: int) -> World:
    """A synchronous standby was promoted, the old primary lives; its leader is still there, the others are not."""
    world = led(_calm(rules), names, 0, 0)
    old = isolated_primary(world.pg)
    world = world._replace(servers=(old, old.promoted()), divided_at=world.now)
    for i in range(1, len(world.nodes)):
        world = cut(world, i)
    return world._replace(rules=rules, faults=faults, orders=orders)


def maintained(rules: Rules, names: str, faults: int, orders: int) -> World:
    """Maintenance is on, and the leader's row carries its longer lease."""
    return _lengthened("maintain", rules, names)._replace(rules=rules, faults=faults, orders=orders)


def longer(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The ledger's lease was made longer, and the leader's row carries it."""
    return _lengthened("lengthen", rules, names)._replace(rules=rules, faults=faults, orders=orders)


def overtaken(rules: Rules, names: str, faults: int, orders: int) -> World:
    """A leader uses a longer lease; what another session was asked before it knew of that is still under way."""
    world = order_lengths(led(_calm(rules), names, 0, 0), "lengthen")
    world = _onward_until(lambda world: bool(world.batches), world)
    (batch,) = world.batches
    kept = batch._replace(slow=True, awaited=False)
    world = world_batch.give_up(world, batch, 0)._replace(batches=())
    world = _onward_until(lambda world: world.pg.ledger.rows[0].trusted_for == LONGER, world)
    world = _onward_until(_settled_down, world._replace(rules=world.rules._replace(batches=False)))
    return world._replace(rules=rules, faults=faults, orders=orders, batches=(kept,))


def _lengthened(kind: str, rules: Rules, names: str) -> World:
    world = order_lengths(led(_calm(rules), names, 0, 0), kind)
    world = _onward_until(lambda world: world.pg.ledger.rows[0].trusted_for == LONGER, world)
    return _onward_until(_settled_down, world)


def lagging(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The standby had fallen behind when maintenance was ordered; the others have only begun."""
    world = order_lengths(_standby_behind(_led_alone_of(rules, names)), "maintain")
    return _two_renewals_later(world, rules, names)._replace(faults=faults, orders=orders)


def forgetful(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The standby has fallen behind since the ceiling was raised for maintenance; the others have only begun."""
    world = _standby_behind(order_lengths(_led_alone_of(rules, names), "maintain"))
    return _two_renewals_later(world, rules, names)._replace(faults=faults, orders=orders)


def _led_alone_of(rules: Rules, names: str) -> World:
    world = beginning(_calm(rules), names, 0, 0)
    return _led_alone(world._replace(nodes=world.nodes[:1]))


def _standby_behind(world: World) -> World:
    return world._replace(servers=(world.pg._replace(standby=world.pg.ledger),))


def _two_renewals_later(world: World, rules: Rules, names: str) -> World:
    """The leader writes what the ledger wants by now, if that has changed; the standby is not promoted yet."""
    if world.intent is not None and replicated_to_all(world.pg, world.intent[1]):
        world = change_lengths(world, *world.intent)
    until, standby = world.now + LEASE / 2, world.pg.standby
    world = world._replace(servers=(world.pg._replace(standby=None),), intent=None)
    world = _onward_until(lambda world: world.now >= until and _settled_down(world), world)
    world = world._replace(servers=(world.pg._replace(standby=standby),))
    others = beginning(rules, names, 0, 0).nodes[1:]
    return _joined(world._replace(nodes=(*world.nodes, *others)))._replace(rules=rules)


def dumped(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads its second term; a dump was made between the two."""
    world = tell(led(_calm(rules), names, 0, 0), 0, RestartOrdered())
    world = _onward_until(lambda world: world.pg.ledger.rows[0].released, world)
    (row,) = world.pg.ledger.rows
    kept = replace(row, reserved_for=None, reserved_seconds=0.0)
    world = world._replace(dump=world.pg.ledger._replace(rows=(kept,)))
    world = _onward_until(lambda world: world.now > _SEEN and _settled_down(world), world)
    return world._replace(rules=rules, faults=faults, orders=orders)


_SEEN = LEASE + 5
"""Ticks until all have looked at the second term: what nobody has seen cannot be seen to go back."""


def revived(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads on the promoted server; the old primary is up again, and the others have only begun."""
    world = _led_alone_of(rules, names)
    old = world.pg
    world = detach(swept(world._replace(servers=(old.promoted(),))), 0)
    world = _onward_until(lambda world: world.pg.ledger.rows[0].timeline == world.pg.timeline, world)
    world = _onward_until(_settled_down, world)
    world = world._replace(nodes=(*world.nodes, *beginning(rules, names, 0, 0).nodes[1:]))
    old = old.restart()._replace(run=old.run + 100)
    world = _joined(world._replace(servers=(old, *world.servers), divided_at=world.now))
    return world._replace(rules=rules, faults=faults, orders=orders)


def served_on(rules: Rules, names: str, faults: int, orders: int) -> World:
    """An asynchronous standby was promoted, and the old primary serves on: its leader is there, the others are not."""
    world = led(_calm(rules), names, 0, 0)
    world = world._replace(servers=(world.pg, world.pg.promoted()), divided_at=world.now)
    return _others_at_the_last(world)._replace(rules=rules, faults=faults, orders=orders)


def replicated(rules: Rules, names: str, faults: int, orders: int) -> World:
    """The first node leads on one system; its rows arrive at another, settled one, and there are the others."""
    world = led(_calm(rules), names, 0, 0)
    first = world.pg
    (row,) = first.ledger.rows
    other = Ledger(first.ledger.lease, first.ledger.ceiling, place="2", rows=(row,))
    other = other._replace(settled=(2, 1, "2"), settled_place="2", offsets=((2, (row.epoch >> 32) + 1),))
    second = Postgres(other, run=50, system=2, subscribed=(row,))
    world = world._replace(servers=(first, second), nodes=(world.nodes[0]._replace(host=0), *world.nodes[1:]))
    return _others_at_the_last(world)._replace(rules=rules, faults=faults, orders=orders)


def _others_at_the_last(world: World) -> World:
    """All but the first node have their sessions with the last server, and have looked there."""
    for i in range(1, len(world.nodes)):
        world = attach(ended(world, world.nodes[i].who), i)
    while world.asks:
        ask = world.asks[0]
        world = apply(world, ask) if ask.statements else answer(world, ask)
    return world


def two_keys(rules: Rules, names: str, faults: int, orders: int) -> World:
    """Two nodes give one program different keys, nobody has ever led, and both may soon."""
    world = beginning(_calm(rules), names, 0, 0)
    world = set_node(world, 1, world.nodes[1]._replace(lock_id=OTHER_ID))
    world = _onward_until(lambda world: world.now >= 20, world)
    return world._replace(rules=rules, faults=faults, orders=orders)


def befallen(misfortune: str, node: str, start: Story = led) -> Story:
    """Return the story in which a misfortune befalls a node as soon as it may, apart from those that may follow."""

    def story(rules: Rules, names: str, faults: int, orders: int) -> World:
        world = start(rules, names, 0, 0)
        while (befall := dict(steps(world._replace(faults=1))).get((misfortune, node))) is None:
            world = next(go for _, go in steps(world))()
        return befall()._replace(faults=faults, orders=orders)

    return story


def _calm(rules: Rules) -> Rules:
    return rules._replace(horizon=float("inf"), reconnect="ABC")


def _led_alone(world: World) -> World:
    alone = _onward_until(_settled_down, world._replace(nodes=world.nodes[:1]))
    return alone._replace(nodes=(*alone.nodes, *world.nodes[1:]))


def _joined(world: World) -> World:
    """Have the nodes that were not there yet begin now."""
    first, *others = world.nodes
    begun = (node._replace(situation=machine.begin(Want.RUN, world.now)) for node in others)
    return world._replace(nodes=(first, *begun))


def _onward_until(reached: Callable[[World], bool], world: World) -> World:
    while not reached(world):
        world = next(go for _, go in steps(world))()
    return world


def _settled_down(world: World) -> bool:
    first, *others = world.nodes
    leading = first.situation is not None and isinstance(first.situation.state, Leading)
    knowing = all(
        node.situation is not None and node.situation.knowledge.versions and node.situation.session is SessionState.IDLE
        for node in others
    )
    running = first.child is not None and first.child.told > 0
    return leading and running and knowing and not world.asks and not world.batches


STORIES: Final[Mapping[str, Story]] = {
    "led": led,
    "waited": waited,
    "renamed": renamed,
    "releasing": releasing,
    "divided": divided,
}


class Scene(NamedTuple):
    """What may happen to a ledger: where it begins, what may happen then, and how much of it."""

    start: Story
    kinds: tuple[str, ...] = ()
    faults: int = 0
    orders: int = 0
    rules: Rules = Rules()
    ticks: float = inf
    """How long it is followed."""

    def world(self, *, swift: bool, names: str = "AB") -> World:
        """Return the world that the search starts from."""
        rules = self.rules._replace(kinds=frozenset(self.kinds), swift=swift)
        world = self.start(rules, names, self.faults, self.orders)
        return world._replace(rules=rules._replace(horizon=world.now + self.ticks))


_ALONE = Rules(reconnect="")
"""Who has lost a session gets no other one: what the others do meanwhile is seen to its end."""

SCENES: Final[Mapping[str, Scene]] = {
    "maintenance begins": Scene(led, ("maintain", "cut A"), 1, 1, _ALONE),
    "maintenance begins, and a standby is promoted": Scene(led, ("maintain", "failover"), 1, 1),
    "maintenance is ordered while the standby lags": Scene(lagging, rules=_ALONE),
    "maintenance, and a standby that knows its ceiling alone": Scene(forgetful, rules=_ALONE),
    "maintenance ends, and a leader is cut off": Scene(maintained, ("relax", "cut A"), 1, 1, _ALONE),
    "maintenance ends, and a standby is promoted": Scene(maintained, ("relax", "failover"), 1, 1),
    "maintenance, and a worker is replaced": Scene(maintained, ("relax", "worker A"), 1, 1),
    "maintenance, and the ledger is made anew": Scene(maintained, ("recreate", "cut A"), 2, rules=_ALONE),
    "the lease is made longer, and a standby is promoted": Scene(led, ("lengthen", "failover"), 1, 1),
    "the lease is made shorter, and a leader is cut off": Scene(longer, ("shorten", "cut A"), 1, 1, _ALONE),
    "the lease is made shorter, and a message stalls": Scene(longer, ("shorten", "stall A"), 1, 1),
    "the ledger is made anew, and a leader is cut off": Scene(led, ("recreate", "cut A"), 2, rules=_ALONE),
    "the ledger is made anew, and another node is cut off": Scene(led, ("recreate", "cut B"), 2),
    "the ledger is restored, and a leader is cut off": Scene(dumped, ("restore", "cut A"), 2, rules=_ALONE),
    "rows are put back, and a leader is cut off": Scene(dumped, ("rewind", "cut A"), 2, rules=_ALONE),
    "a lapsed epoch has lockers": Scene(led, ("lockers", "crash A"), 2, rules=_ALONE),
    "the old primary is started again": Scene(revived, rules=Rules(meets_both=True)),
    "the old primary dies, and is started again": Scene(led, ("failover", "revive"), 2, rules=Rules(meets_both=True)),
    "the old primary serves on": Scene(
        served_on, rules=Rules(meets_both=True, overlap=LEASE, reconnect="A"), ticks=3 * LEASE
    ),
    "rows arrive from the server where the leader is": Scene(replicated, ("cut A",), 1, rules=Rules(reconnect="B")),
    "rows arrive, and the leader is moved": Scene(replicated, ("move A",), 0, 1),
    "two keys of one program": Scene(two_keys, ("reset A",), 1, rules=Rules(snapshots=True)),
}
"""What can happen to a ledger, its servers and its lengths: each of these was, or could become, two children."""
