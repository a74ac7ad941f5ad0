"""Turns what lives on this node into the frozen snapshots that people and machines see. Reads, changes nothing."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

from msgspec import Struct

from highlanderd.config import ProgramConfig
from highlanderd.config.probes import Delay
from highlanderd.core.cluster import ClusterOverview, Held
from highlanderd.core.key import LockKey
from highlanderd.core.states import Leading, Preparing, Ready, Running, Waiting, Want
from highlanderd.core.status import LastExit, PostgresStatus, Process, ProgramDetail, ProgramStatus, Usage
from highlanderd.core.terms import exit_of
from highlanderd.durations import rfc_3339
from highlanderd.postgres.lease_change import summary
from highlanderd.postgres.pool import Pool
from highlanderd.postgres.survey import Leader
from highlanderd.postgres.takeover import ROW_LOCKED
from highlanderd.system.linux import boottime
from highlanderd.worker.member import Member
from highlanderd.worker.processes import Tree
from highlanderd.worker.unkillable import unkillable, unkillable_words

log = logging.getLogger(__name__)


class View(Struct, frozen=True):
    """From where and when programs are seen: it is the same for all of one snapshot."""

    pool: Pool
    node: str
    overview: ClusterOverview | None
    """Without one it is not known who else could lead a program."""
    now: float
    """In CLOCK_BOOTTIME seconds."""
    ahead: float
    """Seconds that the wall clock is ahead of CLOCK_BOOTTIME."""

    def wall(self, moment: float) -> str:
        """Return a moment as ``wall`` does."""
        return _written(moment, self.ahead)


def view(pool: Pool, node: str, overview: ClusterOverview | None = None) -> View:
    """Return the view at this moment of the node of that name."""
    now = boottime()
    return View(pool, node, overview, now, _ahead(now))


def program_status(member: Member, seen: View, usage: Usage | None = None) -> ProgramStatus:
    """Return one program as this node sees it."""
    program, now = member.program, seen.now
    situation, term, running, next_run = program.situation, program.term, program.running, program.next_run
    leader, epoch = _leader(member, seen)
    left = unkillable(member)
    known = None if seen.overview is None else seen.overview.program(program.name)
    return ProgramStatus(
        name=program.name,
        state=program.state,
        want="run" if _wish(member) is Want.RUN else "stop",
        reason=_reason(member, seen.pool, left),
        since=seen.wall(program.entered),
        leader=leader,
        epoch=epoch,
        lock_id=member.lock_id,
        pid=program.pid,
        ready=isinstance(running, Ready) and not left,
        failures=situation.failures,
        restarts=max(0, program.restarts),
        lease_remaining=max(0.0, term.trusted_until - now) if term is not None else None,
        started=seen.wall(running.since) if running is not None else None,
        uptime=now - running.since if running is not None else None,
        description=member.spawner.config.description,
        connected=member.session.connected,
        unkillable=left,
        detached=program.detached,
        last_exit=_last_exit(member, seen),
        stopped=_stopped(member),
        finished=isinstance(situation.state, Waiting) and situation.state.finished,
        next_run=None if next_run is None else rfc_3339(next_run),
        idle=program.idle,
        candidates=None if known is None else len(known.candidates),
        drift=None if known is None else len(known.drift),
        suspended=situation.suspension is not None,
        usage=usage,
    )


def _leader(member: Member, seen: View) -> tuple[str | None, int | None]:
    """Return the node that leads the program, and the epoch of the latest term that is known."""
    if (term := member.program.term) is not None:
        return seen.node, term.epoch
    pool = seen.pool
    latest, ours = pool.listener.leaders.get(member.lock_id), member.program.policy.instance
    if latest is not None and latest.instance != ours and pool.listener.knows_led(member.lock_id):
        return latest.node, latest.epoch
    other = _under_another_key(member, pool)
    return None if other is None else other[1].node, None if latest is None else latest.epoch


def _wish(member: Member) -> Want:
    """Return the operator's wish, which the program may still have to hear. What leaves cannot be called back."""
    want = member.program.situation.want
    return want if want is Want.END or member.wish is None else member.wish


def _stopped(member: Member) -> Held | None:
    """Return the order that keeps it stopped on every node."""
    found = member.program.situation.suspension
    return None if found is None or found.drained else Held(found.author, found.remark, found.since)


def _last_exit(member: Member, seen: View) -> LastExit | None:
    found = member.program.last_exit
    if found is None:
        return None
    event, epoch = found
    return LastExit(seen.wall(event.at), epoch, *exit_of(event.status), member.program.policy.succeeds(event.status))


def is_ready(member: Member) -> bool:
    """Return whether its child on this node does its work, as its key ``ready`` says it."""
    return isinstance(member.program.running, Ready)


def turns_at(member: Member) -> float | None:
    """Return when time alone makes its child ready, ends its term or lets it be led here: CLOCK_BOOTTIME seconds."""
    running, ready = member.program.running, member.spawner.config.ready
    if isinstance(running, Running) and isinstance(ready, Delay):
        return running.since + ready.seconds
    return member.program.turns_at


def _reason(member: Member, pool: Pool, left: tuple[Process, ...]) -> str:
    """Return why it is in its state. A candidate without a session waits for what keeps the pool from PostgreSQL."""
    situation = member.program.situation
    if left:
        return f"{situation.reason}; {unkillable_words(member, left)}".removeprefix("; ")
    if not isinstance(situation.state, Waiting):
        running = member.program.running
        if isinstance(situation.state, Leading) and isinstance(situation.state.child, Preparing):
            return "before_start runs"
        lack = f"not ready yet: {running.lack}" if isinstance(running, Running) and running.lack else ""
        return situation.reason or lack
    if not member.session.connected and pool.last_error:
        return pool.last_error
    leader = pool.listener.leaders.get(member.lock_id)
    if situation.reason == ROW_LOCKED:  # the row still names the last leader, who is gone
        return situation.reason
    if leader is not None and leader.leads:
        twin = leader.node == member.program.policy.node and leader.instance != member.program.policy.instance
        us = f'node "{leader.node}" as it was before its restart, or by another daemon of that name'
        return f"led by {us if twin else leader.node}"
    if (other := _under_another_key(member, pool)) is not None:
        return f"led by {other[1].node} under another lock key (lock id {other[0]}): give it one lock_key on all nodes"
    released = leader is not None and situation.reason == f"led by {leader.node}"  # which the next look will see
    return "" if released else situation.reason


def _under_another_key(member: Member, pool: Pool) -> tuple[int, Leader] | None:
    """Return who leads the program because another file gives it another lock key, and that lock id."""
    leader = pool.listener.leaders.get(member.lock_id)
    if leader is not None and leader.leads:
        return None
    found = pool.listener.terms_of(member.program.name)
    return next(((key, one) for key, one in found if pool.listener.knows_led(key)), None)


def shown(member: Member, seen: View, usage: Usage | None) -> ProgramStatus:
    """Return one program as this node sees it; only its name and state, and why, when the rest cannot be shown."""
    try:
        return program_status(member, seen, usage)
    except Exception as error:  # the others are to be shown all the same
        log.exception("%s: cannot be shown", member.program.name)
        return ProgramStatus(
            name=member.program.name,
            state=member.program.state,
            want="run" if member.program.situation.want is Want.RUN else "stop",
            reason=f"cannot be shown ({error!r}), which is a fault of highlanderd",
            since=seen.wall(member.program.entered),
            leader=None,
            epoch=None,
            lock_id=member.lock_id,
            pid=None,
            ready=False,
            failures=0,
            restarts=0,
            lease_remaining=None,
            started=None,
            uptime=None,
            description="",
            connected=False,
        )


def program_detail(member: Member, seen: View, tree: Tree) -> ProgramDetail:
    """Return everything about one program but its secrets: no values of variables, no expanded arguments."""
    config: ProgramConfig = member.spawner.config
    status = program_status(member, seen)
    return ProgramDetail(
        status=status,
        lock_key=_shown(config.key),
        command=config.command,
        directory=None if config.directory is None else str(config.directory),
        user=None if config.user is None else str(config.user),
        environment=tuple(sorted(config.environment)),
        processes=tree.processes,
        more_processes=tree.more,
        output=tuple(line.text for line in member.spawner.output.last()),
        stdout=config.stdout,
        stderr=config.stderr,
        unwritable=member.spawner.output.troubles,
    )


def _shown(key: LockKey) -> str:
    return f"[{key[0]}, {key[1]}]" if isinstance(key, tuple) else str(key)


def postgres_status(pool: Pool, connections: int) -> PostgresStatus:
    """Return PostgreSQL as this node sees it, with the lengths of leases that the last survey found."""
    server, facts = pool.server, pool.listener.facts
    lengths = None if facts is None else summary(facts, pool.listener.leaders.values())
    return PostgresStatus(
        connected=pool.connected,
        server=server.address,
        version=server.version,
        trouble=pool.last_error,
        lease=server.lease.length,
        timeline=server.timeline,
        connections=connections,
        lease_in_force=server.lease.length if lengths is None else lengths.in_force,
        ceiling=server.lease.length if lengths is None else lengths.ceiling,
        replaced_within=server.lease.replaced_within if lengths is None else lengths.replaced_within,
        schema=server.schema,
    )


def wall(moment: float, now: float) -> str:
    """Return a CLOCK_BOOTTIME moment as RFC 3339, by today's wall clock: for people, never for decisions."""
    return _written(moment, _ahead(now))


def _ahead(now: float) -> float:
    """Return by how much the wall clock is ahead of CLOCK_BOOTTIME, to a millisecond: each text is made once then."""
    return round(time.time() - now, 3)


@lru_cache(maxsize=8192)
def _written(moment: float, ahead: float) -> str:
    return rfc_3339(round(moment + ahead, 3))
