"""A node of the small world: its worker with the real machine, its end of the session, and its guardian's one child.

The child behaves by the contract of keeper and guardian: its tree ends by its deadline, within the kernel's tenth of a
lease; it is executed once, in time, or never; what happened is told once and in order.
"""

from __future__ import annotations

from typing import NamedTuple

from highlanderd.core.words import (
    Draining,
    Emptied,
    Exited,
    Leading,
    Policy,
    Situation,
    SpawnFailed,
    Started,
    Want,
)

GRACE = 2
"""Ticks from SIGKILL to an empty tree, at most: a tenth of the lease."""

ChildEvent = Started | SpawnFailed | Exited | Emptied


class Child(NamedTuple):
    """One term's child in the hands of keeper and guardian."""

    epoch: int
    not_after: float
    deadline: float
    memo: Situation
    """What the next worker would read, before it is encoded."""
    stage: str = "ordered"
    """``ordered``, ``running``, ``left`` (the main process ended, its tree lives) or ``empty``."""
    executed: bool = False
    slow: bool = False
    """The order for it is stalled on its way."""
    signalled: bool = False
    killed_at: float | None = None
    silent: bool = False
    """Its keeper was killed: nobody tells of the exit."""
    told: int = 0
    """How many of its events the worker has heard."""

    @property
    def alive(self) -> bool:
        """Whether a process of its tree may run."""
        return self.stage in ("running", "left")

    def facts(self) -> tuple[ChildEvent, ...]:
        """Say what has happened so far; later facts only continue earlier ones."""
        if not self.executed:
            return (SpawnFailed("refused"),) if self.stage == "empty" else ()
        facts: list[ChildEvent] = [Started(self.epoch, 0.0)]
        if self.stage in ("left", "empty") and not self.silent:
            facts.append(Exited(256, 0.0))
        if self.stage == "empty":
            facts.append(Emptied())
        return tuple(facts)

    def kill(self, now: float) -> Child:
        """SIGKILL, or what awaits a child that is not there yet."""
        return self if self.killed_at is not None else self._replace(killed_at=now)


class Node(NamedTuple):
    """One host."""

    name: str
    policy: Policy
    situation: Situation | None = None
    """The worker's; None while there is no worker."""
    number: int = 0
    """Of its latest session."""
    first: int = 1
    """Of the first session that this worker remembers."""
    connected: bool = False
    """The client believes in its session."""
    granted: bool = False
    """The session was granted the lock."""
    child: Child | None = None
    spawned: int = 0
    """The guardian's: the highest epoch executed in this life of the node."""
    up: bool = True
    """The host runs our guardian."""
    life: int = 1
    """Each life of the guardian is another instance."""
    wish: Want = Want.RUN
    draining: bool = False
    """The guardian was told to end while no worker was there."""
    ended: bool = False

    @property
    def who(self) -> tuple[str, int]:
        """The latest session."""
        return self.name, self.number

    @property
    def instance(self) -> str:
        """Two lives of one node never share it."""
        return self.policy.instance


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
            parts.append(f"epoch {state.term.epoch}, trusted until {state.term.trusted_until:g}")
        if isinstance(state, Draining):
            parts.append(f"{type(state.phase).__name__.lower()} ({state.cause.value})")
        parts.append(node.situation.link.value)
    if node.child is not None:
        child = node.child
        killed = "" if child.killed_at is None else f", killed at {child.killed_at:g}"
        parts.append(f"child of epoch {child.epoch} {child.stage}, deadline {child.deadline:g}{killed}")
    return "; ".join(parts)
