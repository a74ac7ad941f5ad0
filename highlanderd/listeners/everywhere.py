"""Orders that concern the whole cluster: what they wait for, and the JSON of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from highlanderd.core.cluster import ClusterOverview, ClusterProgram
from highlanderd.core.states import Author
from highlanderd.errors import (
    HighlanderError,
    Interrupted,
    NoSuchNode,
    NoSuchProgram,
    TimedOut,
    Unanswered,
    enumerated,
    refusal,
)
from highlanderd.listeners.candidates import KNOWN_WITHIN, refuse_bare_drain
from highlanderd.listeners.orders import Node
from highlanderd.structs import replace

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at the ledger while an order is waited for."""


@contextmanager
def _written(order: str, instead: str = "") -> Iterator[None]:
    """Run a block that writes an order: where PostgreSQL does not answer, say what that needs. Raises Unanswered."""
    try:
        yield
    except Unanswered as error:
        raise Unanswered(
            f"{error}; {order} has to be written into the ledger, and perhaps was not: see 'highlanderd --doctor', "
            f"and order it again once PostgreSQL answers{instead}"
        ) from error


class Patience:
    """How long a client waits for the outcome of its order: not at all, or so many seconds while it is there."""

    def __init__(self, seconds: float | None, gone: Callable[[], bool]) -> None:
        self._seconds, self._gone = seconds, gone

    async def until(self, node: Node, fact: Callable[[ClusterOverview], bool], overdue: str) -> ClusterOverview:
        """Return the cluster once it shows ``fact``. Raises TimedOut with what is ``overdue``, HighlanderError."""
        loop = asyncio.get_running_loop()
        end, unknown = loop.time() + (self._seconds or 0.0), ""
        while True:
            try:
                cluster, unknown = await node.cluster(), ""
            except Unanswered as error:  # a session may break off meanwhile
                if self._seconds is None:
                    raise Unanswered(f"{error}. The order stands; see 'highlanderctl cluster'") from error
                unknown = f", as far as is known: {error}"
            else:
                if self._seconds is None or fact(cluster):
                    return cluster
            if loop.time() >= end or self._gone():
                late = f"{overdue} after {self._seconds:g} s{unknown}"
                raise TimedOut(f"{late}. The order stands; see 'highlanderctl cluster'")
            await asyncio.sleep(LOOK_EVERY)


async def stop(node: Node, name: str, by: Author, patience: Patience) -> ClusterProgram | None:
    """Stop a program on every node; return how the cluster shows it, once it does. Raises HighlanderError."""
    with _written("a stop everywhere", f"; until then, 'highlanderctl stop {name}' stops it on one node"):
        await node.stop_everywhere(name, by)
    over = _unless_overtaken(
        lambda now: _leader(now, name) is None,
        lambda now: _is_stopped(now, name),
        f"{name} was started everywhere again",
    )
    return (await patience.until(node, over, f"{name} is still led")).program(name)


async def start(node: Node, name: str, by: Author, patience: Patience) -> ClusterProgram | None:
    """Lift such a stop; return how the cluster shows the program, once it does. Raises HighlanderError."""
    with _written("the end of a stop everywhere"):
        before = (await node.cluster()).program(name)
        await node.start_everywhere(name, by)
    up = _is_up(name, before)
    over = _unless_overtaken(
        lambda now: up(now) or (_leader(now, name) is None and _rests(node, now, name)),
        lambda now: not _is_stopped(now, name),
        f"{name} was stopped everywhere again",
    )
    shown = await patience.until(node, over, f"no node has {name} ready yet")
    return _reasoned(node, shown.program(name))


def _is_up(name: str, before: ClusterProgram | None) -> Callable[[ClusterOverview], bool]:
    """Return what says whether a program is led and ready after such a stop was lifted.

    ``before`` is how it was shown until then: a term that the stop still ends may be shown as ready for a moment.
    """
    now = asyncio.get_running_loop().time
    known_at, ending = now() + KNOWN_WITHIN, None
    if before is not None and before.leader is not None and before.stopped is not None:
        ending = before.epoch

    def look(cluster: ClusterOverview) -> bool:
        shown = cluster.program(name)
        if shown is None or shown.leader is None or not (shown.ready or shown.leader in cluster.silent):
            return False
        return shown.epoch != ending or now() >= known_at

    return look


def _unless_overtaken(
    fact: Callable[[ClusterOverview], bool], stands: Callable[[ClusterOverview], bool], what: str
) -> Callable[[ClusterOverview], bool]:
    """Return ``fact``; before it is so, that raises HighlanderError once an order that stood stands no longer."""
    stood = False

    def look(cluster: ClusterOverview) -> bool:
        nonlocal stood
        if fact(cluster):
            return True
        if stood and not stands(cluster):
            raise HighlanderError(f"a later order has overtaken this one: {what}")
        stood = stood or stands(cluster)
        return False

    return look


def _is_stopped(cluster: ClusterOverview, name: str) -> bool:
    program = cluster.program(name)
    return program is not None and program.stopped is not None


def _reasoned(node: Node, program: ClusterProgram | None) -> ClusterProgram | None:
    """Return it with what it waits for as this node knows it, where the ledger does not say so yet."""
    if program is None or program.leader is not None or program.reason:
        return program
    try:
        here = node.program(program.name)
    except (NoSuchProgram, Interrupted):
        return program
    return program if here.stopped is not None else replace(program, reason=here.reason)  # or it has not heard yet


def _rests(node: Node, cluster: ClusterOverview, name: str) -> bool:
    """Return whether no node is to lead it at present: its schedule wants no run, or it has finished.

    Of a program that is not in the file of this node, the cluster only shows that it has a schedule, and that a node
    waits for its times again.
    """
    try:
        here = node.program(name)
    except (NoSuchProgram, Interrupted):
        shown = cluster.program(name)
        return shown is not None and shown.scheduled and shown.stopped is None and bool(shown.candidates)
    return here.idle or here.finished


def _leader(cluster: ClusterOverview, name: str) -> str | None:
    program = cluster.program(name)
    return None if program is None else program.leader


async def drain(node: Node, names: list[str], by: Author, patience: Patience, *, force: bool) -> ClusterOverview:
    """Drain nodes, one after the other; return the cluster then. Raises HighlanderError."""
    with _written("a drain", "; until then, 'systemctl stop highlanderd' on a node ends what it leads"):
        confirms = [nothing if force else await refuse_bare_drain(node, name) for name in names]
        for at, (name, confirm) in enumerate(zip(names, confirms, strict=True)):
            try:
                await node.drain(name, by, confirm)
            except HighlanderError as error:
                if not at:
                    raise
                lift = f"'highlanderctl resume {' '.join(names[:at])}'"
                raise refusal(error.code, f"{error}; drained are {enumerated(names[:at])}, until {lift}") from error
    late = f"{enumerated(names)} still {'leads' if len(names) == 1 else 'lead'} programs"
    over = _unless_overtaken(
        lambda now: not _led_by(now, names),
        lambda now: not _resumed(now, names),
        f"{enumerated(names)} {'was' if len(names) == 1 else 'were, in part,'} resumed",
    )
    return await patience.until(node, over, late)


def _resumed(cluster: ClusterOverview, names: list[str]) -> list[str]:
    drained = {one.name for one in cluster.nodes if one.drained is not None}
    return [name for name in names if name not in drained]


async def nothing() -> None:
    """Raise nothing."""


def _led_by(cluster: ClusterOverview, names: list[str]) -> list[str]:
    return [program.name for program in cluster.programs if program.leader in names]


async def resume(node: Node, names: list[str], by: Author, patience: Patience) -> list[str]:
    """Resume nodes; return those that were drained, once their daemons know. Raises HighlanderError."""
    with _written("a resume"):
        known = {one.name for one in (await node.cluster()).nodes}
        if unknown := [name for name in names if name not in known]:
            raise NoSuchNode.among(unknown, known)
        resumed = [name for name in names if await node.resume(name, by)]
    late = f"{enumerated(resumed)} {'does' if len(resumed) == 1 else 'do'} not know of the resume yet"
    await patience.until(node, lambda now: not any(map(now.hesitates, resumed)), late)
    return resumed
