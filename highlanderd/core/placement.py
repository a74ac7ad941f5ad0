"""Placement: which node a program is left to, where several could take it over.

It only delays. The verdict alone says whether a node may begin a term; a node that may, but is not the one to lead,
waits a moment longer, so that another node comes first. That wait ends by itself, so a wrong belief about other nodes
costs a moment and nothing else. A leader gives a program back by a release in good order. A program that starts after
others is delayed here, too, on every node, until they are up.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

from msgspec import Struct, field

from highlanderd.core.observation import Row
from highlanderd.core.states import FAILURES, Policy
from highlanderd.structs import replace

FOR_PREFERRED: Final = 2.0
"""Seconds for which a node waits at most for one that is preferred: many times what a takeover needs."""
FOR_EACH: Final = 0.05
"""Seconds for which a node waits for each program that it leads above the others: ten times what a takeover needs."""
FOR_SPREAD: Final = 1.0
"""Seconds for which it waits at most for that reason."""
DOUBLINGS: Final = 16
"""How often the time before a program is given back doubles at most."""


class Peers(Struct, frozen=True):
    """The other nodes that wait for a program, as this node knows them."""

    able: Mapping[str, int] | None = None
    """By node that waits for it and could lead it: how many programs that node leads. None while nothing is known."""
    led: int = 0
    """How many programs this node leads."""
    others: Mapping[str, int] = field(default_factory=dict)
    """The same of nodes that are present and have the program, and do not wait for it as far as this node knows."""
    missing: str = ""
    """The first program that this one starts after, and that is not up anywhere; empty when all are."""


class HoldBack(Struct, frozen=True):
    """How long this node leaves a program that is free to others, in seconds, and why."""

    seconds: float = 0.0
    why: str = ""


def hold_back(policy: Policy, peers: Peers, row: Row | None, since_recalled: float = inf) -> HoldBack:
    """Return for how long a node does not claim a program that has become free; ``row`` is what is left of its term.

    The node that led last is not waited for: it had its turn. What is reserved for this node is not left to others.
    What the program starts after is waited for as long as that takes, on every node. ``since_recalled`` seconds ago it
    was stopped on all of them: each that is present may wait for it again by now, also the one that led last.
    """
    if peers.missing:
        return HoldBack(inf, f"starts after {peers.missing}, which is neither ready anywhere nor finished with success")
    if row is not None and row.released and row.reserved_for == policy.node:
        return HoldBack()
    last, rank = None if row is None else row.node, _rank(policy, policy.node)
    if since_recalled < FOR_PREFERRED and peers.able is not None:
        last, peers = None, replace(peers, able={**peers.others, **peers.able})
    for node in policy.prefer[:rank]:
        if node != last and peers.able is None:
            return HoldBack(FOR_PREFERRED, f"prefers {node}, and does not know yet whether it is present")
        if node != last and peers.able is not None and node in peers.able:
            return HoldBack(FOR_PREFERRED, f"prefers {node}, which is present")
    equals = [led for node, led in (peers.able or {}).items() if node != last and _rank(policy, node) == rank]
    excess = peers.led - min(equals, default=peers.led)
    if policy.spread and excess > 0:
        return HoldBack(min(FOR_EACH * excess, FOR_SPREAD), "leaves it to a node that leads fewer programs")
    return HoldBack()


def _rank(policy: Policy, node: str) -> int:
    """Return a node's place in the order of preference; all that are not named come last, and are alike."""
    return policy.prefer.index(node) if node in policy.prefer else len(policy.prefer)


class Failback(Struct, frozen=True):
    """A node that is preferred to the present leader, and since when it could have led the program."""

    epoch: int
    """Of the leader's term."""
    node: str = ""
    """Empty while no preferred node could lead."""
    token: str = ""
    """What the ledger says of it, as a bare token: it changes with each break."""
    since: float = 0.0
    failures: int = 0
    """How often in a row the program was given back, and came back because it failed there."""

    def due(self, after: float) -> float:
        """Return when the program is to be given back: ``after`` seconds, doubled with each failure in a row."""
        return self.since + after * 2.0 ** min(self.failures, DOUBLINGS)


def failback(
    before: Failback | None, epoch: int, former: Row | None, policy: Policy, able: Mapping[str, str], now: float
) -> Failback:
    """Return what a leader knows of the node to which it would give a program back.

    ``former`` is the row that its term began with, and ``able`` has the token of each node that could lead the program.
    """
    if before is None or before.epoch != epoch:
        before = Failback(epoch, failures=0 if before is None else _failures(before, former, policy.node))
    better = policy.prefer[: _rank(policy, policy.node)]
    node = next((node for node in better if node in able), "")
    token = able.get(node, "")
    if (node, token) == (before.node, before.token):
        return before
    return replace(before, node=node, token=token, since=now)


def _failures(before: Failback, former: Row | None, here: str) -> int:
    """Return the failures in a row, now that the program has come back to ``here``.

    It failed there, was not taken over, or was sent back: two nodes whose files contradict each other would do that for
    ever.
    """
    if former is None or not former.released or not before.node:
        return 0
    there = former.node == before.node
    failed = there and former.reason in {cause.value for cause in FAILURES}
    sent_back = there and former.reserved_for == here
    return before.failures + 1 if failed or sent_back or former.reserved_for == before.node else 0
