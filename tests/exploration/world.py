"""A small world around the real machine, lease, verdict and memo: nodes, PostgreSQL, messages that travel.

This is its state. ``world_turn`` lets a machine have its turn, ``world_session``, ``world_batch`` and
``world_processes`` are what happens between a node and PostgreSQL and its child, ``world_steps`` and ``world_faults``
list every way on, and ``world_key`` says when two worlds are the same. ``explore`` walks them all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from highlanderd.core import machine
from highlanderd.core.ceiling import CeilingWatch
from highlanderd.core.effects import Effect, Renew
from highlanderd.core.events import Event
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Glimpse
from highlanderd.core.schedule import Schedule
from highlanderd.core.states import Policy, Situation, Want
from tests.exploration.world_node import Child, Node, words
from tests.exploration.world_postgres import FORMER_ID, LOCK_ID, Backend, Ledger, Postgres, Who
from tests.exploration.world_statements import WORDS, Flaws, RenewManyIf, Reply, Statement

LEASE = 20
"""Ticks: all clocks of the lease are whole then (renewal 4, answer 6, start 10, fence 14, SIGKILL 18, wait 21)."""

LONGER = 40
"""Ticks: the lease during maintenance, and the one that set-lease makes longer and shorter."""

FAULTS = (
    *("stall", "cut", "reset", "restart", "failover", "isolate", "cancel", "upgrade"),
    *("crash", "worker", "keeper", "exit", "busy"),
    *("freeze worker", "freeze guardian", "freeze keeper", "freeze node"),
    *("freeze worker and keeper", "freeze worker and guardian"),
)
LEAVES = "leave"
"""A program's own trouble on a joint session: its row is locked, say."""
PROBE_FAULTS = ("unhealthy", "delayed")
"""What is found of a child, where children are asked."""
READY_TIMEOUT = 6
"""Ticks within which a child that is asked has to become ready."""
_NAMED = frozenset({"reserve"})
ORDERS = ("stop", "start", "release", "reserve", "again", "end", "suspend", "resume")
LENGTHS = ("lengthen", "shorten", "maintain", "relax")
"""Orders of an operator to the ledger: another lease, maintenance and its end."""

LEDGER_FAULTS = ("recreate", "restore", "rewind", "lockers", "revive")
"""What happens to a ledger, and an old primary that is started again: each is part of its own stories only."""


class Violation(AssertionError):
    """The promise, or a rule that keeps it, is broken."""


class Rules(NamedTuple):
    """What a mutation may replace. The defaults are the product, and the contract of what surrounds it."""

    lease: Lease = Lease(LEASE)
    step: Callable[[Situation, Event, float, Policy], machine.Step] = machine.step
    sql: Flaws = Flaws()
    trusts_from_arrival: bool = False
    looks_from_sending: bool = False
    counts_tags: bool = False
    """``session.py``: a command tag counts, though the commit still waits."""
    counts_warnings: bool = False
    """``session.py``: an answer with a WARNING counts."""
    reach_successors: tuple[type[Effect], ...] = ()
    """``session.py``: what of that which was meant for a lost session is sent on the next one."""
    keeper_keeps_deadline: bool = True
    keeper_compares_at_exec: bool = True
    guardian_refuses: bool = True
    """``keepers.py``: no epoch twice, nothing beside a living tree, nothing after its not-after."""
    guardian_hears_last_words: bool = True
    """``guardian.py``: a dead worker's orders are read before the next one is started."""
    guardian_counts_orphans: bool = True
    """``keepers.py``: a dead keeper's tree is not called empty before it is proven."""
    guardian_tells_of_orphans: bool = True
    """``keepers.py``: the next worker is told of what dead keepers have left."""
    guardian_kills_frozen_keepers: bool = True
    gate_waits: bool = True
    """``launch.py``: a child that was prepared executes nothing before it is ordered."""
    discards_prepared: bool = True
    """``program.py``: what was prepared for a term that has not begun ends."""
    compares_prepared: bool = True
    """``prepared_keepers.py``: only an order for just what was prepared lets it go on."""
    idle_timeout: bool = True
    asks_hosts: bool = True
    """``hosts.py``: every host that can be reached is asked for its timeline, at first and once a lease."""
    ceiling_first: bool = True
    """``lengthening.py``: a longer lease is used only once every server that may be promoted has the ceiling."""
    watches: bool = True
    """``ceiling.py``: the ceiling is lowered only after no longer lease was used for as long as it is waited for."""
    unsettles: bool = True
    """``program.py``: who sees that the ledger went back has everybody wait."""
    snapshots: bool = False
    """A takeover takes a moment: what it sees of other rows is what was committed when it began."""
    overlap: float = 0
    """Ticks for which two children may run where the stated exception allows it."""
    probes: bool = False
    """Children are asked whether they are ready: at any moment they are, or are not in time."""
    hooks: bool = False
    """The program has a hook ``before_start``, which may take as long as it likes, and may fail."""
    placed: bool = False
    """Every node leaves the program to A for a moment, and takes all others for present, whether they are or not."""
    shared: bool = False
    """Waiting nodes look through a shared connection, and have one of their own only to take over and to lead."""
    surveyed: bool = False
    """A program that is led elsewhere looks seldom, and when a survey of its node advises it to."""
    batches: bool = False
    """Renewals that change nothing but the time are asked for on another program's session."""
    joint: bool = False
    """Who leads and has lost its session has one that holds the locks of other programs, too."""
    unlocks_in_order: bool = True
    """``joint.py``: what a program has asked on a joint session comes before the end of its lock there."""
    minds_loss: bool = True
    """``renewal_batch.py``: a program hears of its renewal by another session only while its own session is there."""
    counts_versions: bool = True
    """``survey.py``: what is shown of a version counts from the survey that showed it first."""
    takes_own: bool = True
    """``sharing.py``: what is more than a look is asked on a connection of its own."""
    scheduled: bool = False
    """The program has a schedule with one time, and is repeated until it has done its work."""
    reconnect: str = "ABC"
    """Whose lost sessions come back; a mutation that needs few is found sooner so."""
    meets_both: bool = False
    """Of two servers of one system a new session may meet either one, also where everything else is prompt."""
    swift: bool = False
    """What is prompt happens at once and in one order, but for misfortunes in between: far fewer worlds."""
    horizon: float = float("inf")
    """Time goes no further."""
    rates: tuple[float, ...] = ()
    """How fast the clock of each node runs; all alike when empty."""
    kinds: frozenset[str] = frozenset({*FAULTS, *ORDERS})
    """Faults and orders that may happen: anywhere, or as in ``"cut A"`` on one node only."""

    def allows(self, kind: str, node: str) -> bool:
        """Whether this may happen there."""
        return kind in self.kinds or f"{kind} {node}" in self.kinds

    @property
    def alike(self) -> bool:
        """Whether nothing tells one node from another."""
        unnamed = self.kinds.isdisjoint(_NAMED) and not any(kind[-2] == " " for kind in self.kinds)
        return unnamed and not self.rates and not self.placed


class Ask(NamedTuple):
    """A request on its way: some of its statements are applied, none, or all; then its answer travels back."""

    who: Who
    effect: Effect | None
    sent: float
    """By the clock of its node."""
    statements: tuple[Statement, ...]
    replies: tuple[Reply, ...] = ()
    then: Event | None = None
    """What the answer of a follow-up tells; the effect's own reply was heard before."""
    slow: bool = False
    background: bool = False
    """Nobody waits for its answer."""
    glimpse: Glimpse | None = None
    """Of a look: what surveys had shown when it was sent."""
    hung: bool = False
    """Its first statement has done its work and its commit waits for a standby that is out of reach."""


class Batch(NamedTuple):
    """A renewal that another program's session asks for; with what is asked for others it is one statement."""

    who: Who
    """Its program's own session."""
    renew: Renew
    sent: float
    """By the clock of its node."""
    statement: RenewManyIf
    reply: Reply | None = None
    slow: bool = False
    awaited: bool = True
    """It was not given up."""
    hung: bool = False
    """Its commit waits for a standby that is out of reach."""


class World(NamedTuple):
    """Everything there is at one moment."""

    rules: Rules
    servers: tuple[Postgres, ...]
    """The primary; before it, after a failover that left it alive, the old one."""
    nodes: tuple[Node, ...]
    now: float = 0
    asks: tuple[Ask, ...] = ()
    batches: tuple[Batch, ...] = ()
    faults: int = 0
    """How many may still happen."""
    orders: int = 0
    """How many an operator may still give."""
    executed: tuple[tuple[int, int], ...] = ()
    """By lock id, the highest epoch under which a child was executed."""
    release_sent: tuple[tuple[int, int], ...] = ()
    """Lock ids and epochs whose release was sent."""
    intent: tuple[str, Lease] | None = None
    """An operator has raised the ceiling for this, and waits until every standby has it."""
    watch: CeilingWatch = CeilingWatch()
    """Somebody's who surveys the ledger several times a lease."""
    dump: Ledger | None = None
    """What may be restored."""
    former: Postgres | None = None
    """The primary that died at the failover, and may be started again."""
    divided_at: float | None = None
    """Since when two servers of one system serve."""
    two_since: float | None = None
    """Since when two children run."""

    @property
    def pg(self) -> Postgres:
        """The present primary."""
        return self.servers[-1]

    def show(self, before: World | None = None) -> str:
        """Say what is where, or what of it is not as it was ``before``."""
        said = [] if before is None else [*map(_server_words, before.servers), *map(words, before.nodes)]
        present = [*map(_server_words, self.servers), *map(words, self.nodes)]
        return " | ".join(part for part in present if part not in said)


def _server_words(pg: Postgres) -> str:
    parts = [f"timeline {pg.timeline}"] if pg.timeline > 1 else []
    parts += ["the primary is cut off from its standby"] if pg.isolated else []
    parts += ["the standby has fallen behind"] if pg.standby and not pg.isolated else []
    parts += ["unsettled"] if pg.ledger.settled != (pg.system, pg.timeline, pg.ledger.place) else []
    parts += [f"place {pg.ledger.place}"] if pg.ledger.place != "1" else []
    parts += [f"ceiling {pg.ledger.ceiling.length:g}"] if pg.ledger.ceiling != pg.ledger.lease else []
    parts += [f"maintenance lease {pg.ledger.maintenance.length:g}"] if pg.ledger.maintenance else []
    parts += [f"lockers of epoch {pg.lockers[1] & 0xFFFFFFFF}"] if pg.lockers else []
    for row in pg.ledger.rows:
        number = "" if row.lock_id == LOCK_ID else f"of lock id {row.lock_id} "
        version = f"{row.epoch >> 32}:{row.epoch & 0xFFFFFFFF}.{row.renewal}"
        trusted = "" if row.trusted_for == pg.ledger.lease.length else f" for {row.trusted_for:g}"
        parts.append(f"row {number}epoch {version} of {row.instance}{trusted}{' released' if row.released else ''}")
    held = ", ".join(f"{who[0]}'s session {who[1]}" for _, who in pg.holders)
    return ", ".join([*parts, *([] if pg.ledger.rows else ["no row"]), f"lock of {held or 'nobody'}"])


class Once:
    """The times of a schedule: the first second of the epoch, which has come long ago."""

    def following(self, moment: float) -> float:
        """Return it before it has come."""
        return 1.0 if moment < 1 else inf

    def shown(self, moment: float) -> str:
        """Return it in words."""
        return f"{moment:g}"

    def of(self, _words: str) -> None:
        """Know no other schedule."""


def policy(name: str, life: int, rules: Rules) -> Policy:
    """Return a node's configuration, small enough that everything happens within a few leases."""
    within = READY_TIMEOUT if rules.probes else inf
    prefer = ("A",) if rules.placed else ()
    return Policy(
        name,
        f"{name}{life}",
        stop_timeout=3,
        backoff=2,
        backoff_max=2,
        backoff_reset=10_000,
        ready_timeout=within,
        prefer=prefer,
        hooks=frozenset({"before_start"} if rules.hooks else ()),
        restart="on-failure" if rules.scheduled else "always",
        schedule=Schedule(Once(), WORDS, catch_up=inf) if rules.scheduled else None,
    )


def beginning(rules: Rules, names: str, faults: int, orders: int) -> World:
    """Nobody has ever led, and nobody is connected."""
    lease = rules.lease
    nodes = tuple(Node(name, policy(name, 1, rules), lease, machine.begin(Want.RUN, 0), LOCK_ID) for name in names)
    return World(rules, (Postgres(Ledger(lease, lease)),), nodes, faults=faults, orders=orders)


def former_key(world: World, i: int) -> World:
    """Have a node begin under the lock id that the program had before."""
    return set_node(world, i, world.nodes[i]._replace(lock_id=FORMER_ID))


# ---------------------------------------------------------------------------------------------------------- the nodes


def set_node(world: World, i: int, node: Node) -> World:
    return world._replace(nodes=(*world.nodes[:i], node, *world.nodes[i + 1 :]))


def set_child(world: World, i: int, child: Child | None) -> World:
    return set_node(world, i, world.nodes[i]._replace(child=child))


def rate(world: World, i: int) -> float:
    return world.rules.rates[i] if world.rules.rates else 1.0


def clock(world: World, i: int) -> float:
    """Read the node's CLOCK_BOOTTIME."""
    return round(world.now * world.rules.rates[i], 6) if world.rules.rates else world.now


# -------------------------------------------------------------------------------------------------------- the servers


def backend(world: World, who: Who) -> Backend | None:
    """Return the server's end of a session, wherever it lives."""
    return next((found for pg in world.servers if (found := pg.backend(who)) is not None), None)


def set_server(world: World, old: Postgres, new: Postgres) -> World:
    return world._replace(servers=tuple(new if pg is old else pg for pg in world.servers))


def everywhere(world: World, change: Callable[[Postgres], Postgres]) -> World:
    """Have every server do something that concerns only those who know the session."""
    return world._replace(servers=tuple(map(change, world.servers)))


def ended(world: World, who: Who) -> World:
    """The server's end of a session is gone."""
    return swept(everywhere(world, lambda pg: pg.end(who)))


def believes(world: World, who: Who) -> bool:
    return any(node.connected and node.who == who for node in world.nodes)


def swept(world: World) -> World:
    """Forget requests that nobody waits for and that cannot be applied any more."""
    held = tuple(ask for ask in world.asks if believes(world, ask.who) or _lives_on(world, ask))
    return world if len(held) == len(world.asks) else world._replace(asks=held)


def _lives_on(world: World, ask: Ask) -> bool:
    return bool(ask.statements) and backend(world, ask.who) is not None
