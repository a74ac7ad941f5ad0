"""The examination: connects to each host of the DSN as a program's session does, and asks the one that would be used.

Every wait here has an end, and their number is bounded: a network that swallows everything only makes it short.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from highlanderd.config import Configuration
from highlanderd.core.key import name_lock
from highlanderd.core.lease import Lease
from highlanderd.doctor import questions
from highlanderd.doctor.facts import Facts, Plan, Road, Setting, Shelf, Site
from highlanderd.doctor.findings import Finding, problem, warning
from highlanderd.doctor.hosts import judge_sites
from highlanderd.doctor.judgement import judge
from highlanderd.embedded.server import dsn_of
from highlanderd.postgres import fitness, health
from highlanderd.postgres.addresses import Addresses, Unfit, with_options
from highlanderd.postgres.diagnosis import diagnose
from highlanderd.postgres.dialling import connect
from highlanderd.postgres.fitness import ServerFacts
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import ConnectFailed, Reply, Statement, WireLost
from highlanderd.postgres.sql import connecting, upkeep
from highlanderd.postgres.wire import Wire

PATIENCE: Final = 5.0
"""Seconds for a connection, and for an answer: more than a daemon has, so that what is too slow can be told apart."""
SAMPLES: Final = 20
"""Round trips for a median; no new one begins after ``PATIENCE``."""
COMMITS: Final = 3


@dataclass(frozen=True, slots=True)
class Visit:
    """What came of one address."""

    site: Site
    facts: Facts | None = None
    """Of a primary."""
    failure: str = ""
    """Why a primary could not be examined."""


async def examine(configuration: Configuration) -> tuple[str, list[Finding]]:
    """Say whom it is about, and all that is to be said about it."""
    postgres, daemon = configuration.postgres, configuration.daemon
    dsn = postgres.dsn.get_secret_value()
    directory = configuration.embedded_directory
    addresses = Addresses(dsn if directory is None else dsn_of(directory))
    ledger = Ledger(postgres.schema_, daemon.namespace, postgres.lease)
    locks = {program.lock_id(daemon.namespace): name for name, program in configuration.programs.items()}
    locks |= {name_lock(daemon.namespace, name): name for name in configuration.programs}
    try:
        choices = await addresses.every(PATIENCE)
        plan = Plan(ledger, daemon.node, len(configuration.programs), directory is not None, len(choices), locks)
        visits = await asyncio.gather(*(_visit(address, plan) for address in choices))
    except (ConnectFailed, Unfit) as failure:
        return addresses.address, [problem(str(failure))]
    if directory is not None and not any(visit.site.server_facts for visit in visits):
        return addresses.address, [
            warning(f"no embedded server runs in {directory}: highlanderd starts it; ask again while it runs")
        ]
    return _judged(visits, addresses.address)


def _judged(visits: Sequence[Visit], place: str) -> tuple[str, list[Finding]]:
    findings = [*judge_sites([visit.site for visit in visits])]
    for visit in visits:
        said = visit.site.server_facts
        if said is None or said.standby:
            continue
        whom = f"{place}: PostgreSQL {said.version}, role {said.role}"
        if visit.facts is None:
            return whom, [*findings, problem(f"the server could not be examined: {visit.failure}")]
        return whom, [*findings, *judge(visit.facts)]
    return place, findings


async def _visit(address: Mapping[str, str], plan: Plan) -> Visit:
    """Connect to one address, whatever it is, and examine a primary at once: a session that idles is ended."""
    address = {**address, "target_session_attrs": "any"}
    place = ":".join(filter(None, (address.get("host") or address.get("hostaddr", ""), address.get("port"))))
    begun, wire = asyncio.get_running_loop().time(), None
    try:
        wire = await _connected(address, plan)
        fitness.refuse_software(wire.server_version, wire.parameter)
        [hello] = await wire.ask([(plan.ledger.statement("hello", connecting.IDENTIFY), ())], PATIENCE)
        said = fitness.server_facts(hello, wire.backend_pid, wire.parameter("session_authorization"))
        site = Site(place, server_facts=said, seconds=asyncio.get_running_loop().time() - begun)
        return Visit(site) if said.standby else await _examined(wire, address, site, said, plan)
    except (ConnectFailed, Unfit, WireLost) as failure:
        return Visit(Site(place, str(failure)))
    finally:
        if wire is not None:
            wire.drop("examined")


async def _examined(wire: Wire, address: Mapping[str, str], site: Site, said: ServerFacts, plan: Plan) -> Visit:
    try:
        return Visit(site, await _facts(wire, address, site, said, plan))
    except (ConnectFailed, WireLost, OSError) as failure:
        return Visit(site, failure=str(failure))


async def _connected(address: Mapping[str, str], plan: Plan) -> Wire:
    # Not counted among the nodes, by nobody.
    ours = {**with_options(address, plan.lease, plan.node), "application_name": "highlanderd --doctor"}
    try:
        return await connect(ours, PATIENCE)
    except ConnectFailed as failure:
        if failure.timed_out:
            raise
        return await diagnose(failure, address, ours, PATIENCE)


async def _facts(wire: Wire, address: Mapping[str, str], site: Site, said: ServerFacts, plan: Plan) -> Facts:
    """Ask for everything. Raises ConnectFailed, WireLost or OSError.

    The other session comes last: while it is waited for, this one would be silent for longer than it may be.
    """
    asked = [questions.EFFECTIVE, questions.CENSUS, questions.STANDBYS, questions.shelf_of(plan.ledger)]
    effective, census, standbys, shelf_said = await _asked(wire, *asked)
    limits, nodes = questions.limits(census)
    replication, full_page_writes, seen_as = questions.standbys(standbys)
    road = _road(wire, seen_as)
    shelf = questions.shelf(shelf_said)
    ledger_lease, refusal = await _ledger(wire, plan.ledger, said, shelf)
    notes = () if ledger_lease is None else (*await _health(wire, plan.ledger), *await _holders(wire, plan))
    answers, ahead = await _round_trips(wire)
    writes = () if ledger_lease is None or replication.hangs else await _commits(wire, plan.ledger)
    return Facts(
        plan=plan,
        site=site,
        server_facts=said,
        settings={name or "": value or "" for name, value in effective.rows},
        plain=await _plain(address),
        road=road,
        limits=limits,
        nodes=nodes,
        replication=replication,
        full_page_writes=full_page_writes,
        shelf=shelf,
        ledger_lease=ledger_lease,
        refusal=refusal,
        notes=notes,
        answers=answers,
        writes=writes,
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


async def _ledger(wire: Wire, ledger: Ledger, said: ServerFacts, shelf: Shelf) -> tuple[Lease | None, str]:
    """Return the ledger's lease, or why it may not be used; neither where it is not there or not ours to read."""
    if shelf.tables < len(questions.TABLES) or shelf.missing:
        return None, ""
    [meta] = await wire.ask([(ledger.statement("meta", connecting.META), ())], PATIENCE)
    try:
        return fitness.ledgers_meta(meta, ledger, said)[0], ""
    except (Unfit, ConnectFailed) as refusal:
        return None, str(refusal)


async def _health(wire: Wire, ledger: Ledger) -> tuple[str, ...]:
    """Say what others do to the ledger's tables."""
    [reply] = await wire.ask([(ledger.statement("health", upkeep.HEALTH), ())], PATIENCE)
    return tuple(health.judge(reply.rows[0])) if reply.rows else ()


async def _holders(wire: Wire, plan: Plan) -> tuple[str, ...]:
    """Say who holds a program's lock and could never lead it."""
    question = plan.ledger.statement("holders", upkeep.HOLDERS)
    [reply] = await wire.ask([(question, ([*plan.locks],))], PATIENCE)
    return tuple(
        f"{who} holds the advisory lock of {plan.locks[int(lock or 0)]} and may not use the ledger, so that nobody can "
        "lead that program: end that session; if it should not be there, REVOKE CONNECT ON DATABASE ... FROM PUBLIC"
        for lock, who, may_lead in reply.rows
        if may_lead != "t"
    )


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


async def _commits(wire: Wire, ledger: Ledger) -> tuple[float, ...]:
    """Measure durable commits; none where the row could not be locked. Asked last: the wire may not survive it.

    One that does not come back counts with the time for which it was waited for.
    """
    loop = asyncio.get_running_loop()
    found: list[float] = []
    for _ in range(COMMITS):
        sent = loop.time()
        try:
            [reply] = await wire.ask([(ledger.statement("commit", questions.COMMIT), ())], PATIENCE)
        except WireLost:
            return (*found, loop.time() - sent)
        if reply.error is None:
            found.append(loop.time() - sent)
    return tuple(found)


def _road(wire: Wire, seen_as: str) -> Road:
    if not wire.open:  # its descriptor may be somebody else's by now
        raise WireLost("the connection ended during the examination")
    with socket.socket(fileno=os.dup(wire.descriptor)) as ours:
        if ours.family == socket.AF_UNIX:
            return Road("", seen_as, 0)
        address, port = ours.getsockname()[:2]
        timeout = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    return Road(f"{address.removeprefix('::ffff:')}:{port}", seen_as, timeout)
