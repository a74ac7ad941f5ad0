"""Passes an order on to the node that it concerns, and judges by the ledger what came of it where no answer comes.

A node that has taken an order may be lost, or its worker be replaced, before it answers. Who leads then stands in the
ledger, for every node to read. Of orders other than release and restart, it does not show what became of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from highlanderd.api import DEFAULT_TIMEOUT
from highlanderd.core.cluster import ClusterProgram
from highlanderd.core.states import Author
from highlanderd.errors import HighlanderError, Interrupted, NoSuchProgram, TimedOut
from highlanderd.listeners.answers import facts_of
from highlanderd.listeners.orders import Node

SHOWN: Final = frozenset({"release", "restart"})
"""The orders whose outcome the ledger shows."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks. What both show counts: who has carried an order out answers sooner."""
GOES_ON_FOR: Final = 4.0
"""Seconds for which a program that another worker has taken over is led and ready as before, if it was not ordered to
end: a worker is up within one or two, and writes at most one later how its programs are."""
LATE_BY: Final = 8.0
"""Seconds beyond what an order waits for: it is taken within four, and answered within another four."""


async def relay(node: Node, to: str, verb: str, name: str, body: Mapping[str, Any], by: Author) -> dict[str, Any]:
    """Return another node's answer to an order, or what came of it. Raises HighlanderError, also for its refusal."""
    before = await _shown(node, name) if verb in SHOWN and body.get("wait", False) else None
    if before is None or before.leader != to:
        return await node.relay(to, verb, name, body, by)
    end = asyncio.get_running_loop().time() + body.get("timeout", DEFAULT_TIMEOUT) + LATE_BY
    answer = asyncio.ensure_future(node.relay(to, verb, name, body, by))
    witness = asyncio.ensure_future(_witness(node, before, verb, body.get("to")))
    try:
        await asyncio.wait((answer, witness), return_when=asyncio.FIRST_COMPLETED)
        return await (witness if witness.done() else answer)
    except Interrupted as interrupted:
        if await _is_lost(node, before, witness, end):
            unchanged = f"{before.leader} leads it on under epoch {before.epoch}, as if nothing had been ordered"
            raise Interrupted(f"{interrupted}; {unchanged}: give it again") from interrupted
        if not witness.done():
            raise TimedOut(str(interrupted)) from interrupted
        return await witness
    finally:
        answer.cancel()
        witness.cancel()
        await asyncio.gather(answer, witness, return_exceptions=True)


async def _is_lost(node: Node, before: ClusterProgram, witness: asyncio.Future[dict[str, Any]], end: float) -> bool:
    """Return whether the program goes on as before; False once the witness has seen something else, or at the end."""
    now = asyncio.get_running_loop().time
    since = now()
    while not witness.done() and now() < end:
        await asyncio.wait((witness,), timeout=LOOK_EVERY)
        shown = await _shown(node, before.name)
        if shown is None or not shown.ready or (shown.leader, shown.epoch) != (before.leader, before.epoch):
            since = now()  # while it drains, it is not ready
        elif now() - since >= GOES_ON_FOR:
            return True
    return False


async def _shown(node: Node, name: str) -> ClusterProgram | None:
    """Return how a program is led at present; None where PostgreSQL does not say."""
    with suppress(HighlanderError):
        return (await node.cluster()).program(name)
    return None


async def _witness(node: Node, before: ClusterProgram, verb: str, to: str | None) -> dict[str, Any]:
    """Return the program once two looks in a row have shown what came of an order. Raises HighlanderError.

    ``before`` is how it was led when the order was given.
    """
    former: tuple[str | None, int | None] | None = None
    while True:
        await asyncio.sleep(LOOK_EVERY)
        now = await _successor(node, before)
        shown = None if now is None else (now.leader, now.epoch)
        if now is None or shown != former:
            former = shown
            continue
        if now.leader != (to or now.leader) or (verb == "release" and now.leader == before.leader):
            raise HighlanderError(
                f"{before.leader} has not answered, and {now.name} was not handed over{f' to {to}' if to else ''}: "
                f"{now.leader} leads it now, under epoch {now.epoch}"
            )
        await node.survey()
        try:
            return {"program": facts_of(node.program(now.name))}
        except (NoSuchProgram, Interrupted):
            return {"program": facts_of(now)}


async def _successor(node: Node, before: ClusterProgram) -> ClusterProgram | None:
    """Return how a program is led under a later epoch, once it is ready there; None before."""
    try:
        cluster = await node.cluster()
    except HighlanderError:
        return None
    now = cluster.program(before.name)
    if now is None or now.leader is None or (now.epoch or 0) <= (before.epoch or 0):
        return None
    return now if now.ready or now.leader in cluster.silent else None
