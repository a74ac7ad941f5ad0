"""The server of the small world: one program's rows, meta, advisory locks, and the sessions that are connected.

Each statement stands in for the constant of ``ledger.py`` that its docstring names, committed by itself, with the same
conditions in the same order. ``tests/integration/test_session.py`` and ``test_session_servers.py`` hold the SQL itself
to them, on a real server. The verdict is not in here: it is the product's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from highlanderd.core.lease import Claim, Lease, Meta, Row, Server, Settle, Sight
from highlanderd.core.words import Release, Reservation

Who = tuple[str, int]
"""A session: its node and its number there."""

LOCK_ID, FORMER_ID = 7, 6
"""The program's lock id, and the one that it had before its key was changed."""


class Backend(NamedTuple):
    """The server's end of one session."""

    who: Who
    idle_since: float
    orphaned: bool = False
    """Its client is gone and the server has not noticed yet: it keeps its lock."""


class Ledger(NamedTuple):
    """What is committed, and what a standby therefore has, or had."""

    settled: tuple[int, int] | None = None
    offsets: tuple[tuple[int, int], ...] = ((1, 0),)
    """(system, epoch offset)."""
    rows: tuple[Row, ...] = ()
    row_backends: tuple[tuple[int, Who], ...] = ()
    """By lock id, the session that is written in the row."""
    reserved_at: float = 0.0
    """When the row was released, for the world's own judgement on reservations."""

    def row(self, lock_id: int) -> Row | None:
        """Give the row of a lock id."""
        return next((row for row in self.rows if row.lock_id == lock_id), None)


class Postgres(NamedTuple):
    """All that the coordinator is, as far as one program is concerned."""

    lease: Lease
    ledger: Ledger = Ledger()
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

    def row(self, lock_id: int) -> Row | None:
        """Give the row of a lock id."""
        return self.ledger.row(lock_id)

    def holder(self, lock_id: int) -> Who | None:
        """Give the session that has the lock."""
        return dict(self.holders).get(lock_id)

    def backend(self, who: Who) -> Backend | None:
        """Give the server's end of a session, if it lives."""
        return next((one for one in self.backends if one.who == who), None)

    def connect(self, who: Who, now: float) -> Postgres:
        """Begin a session; it holds no lock."""
        return self._replace(backends=(*self.backends, Backend(who, now)))

    def end(self, who: Who) -> Postgres:
        """A session ends, whatever ended it, and its locks with it."""
        if self.backend(who) is None:
            return self
        return self.unlock(who)._replace(backends=tuple(one for one in self.backends if one.who != who))

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

    def restart(self) -> Postgres:
        """All sessions end; what was committed stays."""
        return self._replace(run=self.run + 1, backends=(), holders=())

    def upgrade(self) -> Postgres:
        """Run on under a new system identifier, as after pg_upgrade."""
        return self.restart()._replace(system=self.system + 1, timeline=1)

    def promoted(self) -> Postgres:
        """Give the standby as the new primary."""
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
        """Give the epoch offset of the present system, once the ledger has settled on it."""
        return dict(self.ledger.offsets).get(self.system)


class Reply(NamedTuple):
    """What a statement answered. ``granted`` is the lock's part, ``changed`` the row's."""

    granted: bool = True
    changed: bool = True
    sight: Sight | None = None
    acknowledged: bool = True
    """No WARNING came with it."""


class Flaws(NamedTuple):
    """What a mutation breaks in the SQL. The defaults are ``ledger.py``."""

    compares_version: bool = True
    compares_settled: bool = True
    update_needs_grant: bool = True
    release_writes_timeline: bool = False
    settles_present: bool = False
    reads_other_rows: bool = True


class LookAt(NamedTuple):
    """``LOOK``: a plain SELECT of the server's identity, ``meta``, and the rows of the lock id or of the program."""

    lock_id: int
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Lock nothing."""
        server = Server(pg.system, pg.timeline, str(pg.run), 0)
        others = tuple(row for row in pg.ledger.rows if row.lock_id != self.lock_id)
        meta = Meta(pg.lease, pg.ledger.settled, pg.offset())
        return pg, Reply(sight=Sight(server, meta, pg.row(self.lock_id), others if self.flaws.reads_other_rows else ()))


class TakeOverIf(NamedTuple):
    """``TAKE_OVER`` and ``FIRST_TAKE_OVER``: try the lock, and only if granted update exactly the version judged."""

    claim: Claim
    lock_id: int
    node: str
    instance: str
    flaws: Flaws

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Insert where there was no row."""
        free = pg.holder(self.lock_id) in (None, who)
        if not free and self.flaws.update_needs_grant:
            return pg, Reply(granted=False, changed=False)
        pg = pg.lock(self.lock_id, who) if free else pg
        if not self._fits(pg):
            return pg, Reply(changed=False)
        before = pg.row(self.lock_id)
        renewal = before.renewal + 1 if before else 1
        epoch, server = self.claim.epoch, (pg.system, pg.timeline)
        return pg.write(
            Row(self.lock_id, "beat", epoch, renewal, self.node, self.instance, *server, False), who
        ), Reply()

    def _fits(self, pg: Postgres) -> bool:
        claim, row = self.claim, pg.row(self.lock_id)
        if (pg.system, pg.timeline) != (claim.system, claim.timeline):
            return False
        settled = pg.ledger.settled == (pg.system, pg.timeline) or not self.flaws.compares_settled
        if claim.judged is None or row is None:
            return claim.judged is None and row is None and settled
        if not self.flaws.compares_version:
            return True
        same_server = (row.system, row.timeline) == (claim.judged.system, claim.judged.timeline)
        here = (row.system, row.timeline) == (pg.system, pg.timeline)
        return row.version == claim.judged.version and same_server and (settled or here)


class RenewIf(NamedTuple):
    """``RENEW``, and on a session without the lock ``REATTACH``, which takes it back in the same statement."""

    lock_id: int
    epoch: int
    instance: str
    takes_lock: bool
    flaws: Flaws

    def on(self, pg: Postgres, who: Who) -> tuple[Postgres, Reply]:
        """Change the row only if the term is still ours."""
        free = pg.holder(self.lock_id) in (None, who)
        if self.takes_lock:
            if not free and self.flaws.update_needs_grant:
                return pg, Reply(granted=False, changed=False)
            pg = pg.lock(self.lock_id, who) if free else pg
        row = _ours(pg, self.lock_id, self.epoch, self.instance)
        if row is None:
            return pg, Reply(changed=False)
        row = replace(row, renewal=row.renewal + 1, system=pg.system, timeline=pg.timeline)
        return pg.write(row, who if self.takes_lock else None), Reply()


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
        if self.flaws.release_writes_timeline:
            row = replace(row, system=pg.system, timeline=pg.timeline)
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
    flaws: Flaws

    def on(self, pg: Postgres, _who: Who) -> tuple[Postgres, Reply]:
        """Give the system its epoch offset with it."""
        present = pg.system, pg.timeline
        if present != (self.settle.system, self.settle.timeline) and not self.flaws.settles_present:
            return pg, Reply(changed=False)
        offsets = pg.ledger.offsets
        if pg.offset() is None:
            offsets = (*offsets, (pg.system, max((row.epoch >> 32 for row in pg.ledger.rows), default=-1) + 1))
        return pg._replace(ledger=pg.ledger._replace(settled=present, offsets=offsets)), Reply()


Statement = LookAt | TakeOverIf | RenewIf | TerminateOld | ReleaseIf | UnlockAll | Notify | SettleOn
WRITES = TakeOverIf | RenewIf | ReleaseIf | SettleOn


def _ours(pg: Postgres, lock_id: int, epoch: int, instance: str) -> Row | None:
    row = pg.row(lock_id)
    ours = row is not None and row.epoch == epoch and row.instance == instance and not row.released
    return row if ours else None
