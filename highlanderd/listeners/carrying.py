"""Carry an order on one program out on this node, whether it came through the control socket or through PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from highlanderd.api import DEFAULT_TIMEOUT, MOST_LINES
from highlanderd.core.cluster import ASK, LIFT
from highlanderd.core.states import Author
from highlanderd.core.status import ProgramStatus
from highlanderd.errors import HighlanderError, Interrupted, NoSuchNode, NoSuchProgram, NotLeading, NotPermitted
from highlanderd.listeners.answers import facts_of
from highlanderd.listeners.candidates import refuse_unless_able
from highlanderd.listeners.fields import WAITING, checked
from highlanderd.listeners.lines import line_facts, portable
from highlanderd.listeners.orders import ORDERS, Node
from highlanderd.listeners.outcomes import outcome

LOGS: Final = "logs"
"""What the node that leads is asked for: the last lines of a program. That changes nothing."""
TO_THE_LEADER: Final = frozenset({"release", "restart", "signal", LOGS})
"""Orders that concern the node that leads the program; the others concern the node where they are given."""


async def addressee(node: Node, verb: str, name: str, body: Mapping[str, Any]) -> str:
    """Return the node that is to carry an order out. Raises NoSuchProgram, NotLeading, HighlanderError."""
    if "node" in body:
        return await _known(node, body["node"])
    if verb not in TO_THE_LEADER:
        return node.name
    try:
        program = node.program(name)
    except (NoSuchProgram, Interrupted) as refusal:
        return await _leader_elsewhere(node, name, refusal)
    return node.name if program.state == "leading" else program.leader or node.name


async def _known(node: Node, name: str) -> str:
    if name != node.name and name not in (known := [one.name for one in (await node.cluster()).nodes]):
        raise NoSuchNode.among([name], known)
    return name


async def _leader_elsewhere(node: Node, name: str, refusal: NoSuchProgram | Interrupted) -> str:
    """Return who leads a program that this node does not have, or no longer has because it is ending."""
    cluster = await node.cluster()
    program = cluster.program(name)
    if program is None and isinstance(refusal, NoSuchProgram):
        raise NoSuchProgram.anywhere(name, cluster.by_name)
    if program is None or program.leader is None:
        raise NotLeading(f'nobody leads "{name}" at the moment, and this node does not have it')
    return program.leader


async def carry_out(
    node: Node, verb: str, before: ProgramStatus, body: Mapping[str, Any], by: Author, gone: Callable[[], bool]
) -> ProgramStatus:
    """Return the program's status after an order, or once it has been carried out. Raises HighlanderError."""
    order = ORDERS[verb]
    if verb == "release" and before.state == "leading" and body.get("to") == node.name:
        return before  # it is there already
    if verb == "release" and (to := body.get("to")) is not None and node.bars(before.name, to):
        said = f'the key "never" names {to}; remove it there, and say highlanderctl reload'
        raise HighlanderError(f"{to} never runs {before.name}: {said}")
    if order.hands_over and not body.get("force", False):
        await refuse_unless_able(node, before, body.get("to"))
    order.give(node, before.name, body, by)
    if not body.get("wait", False):
        return node.program(before.name)
    patience = body.get("timeout", DEFAULT_TIMEOUT)
    return await outcome(node, order, before, patience, gone, body.get("to"))


async def carry_out_for_another(
    node: Node, verb: str, name: str, arguments: object, by: Author, *, obedient: bool
) -> dict[str, Any]:
    """Return the answer to an order that came from another node: what it led to, or why it was refused.

    Each role that may write to the ledger can order, so its arguments are checked as those of a client are.
    """
    try:
        if verb == LIFT:
            node.lift(name, by)
            return {}
        if verb == ASK:
            return {"hindrance": await node.hindrance(name)}
        if not obedient:
            what = "gives no lines to" if verb == LOGS else "obeys no orders from"
            raise NotPermitted(f"it {what} other nodes: its [control] remote is false")
        if verb == LOGS:
            number = checked(arguments, ("n",)).get("n", MOST_LINES)
            return {"lines": portable([line_facts(name, line) for line in node.lines(name)[-number:]])}
        if verb not in ORDERS:
            raise HighlanderError(f"{node.name} does not know the order {verb!r}: upgrade highlanderd there")
        body = checked(arguments, (*WAITING, *ORDERS[verb].fields))
        if node.program(name).state != "leading":
            await node.survey()  # a term that this node has not heard of must not pass for the outcome
        after = await carry_out(node, verb, node.program(name), body, by, lambda: False)
    except HighlanderError as error:
        return {"error": {"code": error.code, "message": str(error)}}
    return {"program": facts_of(after)}
