"""The server of the small world: one program's rows, meta, advisory locks, and the sessions that are connected.

Each statement stands in for the constant of ``postgres/sql`` that its docstring names, committed by itself, with the
same conditions in the same order. ``tests/integration/test_session.py`` and ``test_session_servers.py`` hold the SQL
itself to them, on a real server. The verdict is not in here: it is the product's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from highlanderd.core.effects import Release
from highlanderd.core.lease import Lease
from highlanderd.core.observation import Meta, Observation, Row, ServerIdentity
from highlanderd.core.states import Reservation
from highlanderd.core.verdict import Claim, Settle

Who = tuple[str, int]
"""A session: its node and its number there."""

LOCK_ID, FORMER_ID, OTHER_ID, NAME_ID = 7, 6, 8, 1
"""The program's lock id, the one that it had before its key was changed, another node's for it, and its name's."""

LAST_LOCKERS = 2
"""Ticks for which transactions of others go on that were under way when they became the last ones."""


class Backend(NamedTuple):
    """The server's end of one session."""

    who: Who
    idle_since: float
    idle_limit: float
    """``idle_session_timeout``: the ledger's lease as its client knew it."""
    orphaned: bool = False
    """Its client is gone and the server has not noticed yet: it keeps its lock."""


class Ledger(NamedTuple):
    """What is committed, and what a standby therefore has, or had."""

    lease: Lease
    """The pace of everything."""
    ceiling: Lease
    """The longest lease that anybody may have been promised."""
    maintenance: Lease | None = None
    """What leaders are to write during maintenance."""
    place: str = "1"
    """Oids of database and tables, and the ledger's own id."""
    settled: tuple[int, int, str] | None = None
    settled_place: str = ""
    """Where it was last settled; no ``UNSETTLE`` clears it."""
    offsets: tuple[tuple[int, int], ...] = ((1, 0),)
    """(system, epoch offset)."""
    rows: tuple[Row, ...] = ()
    row_backends: tuple[tuple[int, Who], ...] = ()
    """By lock id, the session that is written in the row."""
    reserved_at: float = 0.0
    """When the row was released, for the world's own judgement on reservations."""

    def row(self, lock_id: int) -> Row | None:
        """Return the row of a lock id."""
        return next((row for row in self.rows if row.lock_id == lock_id), None)

    @property
    def wanted(self) -> Lease:
        """What leaders are to write at present."""
        return self.maintenance or self.lease


class Postgres(NamedTuple):
    """All that the coordinator is, as far as one program is concerned."""

    ledger: Ledger
    run: int = 1
    system: int = 1
    timeline: int = 1
    holders: tuple[tuple[int, Who], ...] = ()
    """By lock id, who has the advisory lock."""
    backends: tuple[Backend, ...] = ()
    standby: Ledger | None = None
    """What the standby that will be promoted has; it receives nothing any more."""
    isolated: bool = False
    """A primary whose synchronous standby is out of reach: what it writes is never acknowledged."""
    lockers: tuple[int, int] | None = None
    """Lock id and epoch for which transactions of others overlap that called ``assert_leader``."""
    lockers_end: float = 0.0
    """When the last of them ends, once the function refuses new ones."""
    subscribed: tuple[Row, ...] | None = None
    """What logical replication from the first server has brought so far; None where there is none."""

    def row(self, lock_id: int) -> Row | None:
        """Return the row of a lock id."""
        return self.ledger.row(lock_id)

    def holder(self, lock_id: int) -> Who | None:
        """Return the session that has the lock."""
        return dict(self.holders).get(lock_id)

    def backend(self, who: Who) -> Backend | None:
        """Return the server's end of a session, if it lives."""
        return next((one for one in self.backends if one.who == who), None)

    def connect(self, who: Who, now: float, idle_limit: float) -> Postgres:
        """Begin a session; it holds no lock."""
        return self._replace(backends=(*self.backends, Backend(who, now, idle_limit)))

    def end(self, who: Who) -> Postgres:
        """A session ends, whatever ended it, and its locks with it."""
        if self.backend(who) is None:
            return self
        return self.unlock(who)._replace(backends=tuple(one for one in self.backends if one.who != who))

    def free(self, lock_id: int, who: Who) -> bool:
        """Whether the lock can be granted to this session."""
        return self.holder(lock_id) in (None, who)

    def lock(self, lock_id: int, who: Who) -> Postgres:
        """Grant the lock to a session."""
        others = tuple(one for one in self.holders if one[0] != lock_id)
        return self._replace(holders=tuple(sorted((*others, (lock_id, who)))))

    def unlock(self, who: Who) -> Postgres:
        """Free all locks of a session."""
        return self._replace(holders=tuple(one for one in self.holders if one[1] != who))

    def orphan(self, who: Who) -> Postgres:
        """The client of a session is gone without a word."""
        backends = tuple(one._replace(orphaned=True) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def touch(self, who: Who, now: float) -> Postgres:
        """A statement resets the idle timer."""
        backends = tuple(one._replace(idle_since=now) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def limit(self, who: Who, idle_limit: float) -> Postgres:
        """Set the idle timeout of a session."""
        backends = tuple(one._replace(idle_limit=idle_limit) if one.who == who else one for one in self.backends)
        return self._replace(backends=backends)

    def server(self) -> ServerIdentity:
        """Say which server answers."""
        return ServerIdentity(self.system, self.timeline, str(self.run), 0, self.ledger.place)

    def held_up(self, row: Row) -> bool:
        """Whether a change of this row's key columns has to wait for transactions of others."""
        return self.lockers == (row.lock_id, row.epoch)

    def restart(self) -> Postgres:
        """All sessions end; what was committed stays."""
        return self._replace(run=self.run + 1, backends=(), holders=(), lockers=None)

    def upgrade(self) -> Postgres:
        """Run on under a new system identifier, as after pg_upgrade."""
        return self.restart()._replace(system=self.system + 1, timeline=1)

    def promoted(self) -> Postgres:
        """Return the standby as the new primary."""
        new = self.restart()._replace(timeline=self.timeline + 1, standby=None, isolated=False)
        return new if self.standby is None else new._replace(ledger=self.standby)

    def write(self, row: Row, who: Who | None = None) -> Postgres:
        """Commit a row; ``who`` is written into it when given."""
        rows = tuple(one for one in self.ledger.rows if one.lock_id != row.lock_id)
        rows = tuple(sorted((*rows, row), key=lambda one: one.lock_id))
        backends = self.ledger.row_backends
        if who is not None:
            backends = tuple(sorted((*(one for one in backends if one[0] != row.lock_id), (row.lock_id, who))))
        return self._replace(ledger=self.ledger._replace(rows=rows, row_backends=backends))

    def offset(self) -> int | None:
        """Return the epoch offset of the present system, once the ledger has settled on it."""
        return dict(self.ledger.offsets).get(self.system)


class Reply(NamedTuple):
    """What a statement answered. ``granted`` is the lock's part, ``changed`` the row's."""

    granted: bool = True
    changed: bool = True
    observation: Observation | None = None
    acknowledged: bool = True
    """No WARNING came with it."""
    lengths: tuple[Lease, Lease] | None = None
    """Of a renewal: what the ledger wants next, and its pace."""
    blocked: bool = False
    """It waited for other transactions until its time limit ended it."""


class Flaws(NamedTuple):
    """What a mutation breaks in the SQL. The defaults are ``postgres/sql``."""

    compares_version: bool = True
    compares_settled: bool = True
    compares_place: bool = True
    compares_ceiling: bool = True
    update_needs_grant: bool = True
    settles_present: bool = False
    settles_generation: bool = True
    reads_other_rows: bool = True
    refuses_other_rows: bool = True
    """The takeover refuses beside another unreleased row of the program."""
    locks_name: bool = True
    closes_first: bool = True
    takes_closed_only: bool = True
    """The takeover changes a row that is released already, by its leader or by the closing."""


class LookAt(NamedTuple):
    """``LOOK_WITHOUT_HISTORY``: a plain SELECT of the server's identity, ``meta``, and the lock id's or program's rows.

    History only ever raises an epoch; without it, epochs have to be right as well.
    """

    lock_id: int
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Lock nothing."""
        others = tuple(row for row in pg.ledger.rows if row.lock_id != self.lock_id)
        others = others if self.flaws.reads_other_rows else ()
        return pg, Reply(observation=Observation(pg.server(), meta(pg), pg.row(self.lock_id), others))


def meta(pg: Postgres) -> Meta:
    """Say what the ledger says of itself."""
    ledger = pg.ledger
    return Meta(ledger.lease, ledger.settled, pg.offset(), ledger.wanted, ledger.ceiling)


class LockName(NamedTuple):
    """``NAME``: try the lock of the program's name."""

    flaws: Flaws

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Write nothing."""
        if not self.flaws.locks_name:
            return pg, Reply(changed=False)
        free = pg.free(NAME_ID, who)
        return pg.lock(NAME_ID, who) if free else pg, Reply(granted=free, changed=False)


class CloseIf(NamedTuple):
    """``CLOSE``: mark a term that was waited out as released, if it still is the version judged; no key changes."""

    row: Row
    server: ServerIdentity
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Never write system or timeline."""
        row, server = pg.row(self.row.lock_id), self.server
        same = row is not None and _as_judged(row, self.row, self.row.renewal) and not row.released
        here = (pg.system, pg.timeline) == (server.system, server.timeline)
        if row is None or not same or not here or not _same_place(pg, server, self.flaws):
            return pg, Reply(changed=False)
        row = replace(row, renewal=row.renewal + 1, released=True, reason="lapsed")
        return pg.write(replace(row, reserved_for=None, reserved_seconds=0.0)), Reply()


class TakeOverIf(NamedTuple):
    """``TAKE_OVER`` and ``FIRST_TAKE_OVER``: try the locks, and only if granted update exactly the version judged."""

    claim: Claim
    lock_id: int
    node: str
    instance: str
    flaws: Flaws
    alone: bool | None = None
    """Whether no other row of the program was unreleased when the statement began; None when it begins now."""

    def begun(self, pg: Postgres) -> TakeOverIf:
        """Return the statement with what it will see of other rows, whatever others commit before it is granted."""
        return self._replace(alone=self._alone(pg))

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Insert where there was no row."""
        alone = self._alone(pg) if self.alone is None else self.alone
        pg, granted = _granted(pg, self.lock_id, who, self.flaws)
        if not granted:
            return pg, Reply(granted=False, changed=False)
        if not (self._fits(pg) and (alone or not self.flaws.refuses_other_rows)):
            return pg, Reply(changed=False)
        before = pg.row(self.lock_id)
        if before is not None and pg.held_up(before):
            return pg, Reply(changed=False, blocked=True)
        renewal = before.renewal + 1 if before else 1
        epoch, server, lease = self.claim.epoch, (pg.system, pg.timeline), self.claim.lengths.trusted.length
        row = Row(self.lock_id, "beat", epoch, renewal, self.node, self.instance, *server, False, lease)
        return pg.write(row, who), Reply()

    def _alone(self, pg: Postgres) -> bool:
        return all(row.released or row.lock_id == self.lock_id for row in pg.ledger.rows)

    def _fits(self, pg: Postgres) -> bool:
        claim, row = self.claim, pg.row(self.lock_id)
        if (pg.system, pg.timeline) != (claim.server.system, claim.server.timeline):
            return False
        if not _same_place(pg, claim.server, self.flaws):
            return False
        if self.flaws.compares_settled and not Observation(pg.server(), meta(pg), row).settled:
            return False
        if self.flaws.compares_ceiling and claim.lengths.trusted.length > pg.ledger.ceiling.length:
            return False
        if claim.judged is None or row is None:
            return claim.judged is None and row is None
        closed = claim.judged in claim.closing and self.flaws.closes_first
        if self.flaws.closes_first and self.flaws.takes_closed_only and not row.released:
            return False  # a late renewal has the number that the closing would have had
        return not self.flaws.compares_version or _as_judged(row, claim.judged, claim.judged.renewal + closed)


class RenewIf(NamedTuple):
    """``RENEW``, and on a session without the lock ``REATTACH``, which takes it back in the same statement."""

    lock_id: int
    epoch: int
    instance: str
    asked: Lease
    takes_lock: bool
    flaws: Flaws

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Change the row only if the term is still ours, and the ledger promises a lease as long as the one asked."""
        if self.takes_lock:
            pg, granted = _granted(pg, self.lock_id, who, self.flaws)
            if not granted:
                return pg, Reply(granted=False, changed=False)
        row = _ours(pg, self.lock_id, self.epoch, self.instance)
        promised = self.asked.length <= pg.ledger.ceiling.length or not self.flaws.compares_ceiling
        if row is None or not promised:
            return pg, Reply(changed=False)
        row = replace(row, renewal=row.renewal + 1, system=pg.system, timeline=pg.timeline)
        row = replace(row, trusted_for=self.asked.length)
        return pg.write(row, who if self.takes_lock else None), Reply(lengths=(pg.ledger.wanted, pg.ledger.lease))


class TerminateOld(NamedTuple):
    """``TERMINATE_OLD``: end our own former sessions, those that the worker remembers and the one in our row."""

    lock_id: int
    epoch: int
    instance: str
    first: int
    """Number of the first session that this worker remembers."""

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Leave everybody else's."""
        old = {one.who for one in pg.backends if one.who[0] == who[0] and self.first <= one.who[1] < who[1]}
        written = dict(pg.ledger.row_backends).get(self.lock_id)
        if written is not None and written != who and _ours(pg, self.lock_id, self.epoch, self.instance):
            old.add(written)
        for one in sorted(old):
            pg = pg.end(one)
        return pg, Reply()


class ReleaseIf(NamedTuple):
    """``RELEASE``: mark the row released, whatever the server; it never writes system or timeline."""

    lock_id: int
    release: Release
    instance: str
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing when the term was overtaken."""
        row = _ours(pg, self.lock_id, self.release.epoch, self.instance)
        if row is None:
            return pg, Reply(changed=False)
        kept: Reservation | None = self.release.reservation
        row = replace(
            row,
            renewal=row.renewal + 1,
            released=True,
            reason=self.release.cause.value,
            reserved_for=kept.node if kept else None,
            reserved_seconds=kept.seconds if kept else 0.0,
        )
        return pg.write(row), Reply()


class UnlockAll(NamedTuple):
    """``UNLOCK``."""

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Free the locks that this session has; that writes nothing."""
        return pg.unlock(who), Reply(changed=False)


class Notify(NamedTuple):
    """``NOTIFY``: tell the listeners; who hears it is the world's affair."""

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing."""
        return pg, Reply(changed=False)


class SettleOn(NamedTuple):
    """``SETTLE``: write the literals that were waited for, where the server shows exactly these."""

    settle: Settle
    generation: int
    """The upper half of the highest epoch that the node has ever seen."""
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Return the system its epoch offset with it."""
        settle, present = self.settle, (pg.system, pg.timeline, pg.ledger.place)
        if not self.flaws.settles_present:
            if present[:2] != (settle.system, settle.timeline):
                return pg, Reply(changed=False)
            if self.flaws.compares_place and pg.ledger.place != settle.place:
                return pg, Reply(changed=False)
        offsets, before = dict(pg.ledger.offsets), pg.ledger.settled_place
        generation = self.generation if self.flaws.settles_generation else -1
        if pg.system in offsets and before in ("", pg.ledger.place):
            offsets[pg.system] = max(offsets[pg.system], generation + 2 - pg.timeline)
        else:
            offsets[pg.system] = max(generation, *(row.epoch >> 32 for row in pg.ledger.rows), -1) + 1
        ledger = pg.ledger._replace(settled=present, settled_place=pg.ledger.place, offsets=tuple(offsets.items()))
        return pg._replace(ledger=ledger), Reply()


class Unsettle(NamedTuple):
    """``UNSETTLE``: what this ledger holds has gone back, and everybody has to wait once more."""

    system: int
    timeline: int

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Change nothing where it is not settled for that server."""
        settled = pg.ledger.settled
        if settled is None or settled[:2] != (self.system, self.timeline):
            return pg, Reply(changed=False)
        return pg._replace(ledger=pg.ledger._replace(settled=None)), Reply()


Statement = (
    LookAt
    | LockName
    | CloseIf
    | TakeOverIf
    | RenewIf
    | TerminateOld
    | ReleaseIf
    | UnlockAll
    | Notify
    | SettleOn
    | Unsettle
)
WRITES = CloseIf | TakeOverIf | RenewIf | ReleaseIf | SettleOn | Unsettle


def _ours(pg: Postgres, lock_id: int, epoch: int, instance: str) -> Row | None:
    row = pg.row(lock_id)
    ours = row is not None and row.epoch == epoch and row.instance == instance and not row.released
    return row if ours else None


def _granted(pg: Postgres, lock_id: int, who: Who, flaws: Flaws) -> tuple[Postgres, bool]:
    """Try the lock of the name and then the program's own; what was granted stays until it is unlocked."""
    for one in (NAME_ID, lock_id) if flaws.locks_name else (lock_id,):
        if pg.free(one, who):
            pg = pg.lock(one, who)
        elif flaws.update_needs_grant:
            return pg, False
    return pg, True


def _as_judged(row: Row, judged: Row, renewal: int) -> bool:
    same = row.version == (judged.epoch, renewal)
    return same and (row.system, row.timeline) == (judged.system, judged.timeline)


def _same_place(pg: Postgres, server: ServerIdentity, flaws: Flaws) -> bool:
    return pg.ledger.place == server.place or not flaws.compares_place
