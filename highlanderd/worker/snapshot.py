"""From what lives on this node to the frozen snapshots that people and machines are shown. Reads, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from highlanderd.config import ProgramConfig
from highlanderd.core.states import Waiting, Want
from highlanderd.core.status import PostgresStatus, Process, ProgramDetail, ProgramStatus
from highlanderd.postgres.lease_change import summary
from highlanderd.postgres.listener import Leader
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.session import ROW_LOCKED
from highlanderd.system.linux import boottime
from highlanderd.worker.fleet import Member

READY_AFTER: Final = 1.0
"""Seconds after which a running child counts as ready: most that are broken have ended by then."""
NAMED: Final = 5
"""Processes that are named in a sentence."""


def program_status(member: Member, pool: Pool, node: str) -> ProgramStatus:
    """Show one program."""
    program, now = member.program, boottime()
    situation, term, running = program.situation, program.term, program.running
    leader = pool.listener.leaders.get(member.lock_id)
    unkillable = _undying(member)
    led_elsewhere = leader is not None and leader.leads and leader.instance != program.policy.instance
    return ProgramStatus(
        name=program.name,
        state=program.state,
        want="run" if situation.want is Want.RUN else "stop",
        reason=_reason(member, pool, unkillable),
        since=wall(program.entered, now),
        leader=node if term is not None else leader.node if leader is not None and led_elsewhere else None,
        epoch=term.epoch if term is not None else leader.epoch if leader is not None else None,
        lock_id=member.lock_id,
        pid=program.child.pid if term is not None and program.child is not None else None,
        ready=running is not None and not unkillable and now - running.since >= READY_AFTER,
        failures=situation.failures,
        restarts=max(0, program.restarts),
        lease_remaining=max(0.0, term.trusted_until - now) if term is not None else None,
        started=wall(running.since, now) if running is not None else None,
        uptime=now - running.since if running is not None else None,
        description=member.spawner.config.description,
        connected=member.session.connected,
        unkillable=unkillable,
    )


def _reason(member: Member, pool: Pool, unkillable: tuple[Process, ...]) -> str:
    """Say why it is in its state; a candidate without a session waits for what keeps the pool from PostgreSQL now."""
    situation, leader = member.program.situation, pool.listener.leaders.get(member.lock_id)
    if unkillable:
        return f"{situation.reason}; {_unkillable_words(member, unkillable)}".removeprefix("; ")
    if not isinstance(situation.state, Waiting):
        return situation.reason
    if not member.session.connected and pool.trouble:
        return pool.trouble
    if situation.reason == ROW_LOCKED:  # the row still names the last leader, who is gone
        return situation.reason
    return f"led by {leader.node}" if leader is not None and leader.leads else situation.reason


def program_detail(member: Member, pool: Pool, node: str) -> ProgramDetail:
    """Show everything about one program, but no secret: environment values and expanded arguments stay here."""
    config: ProgramConfig = member.spawner.config
    status = program_status(member, pool, node)
    return ProgramDetail(
        status=status,
        lock_key=str(config.key),
        command=config.command,
        directory=None if config.directory is None else str(config.directory),
        user=None if config.user is None else str(config.user),
        environment=tuple(sorted(config.environment)),
        processes=tuple(processes(status.pid)) if status.pid is not None else (),
        output=member.spawner.ring.lines(),
    )


def postgres_status(pool: Pool, connections: int) -> PostgresStatus:
    """Show the coordinator; the lengths of leases as the last survey showed them."""
    server, facts = pool.server, pool.listener.facts
    lengths = None if facts is None else summary(facts, pool.listener.leaders.values())
    return PostgresStatus(
        connected=pool.connected,
        server=server.place,
        version=server.version,
        trouble=pool.trouble,
        lease=server.lease.length,
        timeline=server.timeline,
        connections=connections,
        lease_in_force=server.lease.length if lengths is None else lengths.in_force,
        ceiling=server.lease.length if lengths is None else lengths.ceiling,
        replaced_within=server.lease.replaced_within if lengths is None else lengths.replaced_within,
        schema=server.schema,
    )


def duplicate_nodes(
    before: Mapping[int, Leader], after: Mapping[int, Leader], node: str, instance: str
) -> Iterator[str]:
    """Name the daemon that leads under our own name: not a former life of ours, for it has renewed since."""
    for lock_id, leader in after.items():
        known = before.get(lock_id)
        ours = leader.node == node and leader.instance != instance
        if ours and leader.leads and known is not None and known.instance == leader.instance and known != leader:
            yield (
                f'another daemon also calls itself "{node}": no page can tell the two apart; give each its own '
                "daemon.node"
            )


def divided_keys(leaders: Mapping[int, Leader], instance: str) -> Iterator[str]:
    """Name each program that is led here and on another node, because that node's file gives it another lock key."""
    ours = {
        leader.program: lock_id for lock_id, leader in leaders.items() if leader.leads and leader.instance == instance
    }
    for lock_id, leader in leaders.items():
        if leader.leads and ours.get(leader.program, lock_id) != lock_id:
            yield (
                f"{leader.program} is led here under lock id {ours[leader.program]} and by {leader.node} under lock id "
                f"{lock_id}: two copies run; give it one lock_key on all nodes"
            )


def unkillable(members: Iterable[Member]) -> Iterator[tuple[str, str]]:
    """Return the programs whose trees do not die, each with a sentence about it."""
    for member in members:
        unkillable = _undying(member)
        if unkillable:
            yield (
                member.program.name,
                f"{member.program.name}: {_unkillable_words(member, unkillable)}; {_outlook(member)}",
            )


def _undying(member: Member) -> tuple[Process, ...]:
    child = member.program.child
    if child is None or not child.unkillable:
        return ()
    return tuple(process for process in map(_process, child.unkillable) if process is not None)


def _unkillable_words(member: Member, unkillable: tuple[Process, ...]) -> str:
    child = member.program.child
    since = child.killed_at if child is not None else None
    ago = "" if since is None else f" {boottime() - since:.0f} s ago"
    shown = ", ".join(f"{one.pid} ({one.name}, state {one.state})" for one in unkillable[:NAMED])
    more = f" and {len(unkillable) - NAMED} more" if len(unkillable) > NAMED else ""
    return f"SIGKILL was sent{ago} and does not end {shown}{more}"


def _outlook(member: Member) -> str:
    term = member.program.term
    if term is not None and boottime() < term.trusted_until:
        lock = "the lock is kept, because to release it would start a second copy"
    else:
        lock = "its lease has run out, so that another node may run a second copy beside it"
    return (
        f"{lock}. State D waits for a disk or a network file system, Z is held by the debugger that traces it: end "
        "that, or restart this host. The rest goes on by itself"
    )


def wall(moment: float, now: float) -> str:
    """Return a CLOCK_BOOTTIME moment as RFC 3339, by today's wall clock: for people, never for decisions."""
    when = datetime.now(UTC) - timedelta(seconds=now - moment)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def processes(pid: int) -> Iterator[Process]:
    """Return the tree that ``pid`` belongs to: everything below its keeper, as /proc shows it now."""
    known = {process.pid: process for process in _all_processes()}
    main = known.get(pid)
    if main is None:
        return
    parents = {main.parent}
    for process in sorted(known.values(), key=lambda process: process.pid):
        if process.parent in parents and (process.parent != main.parent or process.pid >= pid):
            parents.add(process.pid)
            yield process


def _all_processes() -> Iterator[Process]:
    for entry in Path("/proc").glob("[0-9]*"):
        process = _process(int(entry.name))
        if process is not None:
            yield process


def _process(pid: int) -> Process | None:
    """Return a process as /proc shows it now; None when it has ended and was taken note of."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    return Process(pid, int(rest[1]), name, rest[0])
