"""Judges the server that programs would use: facts go in, findings come out. No clock, no network.

What the daemon itself would refuse is judged by the daemon's own functions (``postgres/fitness.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

from highlanderd.core.lease import Lease
from highlanderd.doctor.facts import Facts, Limit, Plan
from highlanderd.doctor.findings import Finding, fine, problem, warning
from highlanderd.postgres import fitness
from highlanderd.postgres.addresses import Unfit, startup_options
from highlanderd.postgres.lease_change import every_commit_waits_for
from highlanderd.postgres.ledger import identifier
from highlanderd.postgres.warm import AHEAD, WARM
from highlanderd.structs import replace

ASSUMED_NODES: Final = 3
"""Assumed when fewer than two are connected: then their number cannot be seen."""
SLOW: Final = 50
"""Answers and commits should take a fiftieth of a lease at most: at ten times that a renewal is late."""
SAID_BY: Final = {
    "configuration file": " (postgresql.conf)",
    "database": " (ALTER DATABASE)",
    "user": " (ALTER ROLE)",
    "database user": " (ALTER ROLE ... IN DATABASE)",
}
"""Where a setting comes from, by the source that pg_settings names."""
CLOCKS_APART: Final = 1.0
"""Seconds of difference that make times of several hosts confusing to read."""


def judge(facts: Facts) -> Iterator[Finding]:
    """Return all findings, subject by subject."""
    for subject in SUBJECTS:
        yield from subject(facts)


def _durability(facts: Facts) -> Iterator[Finding]:
    try:
        fitness.refuse_forgetful(facts.server_facts, embedded=facts.plan.embedded)
    except Unfit as refusal:
        yield problem(str(refusal))
    if not facts.full_page_writes and not facts.plan.embedded:
        yield warning("full_page_writes is off, so a power cut may damage the ledger; switch it on")


def _ledger(facts: Facts) -> Iterator[Finding]:
    ledger, access, role = facts.plan.ledger, facts.access, facts.server_facts.role
    if access.missing:
        cure = " ".join(ledger.grants(role).split("\n")).strip()
        yield problem(f"role {role} lacks {', '.join(access.missing)}; let an administrator run: {cure}")
    elif access.tables == 0 and access.creatable:
        yield fine(f"there is no ledger in schema {ledger.schema} yet; the first daemon creates it")
    elif facts.refusal:
        yield problem(facts.refusal)
    elif facts.ledger_lease is None:
        yield problem(
            f"role {role} may not create the ledger in schema {ledger.schema} of database "
            f"{facts.server_facts.database}; let an administrator run what `highlanderd -c FILE --print-schema` prints"
        )
    elif note := fitness.overruled(ledger.lease, facts.ledger_lease):
        yield warning(note)
    else:
        yield fine(f"the ledger in schema {ledger.schema} can be used, and has the lease of this file")
    yield from map(warning, facts.notes)


def _settings(facts: Facts) -> Iterator[Finding]:
    """A session's own settings win over all others, unless something between it and the server drops them."""
    wanted = startup_options(facts.plan.lease)
    lost = _lost(facts, tcp=False)
    if lost:
        said = ", ".join(f"{name} is {instead}" for name, instead in lost.items())
        yield problem(
            f"the session's own settings do not hold: {said}; a pooler or a login trigger is in the way: give a dsn "
            "that leads to PostgreSQL directly, or exempt this role"
        )
    hurtful = [
        f"{name} = {setting.value}{SAID_BY.get(setting.source, '')}"
        for name, setting in sorted(facts.plain.items())
        if setting.source not in ("default", "client")
        and wanted[name] not in (setting.value, setting.value.split(" ")[0])
    ]
    if hurtful and not lost:
        yield fine(f"overridden for highlanderd's sessions, though not for your programs' own: {', '.join(hurtful)}")


def _ends(facts: Facts) -> Iterator[Finding]:
    ends = facts.ends
    if not ends.ours:
        yield fine("the connection is a Unix socket, which needs no TCP timeouts")
        return
    lost = _lost(facts, tcp=True)
    if lost:
        said = ", ".join(f"{name} ({instead})" for name, instead in lost.items())
        yield warning(
            f"the server's system does not take {said}; it notices a lost host by idle_session_timeout alone, after "
            f"{facts.plan.lease.length:g} s"
        )
    if not ends.user_timeout:
        yield warning("this host does not take tcp_user_timeout; a renewal that is never acknowledged is noticed late")
    if ends.ours != ends.theirs:
        yield warning(
            f"the server sees this connection come from {ends.theirs or 'a Unix socket'}, while it begins at "
            f"{ends.ours}: unless that is mere address translation, it is a proxy, and TCP timeouts reach no farther; "
            f"prefer a direct connection, or let it keep connections that are silent for {facts.plan.lease.length:g} s"
        )
    elif not lost:
        yield fine("TCP timeouts hold on both ends of the connection")


def _lost(facts: Facts, *, tcp: bool) -> dict[str, str]:
    """Return the settings that were sent and did not arrive, TCP's or all others: "5000 instead of 2000"."""
    return {
        name: f"{facts.settings.get(name, 'unknown')} instead of {value}"
        for name, value in startup_options(facts.plan.lease).items()
        if name.startswith("tcp_") == tcp and facts.settings.get(name) != value
    }


def _connections(facts: Facts) -> Iterator[Finding]:
    nodes = facts.nodes if facts.nodes > 1 else ASSUMED_NODES
    programs = facts.plan.programs
    said = f"{programs} program{'' if programs == 1 else 's'} on {nodes} nodes"
    said += " (as many as are connected)" if facts.nodes > 1 else " (assumed, for fewer than two are connected)"
    said += " that share connections while they wait" if facts.plan.sharing else ""
    needed, room = _needed(facts.plan, nodes, sharing=facts.plan.sharing)
    shared = sum(_needed(facts.plan, nodes, sharing=True))
    other = f'; or [postgres] standby_connections = "shared" on every node: {shared} are enough, with that room'
    findings = [found for limit in facts.limits if (found := _within(limit, said, needed, room))]
    for found in findings:
        yield replace(found, sentence=found.sentence + (other if shared < needed + room else ""))
    if not findings:
        free = min(limit.total - limit.others for limit in facts.limits)
        yield fine(f"{said} need {needed} connections; {free} are there for them")


def _needed(plan: Plan, nodes: int, *, sharing: bool) -> tuple[int, int]:
    """Return how many connections all nodes need, and for how many more there should be room when one of them is lost.

    Each node needs a connection for each program and one that listens; with several hosts, one more to ask them. Where
    waiting programs share some, only leaders have one each, and a silent leader's program has some opened ahead.
    """
    rest = 1 if plan.hosts == 1 else 2
    if not sharing:
        return nodes * (plan.programs + rest), plan.programs + rest
    ahead = max(nodes - 2, 0) * min(plan.programs, AHEAD)  # those of the node that leads then count as programs
    return plan.programs + nodes * (rest + WARM), plan.programs + rest + WARM + ahead


def _within(limit: Limit, said: str, needed: int, each: int) -> Finding | None:
    free = limit.total - limit.others
    others = f" (others use {limit.others} now)" if limit.others else ""
    if needed > free:
        return problem(
            f"{said} need {needed} connections, but {limit.name} leaves {max(free, 0)}{others}; "
            f"{limit.raised(needed + each + limit.others)}"
        )
    if needed + each > free:
        return warning(
            f"{said} need {needed} connections, and {limit.name} leaves {free}; connections of a lost host stay for up "
            f"to a lease, so leave room for one node more: {limit.raised(needed + each + limit.others)}"
        )
    return None


def _replication(facts: Facts) -> Iterator[Finding]:
    names = facts.replication.names
    if facts.replication.hangs:
        yield problem(
            f"synchronous_standby_names is {names!r}, but no such standby is attached: every write hangs, and nothing "
            "can be led; start the standby, or change synchronous_standby_names"
        )
    elif facts.replication.standbys and not names:
        whom = "standbys" if facts.replication.synchronous is not None else "standbys (or mere backups)"
        yield warning(
            f"{whom} are attached, but synchronous_standby_names is empty: an old primary that is cut off and still "
            "serves some nodes can have a second leader; name a synchronous standby, or let your "
            "failover software stop the old primary first"
        )
    elif names:
        yield fine(f"commits wait for a synchronous standby ({names})")
    unseen = facts.replication.synchronous is None and facts.replication.standbys
    if unseen and every_commit_waits_for(names) != unseen:
        yield warning(
            f"role {facts.server_facts.role} may not see what standbys have received, so maintenance and a longer "
            f"lease will be refused; GRANT pg_monitor TO {identifier(facts.server_facts.role)}"
        )


def _speed(facts: Facts) -> Iterator[Finding]:
    lease = facts.ledger_lease or facts.plan.lease
    if facts.host.seconds > lease.renew_every:
        yield problem(
            f"connecting took {_shown(facts.host.seconds)}, and a daemon gives up after {_shown(lease.renew_every)}, a "
            "fifth of the lease; bring the server nearer, or take a longer lease"
        )
    measured = [("an answer", facts.answers), ("a durable commit", facts.writes)]
    findings = [found for what, times in measured if times and (found := _in_time(what, times, lease))]
    yield from findings
    if not findings:
        said = " and ".join(f"{what} takes {_shown(median(times))}" for what, times in measured if times)
        yield fine(f"{said} (medians); a renewal is due every {_shown(lease.renew_every)}")


def _in_time(what: str, times: tuple[float, ...], lease: Lease) -> Finding | None:
    usual, longest = median(times), max(times)
    if longest > lease.answer_within:
        return problem(
            f"{what} took up to {_shown(longest)}; a daemon gives a session up after {_shown(lease.answer_within)}: "
            "find out what is slow, or take a longer lease"
        )
    if usual > lease.length / SLOW:
        return warning(
            f"{what} takes {_shown(usual)}, which is much for a lease of {_shown(lease.length)}; find out what is "
            "slow, or take a longer lease"
        )
    return None


def _clock(facts: Facts) -> Iterator[Finding]:
    apart = abs(facts.ahead)
    if apart >= CLOCKS_APART:
        yield warning(
            f"the server's clock is {_shown(apart)} {'ahead of' if facts.ahead > 0 else 'behind'} this host's; nothing "
            "is decided by it, but times in status and history will confuse you: synchronise both"
        )
    else:
        yield fine("the clocks of server and host agree to within a second; nothing is decided by them anyway")


def _shown(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


SUBJECTS: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    _durability,
    _replication,
    _ledger,
    _connections,
    _settings,
    _ends,
    _speed,
    _clock,
)
