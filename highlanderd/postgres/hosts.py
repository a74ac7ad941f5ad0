"""Ask each host of a DSN for its timeline: the highest that any of them knows rules.

A session goes to one host. The others may know what that one does not: that a standby was promoted in its absence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

from msgspec import Struct

from highlanderd.core.lease import Lease
from highlanderd.postgres.addresses import Addresses, Unfit, with_options
from highlanderd.postgres.dialling import connect
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.notes import Notes
from highlanderd.postgres.replies import ConnectFailed, WireLost
from highlanderd.postgres.sql import connecting
from highlanderd.postgres.timelines import Timelines

log = logging.getLogger(__name__)

DIVIDED: Final = "postgres.dsn names two servers that both take writes"


class Host(Struct, frozen=True):
    """What one host says of itself: the answer to HOST."""

    address: str
    system: str
    timeline: int
    """The highest that it knows: a primary's own, or the one that a standby follows."""
    standby: bool
    started: str
    """When it was started, as a bare token: two addresses may lead to one server."""
    position: int
    """In bytes: up to here WAL is on its disk."""


class Answers(Struct, frozen=True):
    """The answers of the hosts of a DSN."""

    hosts: Sequence[Host] = ()
    silent: Sequence[str] = ()
    """Hosts that may be there and did not answer: names that were not resolved, and addresses."""


class Hosts:
    """The hosts of one DSN, and what they say of their timelines."""

    def __init__(self, addresses: Addresses, ledger: Ledger, node: str, timelines: Timelines, notes: Notes) -> None:
        self._addresses, self._ledger, self._node = addresses, ledger, node
        self._timelines, self._notes = timelines, notes
        self._asking: asyncio.Future[None] | None = None
        """The latest question to every host: all who ask while it is under way share it."""

    @property
    def asked(self) -> bool:
        """Whether every host was asked, and none is being asked."""
        return self._asking is not None and self._asking.done()

    async def learn(self, lease: Lease) -> None:
        """Ask every host for its system and timeline. The highest timeline rules.

        A standby's answer counts, too: sessions with servers on a lower timeline are dropped, and new ones refused.
        Takes three fifths of a lease at most. All who ask at the same time share one question.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_every_host(lease))
        await asyncio.shield(self._asking)

    async def _ask_every_host(self, lease: Lease) -> None:
        known = (await ask(self._addresses, self._ledger, lease, self._node)).hosts
        for host in known:
            self._timelines.learn(host.system, host.timeline)
        self._notes.warn("hosts", divided(known))

    async def lacking(self, written: Written, lease: Lease) -> list[str]:
        """Ask every host, and return those that may lack what the primary has written."""
        return lacking(await ask(self._addresses, self._ledger, lease, self._node), written)


async def ask(addresses: Addresses, ledger: Ledger, lease: Lease, node: str) -> Answers:
    """Ask all hosts at the same time. Names, connections and answers have a fifth of a lease each.

    A DSN with one host names no other to ask: there are no answers then.
    """
    try:
        choices = await addresses.every(lease.renew_every)
    except (ConnectFailed, Unfit):
        choices = []
    named = [_named(name or number, port) for name, number, port in addresses.hosts()]
    if max(len(choices), len(named)) < 2:
        return Answers()
    answered = await asyncio.gather(*(_ask_one(choice, ledger, lease, node) for choice in choices))
    answers = {index: host for index, host in enumerate(answered) if host is not None}
    unresolved = [name for name in named if name not in map(_name, choices)]
    return Answers(tuple(answers.values()), (*unresolved, *silent(choices, answers.keys())))


def silent(choices: Sequence[Mapping[str, str]], answered: Collection[int]) -> Iterator[str]:
    """List the addresses that did not answer, except those of a family that no server of this name listens on.

    A name with addresses of both families often stands for a server that listens on one of them.
    """
    spoken = {(_name(choices[index]), _family(choices[index])) for index in answered}
    answering = {name for name, _ in spoken}
    for index, choice in enumerate(choices):
        name = _name(choice)
        if index not in answered and (name not in answering or (name, _family(choice)) in spoken):
            several = sum(_name(other) == name for other in choices) > 1
            yield f"{name} at {choice['hostaddr']}" if several else name


def _family(choice: Mapping[str, str]) -> bool:
    return ":" in choice.get("hostaddr", "")


def _name(choice: Mapping[str, str]) -> str:
    return _named(choice.get("host") or choice.get("hostaddr", ""), choice.get("port", ""))


def _named(host: str, port: str) -> str:
    return f"{host}:{port}"


async def _ask_one(choice: Mapping[str, str], ledger: Ledger, lease: Lease, node: str) -> Host | None:
    name = _name(choice)
    try:
        parameters = {**with_options(choice, lease, node), "target_session_attrs": "any"}
        wire = await connect(parameters, lease.renew_every)
        [reply] = await wire.ask([(ledger.statement("host", connecting.HOST), ())], lease.renew_every)
    except (ConnectFailed, Unfit, WireLost) as failure:
        log.debug("%s does not say which timeline it is on: %s", name, failure)
        return None
    wire.drop("only a question")
    if reply.error is not None or not reply.rows:
        log.debug("%s does not say which timeline it is on: %s", name, reply.error and reply.error.text)
        return None
    system, standby, timeline, started, position = reply.rows[0]
    return Host(name, system or "", int(timeline or 0), standby == "t", started or "", int(position or 0))


class Written(Struct, frozen=True):
    """Up to where a primary has written; ``system`` and ``started`` identify it."""

    system: str
    timeline: int
    started: str
    position: int
    """In bytes."""


def lacking(answers: Answers, written: Written) -> list[str]:
    """Return the hosts of a DSN that may be promoted without what the primary had on its disk.

    A host that does not answer may lack it. A standby on another timeline has another past, whatever its position.
    """
    behind = [host.address for host in answers.hosts if not _has(host, written)]
    return list(dict.fromkeys([*behind, *answers.silent]))


def _has(host: Host, written: Written) -> bool:
    """Return whether a host is the primary itself, or has on its disk what the primary has written."""
    if not host.standby:
        return (host.system, host.started) == (written.system, written.started)
    return (host.system, host.timeline) == (written.system, written.timeline) and host.position >= written.position


def divided(hosts: Sequence[Host]) -> Iterator[str]:
    """Return a warning about each two hosts that both take writes, where no timeline shows which one is old."""
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
