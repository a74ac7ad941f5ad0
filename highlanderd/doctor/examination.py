"""The examination: connects to each host of the DSN as a program's session does, and asks the one that would be used.

Every wait here has an end, and their number is bounded: a network that swallows everything only makes it short.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from highlanderd.config import Configuration
from highlanderd.core.key import AdvisoryLock, name_lock
from highlanderd.core.lease import Lease
from highlanderd.doctor import questions
from highlanderd.doctor.facts import AskedHost, ConnectionEnds, Facts, Plan, SchemaAccess, Setting
from highlanderd.doctor.findings import Finding, problem, warning
from highlanderd.doctor.hosts import judge_hosts
from highlanderd.doctor.judgement import judge
from highlanderd.doctor.namesakes import instance_at, namesakes
from highlanderd.embedded.server import dsn_of
from highlanderd.postgres import fitness, health
from highlanderd.postgres.addresses import Addresses, Unfit, with_options
from highlanderd.postgres.diagnosis import diagnose
from highlanderd.postgres.dialling import connect
from highlanderd.postgres.fitness import ServerFacts
from highlanderd.postgres.ledger import Ledger
from highlanderd.postgres.replies import ConnectFailed, RefusedConnection, Reply, Statement, WireLost
from highlanderd.postgres.sql import connecting, upkeep
from highlanderd.postgres.wire import Wire

PATIENCE: Final = 5.0
"""Seconds for a connection, and for an answer: more than a daemon has, to tell a slow server from a dead one."""
SAMPLES: Final = 20
"""Round trips for a median; no new one begins after ``PATIENCE``."""
COMMITS: Final = 3


class Visit(Struct, frozen=True):
    """What was found at one address."""

    host: AskedHost
    facts: Facts | None = None
    """Of a primary."""
    failure: str = ""
    """Why a primary could not be examined."""
    silent: bool = False
    """No server is there, not even one that refuses."""


async def examine(configuration: Configuration) -> tuple[str, list[Finding]]:
    """Return the server that was examined, in words, and everything that was found."""
    postgres, daemon = configuration.postgres, configuration.daemon
    dsn = postgres.dsn.get_secret_value()
    directory = configuration.embedded_directory
    addresses = Addresses(dsn if directory is None else dsn_of(directory))
    ledger = Ledger(postgres.schema_, daemon.namespace, postgres.lease)
    locks = {program.advisory_lock(daemon.namespace): name for name, program in configuration.programs.items()}
    locks |= {AdvisoryLock(name_lock(daemon.namespace, name)): name for name in configuration.programs}
    try:
        choices = await addresses.every(PATIENCE)
        plan = Plan(
            ledger,
            daemon.node,
            len(configuration.programs),
            directory is not None,
            len(choices),
            locks,
            str(daemon.state_dir),
            postgres.standby_connections == "shared",
            instance_at(daemon.state_dir),
        )
        visits = await asyncio.gather(*(_visit(address, plan) for address in choices))
    except (ConnectFailed, Unfit) as failure:
        return addresses.address, [problem(str(failure))]
    if directory is not None and all(visit.silent for visit in visits):
        return addresses.address, [
            warning(f"no embedded server runs in {directory}: highlanderd starts it; ask again while it runs")
        ]
    return _judged(visits, addresses.address)


def _judged(visits: Sequence[Visit], place: str) -> tuple[str, list[Finding]]:
    findings = [*judge_hosts([visit.host for visit in visits])]
    for visit in visits:
        said = visit.host.server_facts
        if said is None or said.standby:
            continue
        whom = f"{place}: PostgreSQL {said.version}, role {said.role}"
        if visit.facts is None:
            return whom, [*findings, problem(f"the server could not be examined: {visit.failure}")]
        return whom, [*findings, *judge(visit.facts)]
    return place, findings


async def _visit(address: Mapping[str, str], plan: Plan) -> Visit:
    """Connect to one address, and examine it at once if it is a primary: the server ends a session that idles."""
    address = {**address, "target_session_attrs": "any"}
    place = ":".join(filter(None, (address.get("host") or address.get("hostaddr", ""), address.get("port"))))
    begun, wire = asyncio.get_running_loop().time(), None
    try:
        wire = await _connected(address, plan)
        fitness.refuse_software(wire.server_version, wire.parameter)
        [identity] = await wire.ask([(plan.ledger.statement("hello", connecting.IDENTIFY), ())], PATIENCE)
        said = fitness.server_facts(identity, wire.backend_pid, wire.parameter("session_authorization"))
        host = AskedHost(place, server_facts=said, seconds=asyncio.get_running_loop().time() - begun)
        return Visit(host) if said.standby else await _examined(wire, address, host, said, plan)
    except (ConnectFailed, Unfit, WireLost) as failure:
        return Visit(AskedHost(place, str(failure)), silent=_silent(failure))
    finally:
        if wire is not None:
            wire.drop("examined")


def _silent(failure: Exception) -> bool:
    """Return whether there was nobody to refuse, and not merely no answer in time."""
    if isinstance(failure, RefusedConnection):
        return False
    return isinstance(failure, ConnectFailed) and not failure.timed_out


async def _examined(wire: Wire, address: Mapping[str, str], host: AskedHost, said: ServerFacts, plan: Plan) -> Visit:
    try:
        return Visit(host, await _facts(wire, address, host, said, plan))
    except (ConnectFailed, WireLost, OSError) as failure:
        return Visit(host, failure=str(failure))


async def _connected(address: Mapping[str, str], plan: Plan) -> Wire:
    # With another name than a daemon's, so that nothing counts this session among the nodes.
    ours = {**with_options(address, plan.lease, plan.node), "application_name": "highlanderd --doctor"}
    try:
        return await connect(ours, PATIENCE)
    except ConnectFailed as failure:
        if failure.timed_out:
            raise
        return await diagnose(failure, address, ours, PATIENCE)


async def _facts(wire: Wire, address: Mapping[str, str], host: AskedHost, said: ServerFacts, plan: Plan) -> Facts:
    """Ask for everything. Raises ConnectFailed, WireLost or OSError."""
    effective, census, standbys, access_reply = await _asked(
        wire, questions.EFFECTIVE, questions.CENSUS, questions.STANDBYS, questions.access_of(plan.ledger)
    )
    limits, nodes = questions.limits(census)
    replication, full_page_writes, seen_as = questions.standbys(standbys)
    ends, access = _ends(wire, seen_as), questions.access(access_reply)
    ledger_lease, refusal, notes = await _ledger(wire, plan, said, access)
    answers, ahead = await _round_trips(wire)
    writes = () if ledger_lease is None or replication.hangs else await _commits(wire, plan.ledger)
    return Facts(
        plan=plan,
        host=host,
        server_facts=said,
        settings={name or "": value or "" for name, value in effective.rows},
        plain=await _plain(address),  # comes last: this session may not be silent for as long as that takes
        ends=ends,
        limits=limits,
        nodes=nodes,
        replication=replication,
        full_page_writes=full_page_writes,
        access=access,
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
    """Return the settings of a session that brings none of its own."""
    try:
        wire = await connect({**address, "gssencmode": "disable", "application_name": "highlanderd --doctor"}, PATIENCE)
    except ConnectFailed:
        return {}  # this session has the last connection that is free
    try:
        asks = [questions.PLAIN, questions.PATIENT, questions.PLAIN_AGAIN]
        return questions.plain(await wire.ask([(statement, ()) for statement in asks], PATIENCE))
    except WireLost:
        return {}
    finally:
        wire.drop("examined")


async def _ledger(
    wire: Wire, plan: Plan, said: ServerFacts, access: SchemaAccess
) -> tuple[Lease | None, str, tuple[str, ...]]:
    """Return the ledger's lease, or else why it may not be used, and what other sessions do to it.

    All are empty where the ledger is missing or may not be read.
    """
    if access.tables < len(questions.TABLES) or access.missing:
        return None, "", ()
    [meta] = await wire.ask([(plan.ledger.statement("meta", connecting.META), ())], PATIENCE)
    try:
        lease = fitness.ledgers_meta(meta, plan.ledger, said)[0]
    except (Unfit, ConnectFailed) as refusal:
        return None, str(refusal), ()
    notes = (*await _health(wire, plan.ledger), *await _holders(wire, plan), *await namesakes(wire, plan, PATIENCE))
    return lease, "", notes


async def _health(wire: Wire, ledger: Ledger) -> tuple[str, ...]:
    """Return what other sessions do to the ledger's tables."""
    [reply] = await wire.ask([(ledger.statement("health", upkeep.HEALTH), ())], PATIENCE)
    return tuple(health.judge(reply.rows[0])) if reply.rows else ()


async def _holders(wire: Wire, plan: Plan) -> tuple[str, ...]:
    """Return the sessions that hold a program's lock and could never lead it."""
    question = plan.ledger.statement("holders", upkeep.HOLDERS)
    held = {lock.number: name for lock, name in plan.locks.items()}
    values = [lock.number for lock in plan.locks], [lock.space for lock in plan.locks]
    [reply] = await wire.ask([(question, values)], PATIENCE)
    return tuple(
        f"{who} holds the advisory lock of {held[int(lock or 0)]} and may not use the ledger, so that no node can "
        "lead that program: end that session; if it should not be there, REVOKE CONNECT ON DATABASE ... FROM PUBLIC"
        for lock, who, may_lead in reply.rows
        if may_lead != "t"
    )


async def _round_trips(wire: Wire) -> tuple[tuple[float, ...], float]:
    """Return the times of answers, and how far the server's clock is ahead, which the quickest answer shows best."""
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
    """Return the times of durable commits; none where the row could not be locked.

    A commit without an answer counts with the time for which it was waited for. Asked last, because that ends the wire.
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


def _ends(wire: Wire, seen_as: str) -> ConnectionEnds:
    if not wire.open:  # another file may have its descriptor by now
        raise WireLost("the connection ended during the examination")
    with socket.socket(fileno=os.dup(wire.descriptor)) as ours:
        if ours.family == socket.AF_UNIX:
            return ConnectionEnds("", seen_as, 0)
        address, port = ours.getsockname()[:2]
        timeout = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    return ConnectionEnds(f"{address.removeprefix('::ffff:')}:{port}", seen_as, timeout)
