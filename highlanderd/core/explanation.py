"""Why a program is led where it is, or nowhere, and when time alone changes that. Pure functions over snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from msgspec import Struct

from highlanderd.core.cluster import ClusterOverview, ClusterProgram
from highlanderd.core.status import NodeStatus, ProgramStatus, in_state


class Explanation(Struct, frozen=True):
    """What ``highlanderctl explain`` prints."""

    program: str
    verdict: str
    """Who leads it."""
    because: tuple[str, ...]
    """Sentences about what that is due to: of the whole cluster, of this node, of the others."""
    earliest: str | None
    """When time alone may change that: RFC 3339; ``None`` when only an order or event can, or ``known_to`` know it."""
    known_to: tuple[str, ...] = ()
    """Nodes whose own daemons know when time alone may change the verdict: at all, or earlier than ``earliest``."""


class LocalView(Struct, frozen=True):
    """What the node that is asked knows of a program by itself."""

    node: NodeStatus
    status: ProgramStatus | None
    """``None`` where this node does not have the program."""
    changes: str | None
    """When time alone ends what keeps this node from leading it, makes its child ready, or ends its term: RFC 3339."""
    returns: tuple[str, str] | None = None
    """The node that is preferred to this one, which leads it, and when it is given back to that: RFC 3339."""


def explained(name: str, cluster: ClusterOverview | None, local: LocalView | None, unknown: str = "") -> Explanation:
    """Return why a program is led where it is. ``unknown`` is why the ledger does not say what other nodes could do.

    Without ``local`` it is the cluster's side alone.
    """
    program = None if cluster is None else cluster.program(name)
    status = None if local is None else local.status
    leader = _leader(program, local)
    because = [
        *_held(name, program),
        *_led(leader, program, status),
        *_gone(leader, cluster, local),
        *(_here(leader, program, local) if local is not None else ()),
        *_others(leader, program, local),
        *([f"what other nodes could do is not known: {unknown}"] if unknown else ()),
        *(_lengths(local.node) if local is not None else ()),
    ]
    earliest = _earliest(leader, cluster, program, local)
    known_to = _known_to(leader, cluster, program, local) if earliest is None or leader is None else ()
    return Explanation(name, _verdict(name, leader, local), tuple(because), earliest, known_to)


def _leader(program: ClusterProgram | None, local: LocalView | None) -> str | None:
    """Return who leads it: what this node knows is newer than what the ledger showed."""
    if local is not None and local.status is not None:
        return local.status.leader
    return None if program is None else program.leader


def _verdict(name: str, leader: str | None, local: LocalView | None) -> str:
    if leader is None:
        if local is not None and not local.node.postgres.connected:
            return f"this node, {local.node.node}, cannot tell who leads {name}"
        return f"no node leads {name}"
    return f"{name} is led by {leader}" + (", which is this node" if local and leader == local.node.node else "")


def _held(name: str, program: ClusterProgram | None) -> Iterator[str]:
    if program is not None and program.stopped is not None:
        held = program.stopped
        yield (
            f"it was stopped everywhere {held}, at {held.since}; 'highlanderctl start --everywhere {name}' lifts that"
        )


def _led(leader: str | None, program: ClusterProgram | None, status: ProgramStatus | None) -> Iterator[str]:
    """Say since when it is led, and whether its child is up."""
    shown = program if leader is not None and program is not None and program.leader == leader else None
    if status is not None and status.state == "leading":
        since, epoch, ready = status.since, status.epoch, status.ready
        if shown is not None and shown.epoch == epoch and shown.since is not None:
            since = shown.since  # every node says the ledger's moment
    elif shown is not None:
        since, epoch, ready = shown.since or "", shown.epoch, shown.ready
    else:
        return
    yield f"{leader} leads it since {since}, in epoch {epoch}; its child is {'ready' if ready else 'not ready'}"


def _gone(leader: str | None, cluster: ClusterOverview | None, local: LocalView | None) -> Iterator[str]:
    """Say of a leader whose daemon is not connected what ends its term; of itself this node knows better."""
    if cluster is None or (local is not None and leader == local.node.node):
        return
    if (node := cluster.node(leader)) is not None and not node.present:
        seen = f", last seen {node.seen}" if node.seen else ""
        yield f"the daemon of {leader} is not connected{seen}: another node may lead once its lease is over"


def _here(leader: str | None, program: ClusterProgram | None, local: LocalView) -> Iterator[str]:
    """Say what this node does about it."""
    node, status = local.node, local.status
    if not node.postgres.connected:
        yield f"this node, {node.node}, cannot use PostgreSQL: {node.postgres.trouble or 'not connected yet'}"
    if status is None:
        yield f"this node, {node.node}, does not have it in its configuration"
        return
    lacks = "" if program is None else next((one.reason for one in program.unable if one.node == node.node), "")
    if status.state == "waiting" and leader not in (None, node.node) and not lacks:
        yield (
            f"this node, {node.node}, stands by: if {leader} releases it or is lost, this node may lead; a lost "
            f"node is replaced within {node.postgres.replaced_within:g} s"
        )
    elif status.state != "leading":
        why = status.reason or lacks
        does = "ends its term" if status.state == "draining" else "does not lead it"
        yield f"this node, {node.node}, {does}: {in_state(status.state, why)}"
        if lacks and lacks != why and status.state == "waiting":
            yield f"this node, {node.node}, could not lead it: {lacks}"
    elif status.reason:
        yield f"this node, {node.node}: {status.reason}"
    if status.state == "leading" and local.returns is not None:
        preferred, at = local.returns
        yield f"it goes back to {preferred}, which is preferred, at {at}, if {preferred} could lead it until then"
    if status.failures:
        yield f"it has failed {status.failures} {'time' if status.failures == 1 else 'times'} in a row here"


def _others(leader: str | None, program: ClusterProgram | None, local: LocalView | None) -> Iterator[str]:
    """Say of each other node whether it could lead it, and why not."""
    if program is None:
        return
    us = None if local is None else local.node.node
    could = [node for node in program.candidates if node not in (us, leader)]
    could_not = [one for one in program.unable if one.node not in (us, leader)]
    if could and leader is None and program.stopped is not None:
        yield f"it could be led by {', '.join(could)}, once it is started everywhere"
    elif could and leader is None and program.reason:
        yield f"it could be led by {', '.join(could)}, but not now: {program.reason}"
    elif could and leader is None and (program.scheduled or program.leader is not None):  # it is about to say why not
        yield f"it could be led by {', '.join(could)}"
    elif could:
        yield f"it could be led now by {', '.join(could)}"
    for one in could_not:
        yield f"{one.node} could not lead it: {one.reason}"
    if not could and not could_not and leader in (us, None):
        yield "no other node has it"
    for drift in program.drift:
        yield f"{drift.node} has it with another {', '.join(drift.keys)}"


def _lengths(node: NodeStatus) -> Iterator[str]:
    if (under_way := node.maintenance) is not None:
        yield (
            f"maintenance of PostgreSQL until {under_way.until}: a lost node is replaced only within "
            f"{node.postgres.replaced_within:g} s"
        )


def _earliest(
    leader: str | None, cluster: ClusterOverview | None, program: ClusterProgram | None, local: LocalView | None
) -> str | None:
    """Return when this node may lead, where nobody does, or where the leader's daemon is gone; else its next run."""
    if program is not None and program.stopped is not None:
        return None
    next_run = program.next_run if program is not None and leader is None else None
    if local is None or local.status is None:
        return next_run
    if leader == local.node.node:
        gives_back = None if local.returns is None else local.returns[1]
        return min((moment for moment in (local.changes, gives_back) if moment is not None), default=None)
    if leader is None:
        moments = [moment for moment in (local.changes, next_run) if moment is not None]
        return min(moments, key=datetime.fromisoformat, default=None)
    return None if _is_present(leader, cluster) else local.changes


def _known_to(
    leader: str | None, cluster: ClusterOverview | None, program: ClusterProgram | None, local: LocalView | None
) -> tuple[str, ...]:
    """Return who knows it: a leader with a child not ready, who waits for a lost leader's lease, who is in backoff."""
    us = None if local is None else local.node.node
    if program is None or program.stopped is not None or (leader is not None and leader == us):
        return ()
    if leader is None:
        return tuple(one.node for one in program.unable if one.in_backoff and one.node != us)
    if _is_present(leader, cluster):
        return () if program.ready or program.leader != leader else (leader,)
    return tuple(node for node in program.candidates if node not in (us, leader))


def _is_present(name: str, cluster: ClusterOverview | None) -> bool:
    """Return whether a node's daemon is connected, as far as is known."""
    return cluster is None or ((node := cluster.node(name)) is not None and node.present)
