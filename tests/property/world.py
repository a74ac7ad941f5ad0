"""A small world around the real machine, lease and verdict: nodes, one server, messages that travel.

This is its state. ``world_turn`` lets a machine have its turn, ``world_session`` and ``world_processes`` are what
happens between a node and PostgreSQL and its child, ``world_steps`` lists every way on, and ``world_key`` says when two
worlds are the same. ``explore`` walks them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from property.world_node import Child, Node, words
from property.world_postgres import Postgres, Reply, Statement, Who

from highlanderd.core import machine
from highlanderd.core import words as w
from highlanderd.core.lease import Lease

LEASE = 20
"""Ticks: all clocks of the lease are whole then (renewal 4, answer 6, start 10, fence 14, SIGKILL 18, wait 21)."""


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
    reconnects: bool = True
    """Whether a lost session ever comes back; a mutation that needs none is found sooner without."""
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


def policy(name: str, life: int) -> w.Policy:
    """Give a node's configuration, small enough that everything happens within a few leases."""
    return w.Policy(name, f"{name}{life}", stop_timeout=3, backoff=2, backoff_max=2, backoff_reset=10_000)


def beginning(rules: Rules, names: str, faults: int, orders: int) -> World:
    """Nobody has ever led, and nobody is connected."""
    nodes = tuple(Node(name, policy(name, 1), machine.begin(w.Want.RUN, 0)) for name in names)
    return World(rules, Postgres(rules.lease), nodes, faults=faults, orders=orders)


def set_node(world: World, i: int, node: Node) -> World:
    return world._replace(nodes=(*world.nodes[:i], node, *world.nodes[i + 1 :]))


def set_child(world: World, i: int, child: Child | None) -> World:
    return set_node(world, i, world.nodes[i]._replace(child=child))


def believes(world: World, who: Who) -> bool:
    return any(node.connected and node.who == who for node in world.nodes)


def swept(world: World) -> World:
    """Forget requests that nobody waits for and that cannot be applied any more."""
    held = tuple(ask for ask in world.asks if believes(world, ask.who) or _lives_on(world, ask))
    return world if len(held) == len(world.asks) else world._replace(asks=held)


def _lives_on(world: World, ask: Ask) -> bool:
    return bool(ask.statements) and world.pg.backend(ask.who) is not None
