"""What times, epochs and versions are relative to when two worlds are compared: the present primary, and each node."""

from __future__ import annotations

from tests.exploration.world import World, clock
from tests.exploration.world_postgres import Who

OLD = -60.0
"""Nothing asks whether something happened longer ago than three leases, or than the longest one."""

OVERTAKEN = -25
"""Renewals: more than there are in three leases and a failover."""


class Origin:
    """What the versions of rows are relative to: the present primary's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.versions = {row.lock_id: row.version for row in world.pg.ledger.rows}
        self.runs = {(pg.system, pg.timeline, str(pg.run), pg.ledger.place) for pg in world.servers}
        self.ledgers = {(system, timeline, place) for system, timeline, _, place in self.runs}
        self.alike = world.rules.alike

    def epoch(self, lock_id: int, epoch: int) -> int:
        return epoch - self.versions.get(lock_id, (0, 0))[0]

    def version(self, lock_id: int, version: tuple[int, int]) -> tuple[int, int]:
        """Only whether two versions are the same decides anything: long overtaken is long overtaken."""
        epoch, renewal = self.versions.get(lock_id, (0, 0))
        return version[0] - epoch, max(version[1] - renewal, OVERTAKEN)


class Own:
    """What all that is a node's own is relative to."""

    def __init__(self, origin: Origin, world: World, i: int) -> None:
        node = world.nodes[i]
        self.origin, self.node, self.now, self.key = origin, node, clock(world, i), node.lock_id
        self.asks = [ask for ask in world.asks if ask.who[0] == node.name]
        self.looking = any(ask.replies and ask.replies[-1].observation for ask in self.asks) or bool(node.inbox)
        """What was seen is still on its way."""

    def past(self, moment: float) -> float:
        return max(round(moment - self.now, 4), OLD)

    def due(self, moment: float) -> float:
        """A deadline that has passed has passed."""
        return max(round(moment - self.now, 4), 0.0)

    def beyond(self, moment: float, since: float) -> float:
        """A promise that nobody waits for who waits from ``since`` on anyway, as one does at least."""
        return self.due(moment) if moment > since + self.origin.world.rules.lease.wait else 0.0

    def epoch(self, epoch: int) -> int:
        return self.origin.epoch(self.key, epoch)

    def number(self, who: Who) -> int:
        return who[1] - self.node.number

    def life(self, instance: str) -> int | None:
        """Say how many lives ago this was ours; None when it never was."""
        return self.node.life - int(instance[1:]) if instance[0] == self.node.name else None
