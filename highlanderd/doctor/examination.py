"""The examination: connects to each host of the DSN as a program's session does, and asks the one that would be used.

Every wait here has an end, and their number is bounded: a network that swallows everything only makes it short.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from highlanderd.config import Configuration
from highlanderd.core.lease import Lease
from highlanderd.doctor import questions
from highlanderd.doctor.facts import Facts, Plan, Road, Setting, Shelf, Site
from highlanderd.doctor.findings import Finding, problem, warning
from highlanderd.doctor.judgement import judge
from highlanderd.doctor.sites import judge_sites
from highlanderd.embedded.server import directory_of, dsn_of
from highlanderd.postgres import fitness, ledger
from highlanderd.postgres.addresses import Addresses, Unfit, dressed
from highlanderd.postgres.fitness import Greeting
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.server import diagnosis
from highlanderd.postgres.wire import ConnectFailed, Reply, Statement, Wire, WireLost, connect

PATIENCE: Final = 5.0
"""Seconds for a connection, and for an answer: more than a daemon has, so that what is too slow can be told apart."""
SAMPLES: Final = 20
"""Round trips for a median; no new one begins after ``PATIENCE``."""
COMMITS: Final = 3


@dataclass(frozen=True, slots=True)
class Visit:
    """What came of one address."""

    address: Mapping[str, str]
    site: Site
    wire: Wire | None = None

    def leave(self) -> None:
        """Close the connection, if there is one."""
        if self.wire is not None:
            self.wire.drop("examined")


async def examine(configuration: Configuration) -> tuple[str, list[Finding]]:
    """Say whom it is about, and all that is to be said about it."""
    postgres, daemon = configuration.postgres, configuration.daemon
    dsn = postgres.dsn.get_secret_value()
    directory = directory_of(dsn, daemon.state_dir)
    addresses = Addresses(dsn if directory is None else dsn_of(directory))
    book = Ledger(postgres.schema_, daemon.namespace, postgres.lease)
    plan = Plan(book, daemon.node, len(configuration.programs), embedded=directory is not None)
    try:
        visits = await asyncio.gather(*(_visit(address, plan) for address in await addresses.every(PATIENCE)))
    except ConnectFailed as failure:
        return addresses.place, [problem(str(failure))]
    try:
        if directory is not None and not any(visit.wire for visit in visits):
            return addresses.place, [
                warning(f"no embedded server runs in {directory}: highlanderd starts it; ask again while it runs")
            ]
        return await _judged(visits, addresses.place, plan)
    finally:
        for visit in visits:
            visit.leave()


async def _judged(visits: Sequence[Visit], place: str, plan: Plan) -> tuple[str, list[Finding]]:
    findings = [*judge_sites([visit.site for visit in visits])]
    for visit in visits:
        said = visit.site.greeting
        if visit.wire is None or said is None or said.standby:
            continue
        whom = f"{place}: PostgreSQL {said.version}, role {said.role}"
        try:
            facts = await _facts(visit.wire, visit, said, plan)
        except (ConnectFailed, WireLost) as failure:
            return whom, [*findings, problem(f"the server could not be examined: {failure}")]
        return whom, [*findings, *judge(facts)]
    return place, findings


async def _visit(address: Mapping[str, str], plan: Plan) -> Visit:
    """Connect to one address, whatever it is."""
    address = {**address, "target_session_attrs": "any"}
    place = ":".join(filter(None, (address.get("host") or address.get("hostaddr", ""), address.get("port"))))
    begun, wire = asyncio.get_running_loop().time(), None
    try:
        wire = await _connected(address, plan)
        fitness.refuse_old(wire.server_version)
        [hello] = await wire.ask([(plan.book.statement("hello", ledger.HELLO), ())], PATIENCE)
        said = fitness.greeting(hello, wire.backend_pid)
    except (ConnectFailed, Unfit, WireLost) as failure:
        if wire is not None:
            wire.drop("not fit for use")
        return Visit(address, Site(place, str(failure)))
    return Visit(address, Site(place, greeting=said, seconds=asyncio.get_running_loop().time() - begun), wire)


async def _connected(address: Mapping[str, str], plan: Plan) -> Wire:
    # Not counted among the nodes, by nobody.
    ours = {**dressed(address, plan.lease, plan.node), "application_name": "highlanderd --doctor"}
    try:
        return await connect(ours, PATIENCE)
    except ConnectFailed as failure:
        if failure.timed_out:
            raise
        return await diagnosis(failure, address, ours, PATIENCE)


async def _facts(wire: Wire, visit: Visit, said: Greeting, plan: Plan) -> Facts:
    """Ask for everything. Raises ConnectFailed or WireLost."""
    asked = [questions.EFFECTIVE, questions.CENSUS, questions.STANDBYS, questions.shelf_of(plan.book)]
    effective, census, standbys, shelf_said = await _asked(wire, *asked)
    limits, nodes = questions.limits(census)
    replication, full_page_writes, seen_as = questions.standbys(standbys)
    shelf = questions.shelf(shelf_said)
    ruling, refusal = await _ledger(wire, plan.book, said, shelf)
    answers, ahead = await _round_trips(wire)
    hangs = replication.names and not replication.attached
    return Facts(
        plan=plan,
        site=visit.site,
        greeting=said,
        settings={name or "": value or "" for name, value in effective.rows},
        plain=await _plain(visit.address),
        road=_road(wire, seen_as),
        limits=limits,
        nodes=nodes,
        replication=replication,
        full_page_writes=full_page_writes,
        shelf=shelf,
        ruling=ruling,
        refusal=refusal,
        answers=answers,
        writes=() if ruling is None or hangs else await _commits(wire, plan.book),
        ahead=ahead,
    )


async def _asked(wire: Wire, *statements: Statement) -> list[Reply]:
    replies = await wire.ask([(statement, ()) for statement in statements], PATIENCE)
    for reply in replies:
        if reply.error is not None:
            raise ConnectFailed(reply.error.text)
    return replies


async def _plain(address: Mapping[str, str]) -> dict[str, Setting]:
    """Look at the settings with a session that brings none of ours."""
    try:
        wire = await connect({**address, "gssencmode": "disable", "application_name": "highlanderd --doctor"}, PATIENCE)
    except ConnectFailed:
        return {}  # the last connection was ours
    try:
        asks = [questions.PLAIN, questions.PATIENT, questions.PLAIN_AGAIN]
        return questions.plain(await wire.ask([(statement, ()) for statement in asks], PATIENCE))
    except WireLost:
        return {}
    finally:
        wire.drop("examined")


async def _ledger(wire: Wire, book: Ledger, said: Greeting, shelf: Shelf) -> tuple[Lease | None, str]:
    """Give the ledger's lease, or why it may not be used; neither where it is not there or not ours to read."""
    if shelf.tables < len(questions.TABLES) or shelf.missing:
        return None, ""
    [meta] = await wire.ask([(book.statement("meta", ledger.META), ())], PATIENCE)
    try:
        return fitness.ledgers_lease(meta, book, said), ""
    except (Unfit, ConnectFailed) as refusal:
        return None, str(refusal)


async def _round_trips(wire: Wire) -> tuple[tuple[float, ...], float]:
    """Measure answers, and how far the server's clock is ahead: the quickest answer tells it best."""
    loop = asyncio.get_running_loop()
    found: list[tuple[float, float]] = []
    end = loop.time() + PATIENCE
    while len(found) < SAMPLES and (not found or loop.time() < end):
        sent, clock = loop.time(), time.time()
        [reply] = await _asked(wire, questions.CLOCK)
        took = loop.time() - sent
        found.append((took, float(reply.rows[0][0] or 0) - clock - took / 2))
    return tuple(took for took, _ in found), min(found)[1]


async def _commits(wire: Wire, book: Ledger) -> tuple[float, ...]:
    """Measure durable commits; none where the row could not be locked. Asked last: the wire may not survive it."""
    loop = asyncio.get_running_loop()
    found = []
    with suppress(WireLost):
        for _ in range(COMMITS):
            sent = loop.time()
            found.append(PATIENCE)  # unless it comes back
            [reply] = await wire.ask([(book.statement("commit", questions.COMMIT), ())], PATIENCE)
            found.pop()
            if reply.error is None:
                found.append(loop.time() - sent)
    return tuple(found)


def _road(wire: Wire, seen_as: str) -> Road:
    with socket.socket(fileno=os.dup(wire.descriptor)) as ours:
        if ours.family == socket.AF_UNIX:
            return Road("", seen_as, 0)
        address, port = ours.getsockname()[:2]
        timeout = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    return Road(f"{address.removeprefix('::ffff:')}:{port}", seen_as, timeout)
