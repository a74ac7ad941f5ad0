"""Change the lengths of leases while programs run: the ledger's own lease, and maintenance.

A row carries the lease that it was written under, so leaders may change theirs one by one. No leader may use a lease
above the ceiling, because nodes that cannot see its row wait for the ceiling. So the ceiling is raised first. Leaders
are given the longer lease only when the servers that may be promoted have the ceiling on their disks.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable
from typing import Final

from highlanderd.core.lease import LONGEST, SHORTEST, Lease, maintenance_lease, replaced_within
from highlanderd.core.status import LeaseReport
from highlanderd.durations import LONGEST_OUTAGE, clock, shown
from highlanderd.errors import HighlanderError, NeedsForce
from highlanderd.postgres.hosts import Written
from highlanderd.postgres.ledger import LedgerFacts
from highlanderd.postgres.listener import Listener
from highlanderd.postgres.replies import Reply
from highlanderd.postgres.sql import lengths
from highlanderd.postgres.survey import Leader

log = logging.getLogger(__name__)

EVIDENCE_WITHIN: Final = 5.0
"""Seconds for standbys to write the ceiling to their disks."""
EVIDENCE_EVERY: Final = 0.1
"""Seconds between two looks at them."""


async def set_lease(listener: Listener, seconds: float, *, force: bool) -> None:
    """Change the ledger's lease. Raises HighlanderError with the cure, NeedsForce where evidence is lacking."""
    if not SHORTEST <= seconds <= LONGEST:
        raise HighlanderError(f"a lease has {SHORTEST:g} to {LONGEST:g} seconds, not {seconds:g}")
    facts = await listener.fresh_facts()
    if facts.version == 1:
        await _confirmed(listener, "set_lease", lengths.SET_LEASE_1, seconds)
        return
    _refuse_unsettled(facts)
    if facts.maintenance is not None:
        until = clock(facts.maintenance.until, time.time())
        raise HighlanderError(
            f"maintenance is on until {until}, and its leases were made for the present one; end it "
            "with `highlanderctl maintenance off`, or wait for its end"
        )
    if seconds > facts.lease:
        await _promise(listener, seconds, force=force)
    await _changed(listener, "set_lease", lengths.SET_LEASE, seconds, facts.lease)


async def begin_maintenance(listener: Listener, outage: float, *, author: str, reason: str, force: bool) -> None:
    """Have leaders use a lease that bears an outage of ``outage`` seconds. A second maintenance replaces the first.

    Raises HighlanderError with the cure, NeedsForce where evidence is lacking.
    """
    if not 0 < outage <= LONGEST_OUTAGE:
        raise HighlanderError(f"maintenance is for an outage of up to {shown(LONGEST_OUTAGE)}, not {shown(outage)}")
    facts = await listener.fresh_facts()
    _refuse_old(facts)
    _refuse_unsettled(facts)
    length = maintenance_lease(facts.lease, outage)
    if length <= facts.lease:
        raise HighlanderError(
            f"an outage of {shown(outage)} costs no child anyway: the ledger's lease of {shown(facts.lease)} bears it"
        )
    await _promise(listener, length, force=force)
    values = (outage, length, facts.lease, author, reason)
    await _changed(listener, "begin_maintenance", lengths.BEGIN_MAINTENANCE, *values)


async def end_maintenance(listener: Listener) -> None:
    """Have leaders go back to the ledger's lease. Raises HighlanderError."""
    _refuse_old(await listener.fresh_facts())
    await _confirmed(listener, "end_maintenance", lengths.END_MAINTENANCE)


async def report(listener: Listener) -> LeaseReport:
    """Return the lengths in force, and the leaders whose rows do not carry theirs yet. Raises HighlanderError."""
    return summary(await listener.fresh_facts(), listener.leaders.values())


def summary(facts: LedgerFacts, leaders: Iterable[Leader]) -> LeaseReport:
    """Return what facts and rows say together."""
    led = [leader for leader in leaders if leader.leads]
    unseen = () if facts.settled else (facts.ceiling,)  # a row that was lost may have promised as much
    longest = max([facts.wanted, *unseen, *(leader.trusted_for for leader in led)])
    return LeaseReport(
        lease=facts.lease,
        in_force=facts.wanted,
        ceiling=facts.ceiling,
        maintenance=facts.maintenance,
        replaced_within=replaced_within(longest, facts.lease),
        pending=tuple(
            sorted(f"{leader.program} on {leader.node}" for leader in led if leader.trusted_for != facts.wanted)
        ),
    )


def _refuse_old(facts: LedgerFacts) -> None:
    if facts.version == 1:
        raise HighlanderError(
            "the ledger has schema 1, and maintenance needs 2: see what `highlanderctl ledger migrate` waits for"
        )


def _refuse_unsettled(facts: LedgerFacts) -> None:
    if not facts.settled:
        raise HighlanderError(
            "the ledger has not settled on this server yet: a leader may live whose row was lost. The daemons settle "
            f"it within {shown(Lease(facts.ceiling).resumed_within)} of their first answer from it; try again then"
        )


async def _changed(listener: Listener, name: str, sql: str, *values: float | str) -> None:
    reply = await _confirmed(listener, name, sql, *values)
    if reply.affected != 1:
        raise HighlanderError("another command has changed the lengths of leases meanwhile; try again")


async def _confirmed(listener: Listener, name: str, sql: str, *values: float | str) -> Reply:
    reply = await listener.answer(name, sql, *values)
    if not reply.acknowledged:
        raise HighlanderError(f"PostgreSQL did not confirm it ({reply.warnings[0].text}); look, and try again")
    return reply


async def _promise(listener: Listener, length: float, *, force: bool) -> None:
    """Raise the ceiling, and wait until each server that may be promoted has it on its disk. Raises NeedsForce."""
    await _changed(listener, "raise_ceiling", lengths.RAISE_CEILING, length)
    [(system, timeline, started, position)] = (await listener.answer("inserted", lengths.INSERTED)).rows
    lacking = await _lacking(listener, Written(system or "", int(timeline or 0), started or "", int(position or 0)))
    if not lacking:
        return
    if not force:
        raise NeedsForce(
            f"{lacking}; after a failover to such a server two nodes could run one program. Cure that, or insist with "
            "--force if no failover will happen meanwhile"
        )
    log.warning("a longer lease is used although %s", lacking)


async def _lacking(listener: Listener, written: Written) -> str:
    """Return the standbys that may lack what was written, as part of a sentence; empty when none does.

    The primary lists those that are connected to it or have a slot. The hosts of the DSN are asked themselves.
    """
    end = asyncio.get_running_loop().time() + EVIDENCE_WITHIN
    while True:
        reply = await listener.answer("standbys", lengths.STANDBYS, written.position)
        silent = await listener.hosts_lacking(written)
        hidden = [name or "" for name, unseen, _ in reply.rows if unseen == "t"]
        late = [name or "" for name, unseen, has in reply.rows if unseen != "t" and has != "t"]
        late += [f"{host} (which postgres.dsn names)" for host in silent]
        if hidden and not late:
            names = (await listener.answer("synchronous", lengths.SYNCHRONOUS)).rows[0][0] or ""
            if every_commit_waits_for(names) == len(reply.rows):
                return ""
            return "this role may not see what standbys have received (GRANT pg_monitor to it)"
        if not late:
            return ""
        if asyncio.get_running_loop().time() >= end:
            return f"the longer lease is not on the disk of {', '.join(late)}"
        await asyncio.sleep(EVIDENCE_EVERY)


def every_commit_waits_for(names: str) -> int:
    """Return how many standbys ``synchronous_standby_names`` makes every commit wait for, if that is all it names.

    A quorum of some among several proves nothing of the one that is promoted.

    >>> [every_commit_waits_for(names) for names in ("s1", "FIRST 2 (s1, s2)", "ANY 2 (s1,s2)")]
    [1, 2, 2]
    >>> [every_commit_waits_for(names) for names in ("ANY 1 (s1, s2)", "s1, s2", "*", "")]
    [0, 0, 0, 0]
    """
    match = re.fullmatch(r"\s*(?:(?:FIRST|ANY)?\s*(\d+)\s*\((.*)\)|(.*))\s*", names, re.IGNORECASE)
    if match is None:
        return 0
    number, several, plain = match.groups()
    listed = [name.strip() for name in (several if number else plain).split(",") if name.strip()]
    waited_for = int(number or 1)
    return waited_for if len(listed) == waited_for and "*" not in listed else 0
