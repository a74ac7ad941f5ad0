"""Ask each host that a DSN names which history it has: the highest timeline that any of them knows rules.

A session goes to one host. The others may know what that one does not: that a standby was promoted while it was away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from highlanderd.core.lease import Lease
from highlanderd.postgres import statements
from highlanderd.postgres.addresses import Addresses, Unfit, with_options
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.wire import ConnectFailed, WireLost, connect

log = logging.getLogger(__name__)

DIVIDED: Final = "postgres.dsn names two servers that both take writes"
"""How each warning about such servers begins."""


@dataclass(frozen=True, slots=True)
class Host:
    """What one host says of itself."""

    address: str
    system: str
    timeline: int
    """The highest that it knows: a primary's own, or the one that a standby follows."""
    standby: bool
    started: str
    """When it was started, as a bare token: two addresses may lead to one server."""
    position: int
    """In bytes: up to here WAL is on its disk."""


async def ask(addresses: Addresses, ledger: Ledger, lease: Lease, node: str) -> list[Host]:
    """Ask all hosts at the same time; those that do not answer are left out.

    Names, connections and answers have a fifth of a lease each.

    A DSN with one host has nobody else to ask: the answer is empty.
    """
    try:
        choices = await addresses.every(lease.renew_every)
    except (ConnectFailed, Unfit):
        return []
    if len(choices) < 2:
        return []
    answers = await asyncio.gather(*(_ask_one(choice, ledger, lease, node) for choice in choices))
    return [answer for answer in answers if answer is not None]


async def _ask_one(choice: Mapping[str, str], ledger: Ledger, lease: Lease, node: str) -> Host | None:
    parameters = {**with_options(choice, lease, node), "target_session_attrs": "any"}
    place = _named(choice.get("host") or choice.get("hostaddr", ""), choice.get("port", ""))
    try:
        wire = await connect(parameters, lease.renew_every)
        [reply] = await wire.ask([(ledger.statement("host", statements.HOST), ())], lease.renew_every)
    except (ConnectFailed, WireLost) as failure:
        log.debug("%s does not say which timeline it is on: %s", place, failure)
        return None
    wire.drop("only a question")
    if reply.error is not None or not reply.rows:
        log.debug("%s does not say which timeline it is on: %s", place, reply.error and reply.error.text)
        return None
    system, standby, timeline, started, position = reply.rows[0]
    return Host(place, system or "", int(timeline or 0), standby == "t", started or "", int(position or 0))


def _named(host: str, port: str) -> str:
    return f"{host}:{port}"


def lacking(addresses: Addresses, answers: Sequence[Host], system: str, started: str, position: int) -> list[str]:
    """Return the hosts of a DSN that may be promoted without what the primary had on its disk up to ``position``.

    ``system`` and ``started`` tell the primary itself. A host that does not answer may lack it; a name that stands for
    several servers lacks it when one of them does.
    """
    theirs = [answer for answer in answers if (answer.system, answer.started) != (system, started) or answer.standby]
    behind = {answer.address for answer in theirs if answer.system != system or answer.position < position}
    named = [_named(name or number, port) for name, number, port in addresses.hosts()]
    silent = set(named) - {answer.address for answer in answers} if len(named) > 1 else set()
    return [name for name in dict.fromkeys(named) if name in behind | silent]


def divided(hosts: Sequence[Host]) -> Iterator[str]:
    """Say which two hosts take writes side by side although no timeline tells which of them is the old one."""
    for one, other in combinations([host for host in hosts if not host.standby], 2):
        if one.system != other.system:
            yield (
                f"{DIVIDED}: {one.address} and {other.address} are different clusters, and a program could be led "
                "through each; name only one of them"
            )
        elif one.timeline == other.timeline and one.started != other.started:
            yield (
                f"{DIVIDED}: {one.address} and {other.address} are both primaries on timeline {one.timeline}; stop "
                "the one that is not wanted"
            )
