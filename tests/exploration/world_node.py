"""A node of the small world: its worker with the real machine, its end of the session, its guardian and its one child.

The child stands in for ``guardian.py``, ``keepers.py``, ``keeper.py`` and ``launch.py``, by their contract: an order is
executed once, in time, or never; a keeper ends the tree by its deadline, within the kernel's tenth of a lease; what a
dead keeper leaves counts as alive until it is proven gone; what happened is told once and in order. The real processes
keep that contract in ``tests/integration/test_processes_*.py``.
"""

from __future__ import annotations

from typing import NamedTuple

from highlanderd.core.events import Emptied, Event, Exited, HookFinished, HookStarted, SpawnFailed, Started
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Glimpse
from highlanderd.core.states import Draining, Leading, Policy, Situation, Want

GRACE = 2
"""Ticks from SIGKILL to an empty tree, at most: a tenth of the lease."""

SILENCE = 6
"""Ticks: three tenths of a lease, after which a frozen worker is replaced and a frozen keeper killed."""

ChildEvent = Started | SpawnFailed | Exited | Emptied | HookStarted | HookFinished


class Child(NamedTuple):
    """One term's child in the hands of keeper and guardian. Times are by its node's clock."""

    epoch: int
    not_after: float
    deadline: float
    memo: Situation
    """What the next worker would read, before it is encoded."""
    stage: str = "ordered"
    """``ordered``, ``forked``, ``hooking`` (the hook runs, and then comes the program), ``running``, ``left`` (the main
    process ended, its tree lives) or ``empty``."""
    executed: bool = False
    """Something of it was executed: its hook, or its program."""
    programmed: bool = False
    """Its program was executed."""
    slow: bool = False
    """The order for it is stalled on its way, or the child hangs before its program is executed."""
    signalled: bool = False
    killed_at: float | None = None
    silent: bool = False
    """Its keeper was killed: nobody tells of the exit."""
    told: int = 0
    """How many of its events the worker has heard."""
    entrusted: tuple[float, float, Situation] | None = None
    """What a frozen keeper has not read yet: since when, the deadline, and the memo."""
    to_kill: bool = False
    """What a frozen keeper has not read yet: the order to kill."""
    began: float = 0.0
    """When the program was executed, where children are asked whether they are ready."""
    ready: bool = False
    """A worker has found it ready."""
    hooked: bool = False
    """What was executed first is its hook ``before_start``."""
    vetoed: bool = False
    """That hook has failed."""

    @property
    def alive(self) -> bool:
        """Whether a process of its tree may run."""
        return self.stage in ("hooking", "running", "left")

    @property
    def kept(self) -> bool:
        """Whether there is a keeper, or what a dead one has left."""
        return self.stage != "ordered"

    def facts(self, buried_early: bool = False) -> tuple[ChildEvent, ...]:
        """Say what has happened so far; later facts only continue earlier ones."""
        if not self.executed:
            return (SpawnFailed("refused"),) if self.stage == "empty" else ()
        facts: list[ChildEvent] = [HookStarted()] if self.hooked else []
        if self.vetoed:
            facts.append(HookFinished("before_start", "no"))
        if not self.programmed:
            over = (Emptied() if self.silent else SpawnFailed("vetoed"),)
            return (*facts, *(over if self.stage == "empty" or (buried_early and self.silent) else ()))
        facts.append(Started(self.epoch, self.began))
        if self.stage in ("left", "empty") and (not self.silent or self.told > len(facts)):
            facts.append(Exited(256, 0.0))
        if self.stage == "empty" or (buried_early and self.silent):
            facts.append(Emptied())
        return tuple(facts)

    def kill(self, now: float) -> Child:
        """SIGKILL; a child whose program was not executed yet is then never executed."""
        if self.stage == "forked":
            return self._replace(stage="empty")
        return self if self.killed_at is not None else self._replace(killed_at=now)


class Surveyed(NamedTuple):
    """What a worker's surveys have shown. Times are by its node's clock."""

    glimpse: Glimpse | None = None
    standing: tuple[int, float] | None = None
    """Epoch and lease of the row that its program rests on; None while the program looks by itself."""
    at: float = 0.0
    """When the latest one was answered, or the look after which the program rests."""


class Node(NamedTuple):
    """One host."""

    name: str
    policy: Policy
    pace: Lease
    """The ledger's lease, as its sessions have seen it."""
    situation: Situation | None = None
    """The worker's; None while there is no worker."""
    lock_id: int = 0
    host: int = -1
    """Which of the servers its DSN names: the last one is the present primary."""
    number: int = 0
    """Of its latest session."""
    first: int = 1
    """Of the first session that this worker remembers."""
    connected: bool = False
    """The client believes in its session."""
    own: bool = True
    """Nobody else uses the connection."""
    joint: bool = False
    """It holds the locks of other programs, too."""
    apart: bool = False
    """It has left such a session: the next one is its own."""
    granted: bool = False
    """The session was granted the lock."""
    believed: int = 0
    """The session that the machine has heard of; 0 for none."""
    child: Child | None = None
    spawned: int = 0
    """The guardian's: the highest epoch executed in this life of the node."""
    prepared: int = 0
    """The epoch of a child that waits before its program, because its term is being asked for; 0 without one."""
    orphans: Child | None = None
    """What a dead keeper has left, and no worker of today has ordered."""
    stray: Child | None = None
    """An order of a dead worker that the guardian has not read; only a mutation leaves one."""
    up: bool = True
    """The host runs our guardian."""
    life: int = 1
    """Each life of the guardian is another instance."""
    wish: Want = Want.RUN
    draining: bool = False
    """The guardian was told to end while no worker was there."""
    ended: bool = False
    frozen: tuple[str, ...] = ()
    """Which processes stand still: ``worker``, ``guardian``, ``keeper``; for the whole node ``child`` as well."""
    frozen_at: float = 0.0
    memory: tuple[tuple[int, int], ...] = ()
    """``past.py``, which outlives the daemon: by system, the highest timeline seen."""
    generation: int = -1
    """Likewise: the upper half of the highest epoch seen."""
    met: bool = False
    """Whether this daemon has had a session in its life."""
    inbox: tuple[Event, ...] | None = None
    """What the session has told while the program's task had no turn; None when it has its turn at once."""

    survey: Surveyed = Surveyed()

    def learn(self, system: int, timeline: int) -> Node:
        """Know of a timeline."""
        known = dict(self.memory)
        return self._replace(memory=tuple({**known, system: max(timeline, known.get(system, 0))}.items()))

    @property
    def who(self) -> tuple[str, int]:
        """The latest session."""
        return self.name, self.number

    @property
    def instance(self) -> str:
        """Two lives of one node never share it."""
        return self.policy.instance

    @property
    def awake(self) -> bool:
        """Whether a worker is there that can hear and act."""
        return self.situation is not None and "worker" not in self.frozen

    @property
    def running(self) -> bool:
        """Whether a process of a child may do something here."""
        trees = (self.child, self.orphans)
        return "child" not in self.frozen and any(tree is not None and tree.alive for tree in trees)


def words(node: Node) -> str:
    """Say a node's state in the protocol's words."""
    parts = [node.name]
    if not node.up:
        return f"{node.name} down"
    if node.situation is None:
        parts.append("without a worker")
    else:
        state = node.situation.state
        parts.append(type(state).__name__.lower())
        if isinstance(state, Leading | Draining):
            parts.append(f"epoch {_epoch(state.term.epoch)}, trusted until {state.term.trusted_until:g}")
        if isinstance(state, Draining):
            parts.append(f"{type(state.phase).__name__.lower()} ({state.cause.value})")
        parts.append(node.situation.session.value)
    if node.frozen:
        parts.append(f"{' and '.join(node.frozen)} frozen")
    if node.child is not None:
        child = node.child
        killed = "" if child.killed_at is None else f", killed at {child.killed_at:g}"
        parts.append(f"child of epoch {_epoch(child.epoch)} {child.stage}, deadline {child.deadline:g}{killed}")
    if node.orphans is not None:
        parts.append(f"orphans of epoch {_epoch(node.orphans.epoch)}")
    return "; ".join(parts)


def _epoch(epoch: int) -> str:
    return f"{epoch >> 32}:{epoch & 0xFFFFFFFF}"
